"""The queue input, against a census of the records and against itself started elsewhere in the stream."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPO
from trainer.data import records, writing
from trainer.data.layout import find_layout
from trainer.data.manifest import load_manifest, save_manifest
from trainer.data.spec import DataError, Shard, describe_images
from trainer.inputs import order, queues
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.tf1 import tf

SHAPE = (2, 3, 1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Seven shards of very different sizes; the label and the image hold the number of the example."""
    folder = tmp_path_factory.mktemp("shards")
    parts, number = [], 0
    for index, count in enumerate([1, 40, 3, 25, 17, 8, 9]):
        examples = [(np.full(SHAPE, n, np.uint8), n) for n in range(number, number + count)]
        split = f"part{index}"
        parts += writing.write_shards(examples, folder=folder, split=split, num_shards=1, advance=lambda n: None)
        number += count
    names = tuple(str(n) for n in range(number))
    found = describe_images("toy", SHAPE, names, {"train": tuple(parts), "validation": (), "test": ()}, folder)
    save_manifest(found)
    return folder, found


def moved(found, folder):
    """The same shards in another directory."""
    return folder, dataclasses.replace(found, data_dir=folder)


def plan_of(found, seed=1, block=32, opened=order.OPEN_SHARDS):
    plan = queues.make_plan(found, seed, block)
    return plan._replace(open_shards=min(opened, plan.open_shards))


def read(
    shards, steps, *, batch_size=10, position=0, readers=1, seed=1, block=32, opened=order.OPEN_SHARDS, layout=None
):
    _, found = shards
    with tf.Graph().as_default(), tf.Session() as session:
        source = queues.build(
            plan_of(found, seed, block, opened),
            found,
            batch_size=batch_size,
            position=position,
            num_readers=readers,
            capacity=3,
            side=make_preprocessing(SHAPE).training,
            layout=layout,
        )
        session.run(tf.local_variables_initializer())
        coord = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(session, coord)
        try:
            with coord.stop_on_exception():
                batches = [session.run(source.batch) for _ in range(steps)]
                fill = session.run(source.fill)
        finally:
            coord.request_stop()
            coord.join(threads, stop_grace_period_secs=10)
    assert 0 <= fill <= 1
    for batch in batches:
        images, labels = batch["image"], batch["label"]
        assert images.shape == (batch_size, *SHAPE) and images.dtype == np.uint8 and labels.dtype == np.int32
        # Images and labels have stayed together.
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        # Labels are numbered in the order of the shards, as records are.
        np.testing.assert_array_equal(batch["record"] % found.num_examples("train"), labels)
    return np.concatenate([batch["label"] for batch in batches])


@pytest.mark.parametrize(("readers", "block", "opened"), [(1, 32, 64), (2, 4, 3), (9, 1000, 64)])
def test_sliced_records_are_the_parsed_ones(shards, readers, block, opened):
    how = {"readers": readers, "block": block, "opened": opened}
    parsed = read(shards, 31, **how)
    for position in (0, 70, 210):
        sliced = read(shards, 10, **how, position=position, layout=find_layout(shards[1]))
        np.testing.assert_array_equal(sliced, parsed[position : position + 100])


def test_a_shard_that_changes_after_it_was_checked_is_an_error(shards, tmp_path):
    folder, found = shards
    layout = find_layout(found)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / found.splits["train"][1].file
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="another number of records than its manifest says"):
        read(moved(found, tmp_path), 30, layout=layout)
    victim.write_bytes(whole[:5] + b"x" + whole[6:])
    with pytest.raises(tf.errors.InvalidArgumentError, match="a shard is not what it was when the run began"):
        read(moved(found, tmp_path), 30, layout=layout)


@pytest.mark.parametrize(
    ("readers", "block", "opened"), [(1, 32, 64), (2, 4, 64), (3, 1000, 64), (9, 4, 64), (1, 20, 1), (2, 20, 3)]
)
def test_every_epoch_holds_each_record_once(shards, readers, block, opened):
    """103 records and batches of 10: the epochs' edges fall into batches."""
    stream = read(shards, 52, readers=readers, block=block, opened=opened)
    for epoch in range(5):
        assert Counter(stream[epoch * 103 : (epoch + 1) * 103]) == Counter(range(103)), f"epoch {epoch}"


def test_the_number_of_readers_changes_nothing(shards):
    one = read(shards, 40)
    for readers in (2, 3, 8):
        np.testing.assert_array_equal(read(shards, 40, readers=readers), one)


@pytest.mark.parametrize(("block", "opened"), [(4, 64), (32, 3), (1000, 64)])
def test_a_later_start_continues_the_same_stream(shards, block, opened):
    """Started all over three epochs, on both sides of their edges at 10.3 and 20.6 steps."""
    whole = read(shards, 34, block=block, opened=opened)
    for step in (1, 9, 10, 20, 31):
        rest = read(shards, 2, position=step * 10, readers=1 + step % 3, block=block, opened=opened)
        np.testing.assert_array_equal(rest, whole[step * 10 : step * 10 + 20], err_msg=f"step {step}")


def test_another_batch_size_continues_the_same_stream(shards):
    whole = read(shards, 30)
    np.testing.assert_array_equal(read(shards, 7, batch_size=7, position=130), whole[130:179])


def test_seeds_and_epochs_have_orders_of_their_own(shards):
    first, other = read(shards, 31), read(shards, 31, seed=2)
    assert (first != other).mean() > 0.9
    assert (first[:103] != first[103:206]).mean() > 0.9


