"""A fuzzer of shards: mutants of a small data set, and what each of them must come to."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.framing import FRAME_BYTES, HEADER_BYTES, frame, masked_crc32c
from trainer.data.layout import Layout, find_layout
from trainer.data.manifest import load_manifest, save_manifest, sha256_of
from trainer.data.records import explain_input_error, parse_record, read_records
from trainer.data.salvage import find_damage, write_clean_shards
from trainer.data.spec import DataError, DatasetSpec, describe_images
from trainer.data.writing import serialize_example, write_shards
from trainer.inputs import queues
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.running.session import open_session
from trainer.tf1 import tf

SHAPE, CLASSES, SHARDS, EXAMPLES = (4, 4, 1), 5, 3, 36
BATCH = 6


class Mutant(NamedTuple):
    path: Path  # of the shard that was changed
    before: bytes
    after: bytes


def write_small_set(folder: Path) -> Path:
    """Writes a set whose images hold their own number, so that a wrong batch shows."""
    folder.mkdir()
    rng = np.random.default_rng(1)

    def examples(first, count):
        for number in range(first, first + count):
            image = rng.integers(0, 256, SHAPE, np.uint8)
            image[0, 0, 0] = number
            yield image, number % CLASSES

    splits = {
        name: write_shards(examples(first, count), folder=folder, split=name, num_shards=shards, advance=lambda _: None)
        for name, first, count, shards in (("train", 0, EXAMPLES, SHARDS), ("validation", 40, 4, 1), ("test", 50, 6, 1))
    }
    names = tuple(str(number) for number in range(CLASSES))
    save_manifest(describe_images("digits", SHAPE, names, splits, folder, "made up"))
    return folder


def flip(rng, content, frames):
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def flips(rng, content, frames):
    for _ in range(rng.randint(2, 8)):
        flip(rng, content, frames)


def truncate(rng, content, frames):
    del content[rng.randrange(len(content)) :]


def zeros(rng, content, frames):
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randint(1, 3 * len(frames[0])))
    content[start:end] = bytes(end - start)


def cut_out(rng, content, frames):
    start = rng.randrange(len(content))
    del content[start : start + rng.randint(1, 2 * len(frames[0]))]


def insert(rng, content, frames):
    start = rng.randrange(len(content))
    content[start:start] = rng.randbytes(rng.randint(1, 100))


def swapped_lengths(rng, content, frames):
    """Another record's length in front of a record, with the checksum of that length."""
    number = rng.randrange(len(frames))
    length = struct.pack("<Q", rng.choice([0, 1, 10, 500, 10**6, 2**40, 2**63]))
    frames[number] = length + struct.pack("<I", masked_crc32c(length)) + frames[number][HEADER_BYTES:]
    content[:] = b"".join(frames)


def dropped_or_doubled(rng, content, frames):
    number = rng.randrange(len(frames))
    if rng.random() < 0.5:
        del frames[number]
    else:
        frames.insert(number, frames[number])
    content[:] = b"".join(frames)


def garbage_record(rng, content, frames):
    """A whole record that is no Example."""
    frames[rng.randrange(len(frames))] = frame(rng.randbytes(rng.randint(0, 200)))
    content[:] = b"".join(frames)


def wrong_features(rng, content, frames):
    example = tf.train.Example.FromString(_data(frames[0]))
    feature = example.features.feature
    name = rng.choice(["label", "image_raw"])
    change = rng.choice(["missing", "type", "many", "range"])
    if change == "missing":
        del feature[name]
    elif change == "type":
        feature[name].float_list.value[:] = [1.5]
    elif change == "many":
        feature["label"].int64_list.value[:] = [1, 2]
    else:
        feature["label"].int64_list.value[:] = [rng.choice([-1, CLASSES, 2**40])]
    frames[0] = frame(example.SerializeToString())
    content[:] = b"".join(frames)


def wrong_sizes(rng, content, frames):
    shape = rng.choice([(4, 5, 1), (2, 4, 1), (4, 4, 3), (1, 1, 1), (8, 8, 1)])
    frames[rng.randrange(len(frames))] = frame(serialize_example(np.zeros(shape, np.uint8), 1))
    content[:] = b"".join(frames)


def jpeg_for_raw(rng, content, frames):
    number = rng.randrange(len(frames))
    example = tf.train.Example.FromString(_data(frames[number]))
    with tf.Graph().as_default(), tf.Session() as session:
        jpeg = session.run(tf.io.encode_jpeg(tf.constant(np.zeros(SHAPE, np.uint8))))
    example.features.feature["image_raw"].bytes_list.value[:] = [jpeg]
    frames[number] = frame(example.SerializeToString())
    content[:] = b"".join(frames)