def test_a_block_takes_of_each_open_shard_in_proportion(shards):
    """So that shards of one class each mix as well as others: blocks of 32 of 103 records are four a epoch.

    The k-th holds records floor(k n / 4) to floor((k + 1) n / 4) of each shard of n records, in numpy.
    """
    counts = [shard.num_examples for shard in shards[1].splits["train"]]
    first = np.cumsum([0, *counts])
    wanted = [
        sorted(
            first[shard] + n for shard, count in enumerate(counts) for n in range(k * count // 4, (k + 1) * count // 4)
        )
        for k in range(4)
    ]
    stream, begin = read(shards, 21), 0
    for block in wanted * 2:
        assert sorted(stream[begin : begin + len(block)]) == block
        begin += len(block)


def test_a_few_shards_of_many_are_open_at_a_time(shards):
    """Groups of three, whatever the permutation: no record of a fourth before the three have ended."""
    counts = [shard.num_examples for shard in shards[1].splits["train"]]
    shard_of = np.repeat(np.arange(7), counts)
    opened = shard_of[read(shards, 11, block=4, opened=3)[:103]]
    firsts = {shard: int(np.argmax(opened == shard)) for shard in range(7)}
    lasts = {shard: 102 - int(np.argmax(opened[::-1] == shard)) for shard in range(7)}
    begun = sorted(range(7), key=firsts.get)
    for group, behind in ((begun[:3], begun[3:6]), (begun[3:6], begun[6:])):
        assert max(lasts[shard] for shard in group) < min(firsts[shard] for shard in behind)


def test_units_of_records_divide_every_shard_and_are_small_beside_a_block():
    shards = [Shard(f"{n}", count, 1, "") for n, count in enumerate([5500] * 10)]
    spec = describe_images("mnist", (28, 28, 1), ("a",), {"train": tuple(shards), "validation": (), "test": ()}, Path())
    assert queues.make_plan(spec, 1).unit == 100  # The largest divisor of 5,500 of at most 8,192 / (8 * 10).
    odd = dataclasses.replace(spec, splits={**spec.splits, "train": (*shards, Shard("odd", 5501, 1, ""))})
    assert queues.make_plan(odd, 1).unit == 1


def test_a_shard_with_more_records_than_its_manifest_says_is_an_error(shards, tmp_path):
    folder, found = shards
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / found.splits["train"][1].file
    victim.write_bytes(victim.read_bytes() + (tmp_path / found.splits["train"][0].file).read_bytes())
    for layout in (None, find_layout(found)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="another number of records than its manifest says"):
            read(moved(found, tmp_path), 30, layout=layout)


def test_a_block_mixes_the_records_of_several_shards(shards):
    """With one block for the whole epoch, neighbours in the stream are hardly ever neighbours on disk."""
    stream = read(shards, 10, block=1000)[:100]
    assert np.mean(np.abs(np.diff(stream)) == 1) < 0.1


def test_uniform_over_positions(shards):
    """In one block of 103 records every record is as likely at every position: the mean position is the middle."""
    stream = read(shards, 1030, block=1000)
    positions = np.argsort(stream[: 100 * 103].reshape(100, 103), axis=1)
    means = positions.mean(axis=0)
    # Standard error of a mean of 100 uniform positions: 103 / sqrt(12) / 10 = 2.97; five of them.
    assert np.all(np.abs(means - 51) < 5 * 2.97)


@pytest.mark.timeout(60)
def test_a_shard_of_another_number_of_records_is_an_error_and_no_hang(shards, tmp_path):
    folder, found = shards
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / found.splits["train"][1].file
    kept = list(records.read_records(victim))[:30]
    with tf.io.TFRecordWriter(str(victim)) as writer:
        for record in kept:
            writer.write(record)
    for block in (4, 32, 1000):  # Some end a slice where the file ends, and the reader looks for another file.
        errors = (tf.errors.InvalidArgumentError, tf.errors.NotFoundError)
        with pytest.raises(errors, match="its manifest says"):
            read(moved(found, tmp_path), 30, block=block)
    with pytest.raises(DataError, match="holds 30 records, its manifest says 40"):
        raise records.explain_input_error(moved(found, tmp_path)[1], "train")


def test_the_plan_bounds_blocks_of_large_images(shards, digits_dir):
    large = load_manifest(digits_dir)
    large = describe_images("large", (1024, 1024, 3), large.class_names, large.splits, digits_dir)
    plan = queues.make_plan(large, 1)
    assert plan.block * large.image_bytes <= order.BLOCK_BYTES


def test_the_order_of_the_records_is_the_golden_one(shards):
    """Another order needs another `order.VERSION`: a run that goes on says that its records are not those it left."""
    golden = json.loads((REPO / "tests" / "golden" / "record_order.json").read_text())
    assert golden["version"] == order.VERSION
    for case in golden["orders"]:
        found = read(shards, 21, seed=case["seed"], block=case["block"])
        assert found.tolist() == case["records"], case["seed"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros(SHAPE, np.uint8), 103, "a label is out of range"),
        (np.zeros(SHAPE, np.uint8), -1, "a label is out of range"),
        (np.zeros((2, 2, 1), np.uint8), 5, "DecodeRaw|decode_raw"),
    ],
)
def test_a_wrong_record_is_an_error_of_the_queue_too(shards, tmp_path, image, label, message):
    folder, found = shards
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / found.splits["train"][1].file
    kept = list(records.read_records(victim))
    kept[20] = writing.serialize_example(image, label)
    with tf.io.TFRecordWriter(str(victim)) as writer:
        for record in kept:
            writer.write(record)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        read(moved(found, tmp_path), 30)
    with pytest.raises(DataError, match="record 20 at byte"):
        raise records.explain_input_error(moved(found, tmp_path)[1], "train")