MUTATIONS = {
    mutation.__name__: mutation
    for mutation in (
        flip,
        flips,
        truncate,
        zeros,
        cut_out,
        insert,
        swapped_lengths,
        dropped_or_doubled,
        garbage_record,
        wrong_features,
        wrong_sizes,
        jpeg_for_raw,
    )
}


def _data(framed: bytes) -> bytes:
    return framed[HEADER_BYTES : HEADER_BYTES + len(framed) - FRAME_BYTES]


def mutate(folder: Path, kind: str, rng) -> Mutant:
    """Changes one training shard on disk."""
    shard = rng.choice(load_manifest(folder).splits["train"])
    path = folder / shard.file
    before = path.read_bytes()
    content, frames = bytearray(before), [frame(record) for record in read_records(path)]
    MUTATIONS[kind](rng, content, frames)
    path.write_bytes(content)
    return Mutant(path, before, bytes(content))


def agreeing(folder: Path, mutant: Mutant) -> DatasetSpec:
    """Makes sizes and checksums of the manifest agree with the mutant: only the readers can see the damage."""
    manifest = load_manifest(folder)
    shards = [
        dataclasses.replace(shard, num_bytes=len(mutant.after), sha256=sha256_of(mutant.path))
        if folder / shard.file == mutant.path
        else shard
        for shard in manifest.splits["train"]
    ]
    return dataclasses.replace(manifest, splits={**manifest.splits, "train": tuple(shards)})


def originals(folder: Path, mutant: Mutant) -> list[tuple[bytes, int]]:
    """Reads what the training set was before the mutation."""
    manifest, found = load_manifest(folder), []
    mutant.path.write_bytes(mutant.before)
    for shard in manifest.splits["train"]:
        for record in read_records(folder / shard.file):
            image, label = parse_record(record, manifest)
            found.append((image.tobytes(), label))
    mutant.path.write_bytes(mutant.after)
    return found


def read_epochs(manifest: DatasetSpec, epochs: int = 2, layout: Layout | None = None) -> list[tuple[bytes, int]]:
    """Reads the set through the queue input, in batches."""
    count = manifest.num_examples("train")
    options = tf.RunOptions(timeout_in_ms=20_000)
    found = []
    with tf.Graph().as_default():
        plan = queues.make_plan(manifest, seed=1)
        settings = {"batch_size": BATCH, "position": 0, "num_readers": 2, "capacity": 4}
        side = make_preprocessing(manifest.stored_shape, smallest=manifest.smallest).training
        source = queues.build(plan, manifest, **settings, side=side, layout=layout)
        with open_session(source, tf.ConfigProto(), None) as opened:
            while len(found) < epochs * count:
                batch = opened.session.run(source.batch, options=options)
                pairs = zip(batch["image"], batch["label"], strict=True)
                found += [(image.tobytes(), int(label)) for image, label in pairs]
    return found[: epochs * count]


def check_strict(folder: Path, mutant: Mutant) -> str:
    """Reads the mutant as a run does: every batch is right, or the error names the shard. Never a hang."""
    manifest = agreeing(folder, mutant)
    wanted = originals(folder, mutant)
    told = explain_input_error(manifest, "train")
    assert told is None or str(mutant.path) in str(told)
    if told and "the file ends within it" in str(told):
        return "strict error"  # Found before the training; TensorFlow's reader would take any length for true.
    try:
        found = read_epochs(manifest)
    except tf.errors.DeadlineExceededError as error:
        raise AssertionError("the input hangs") from error
    except (tf.errors.OpError, UnicodeDecodeError):  # The latter of a message that quotes the record.
        assert told is not None
        return "strict error"
    # Height, width and depth of a record are not looked at by the graph, the image's bytes are.
    assert sorted(found) == sorted(wanted * 2), "a wrong batch"
    return "strict error" if told else "unchanged"


def check_skipping(folder: Path, mutant: Mutant, clean: Path) -> str:
    """The mutant with `--skip_corrupt`: all that is read was in the set, and what is not read is counted."""
    manifest, wanted = load_manifest(folder), originals(folder, mutant)
    clean.mkdir(parents=True)
    try:
        found = find_damage(manifest, limit=1000)
    except DataError as error:
        assert str(mutant.path) in str(error)
        return "skip error"
    if not found.damages:
        assert mutant.after == mutant.before
        return "unchanged"
    assert all(str(mutant.path) in fault for damage in found.damages for fault in damage.faults)
    left = write_clean_shards(found, manifest, clean)
    assert left.num_examples("train") == EXAMPLES - found.num_lost
    read = read_epochs(left, epochs=1, layout=find_layout(left))
    assert len(set(read)) == len(read) == EXAMPLES - found.num_lost and set(read) <= set(wanted)
    return "skipped"
