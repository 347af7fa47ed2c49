import json

import numpy as np
import pytest

from trainer.data import manifest as manifest_lib
from trainer.data import records, writing
from trainer.data.manifest import load_manifest
from trainer.data.spec import DataError
from trainer.tf1 import tf

# A record of the digits: 8 bytes of length and 4 of its checksum, the data, 4 of the data's checksum.
RECORD_BYTES = 167


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x55
    path.write_bytes(data)


def first_shard(folder):
    return folder / "train-00000-of-00010.tfrecords"


def rewrite(path, change):
    """Rewrites a shard with another third record."""
    examples = list(records.read_records(path))
    example = tf.train.Example.FromString(examples[2])
    change(example.features.feature)
    examples[2] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in examples:
            writer.write(record)


def test_stock_tensorflow_reads_the_shards(digits_dir):
    """tf.data and tf.io.parse_example, without a line of ours."""
    features = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("height", "width", "depth", "label")}
    features["image_raw"] = tf.io.FixedLenFeature([], tf.string)
    paths = sorted(str(path) for path in digits_dir.glob("train-*"))
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = tf.data.TFRecordDataset(paths).batch(2000)
        parsed = tf.io.parse_example(tf.data.make_one_shot_iterator(dataset).get_next(), features)
        values = session.run(parsed)
    assert len(values["label"]) == 1258
    assert {name: set(values[name]) for name in ("height", "width", "depth")} == {
        "height": {8},
        "width": {8},
        "depth": {1},
    }
    images = np.stack([np.frombuffer(raw, np.uint8) for raw in values["image_raw"]])
    found, labels = records.load_split(load_manifest(digits_dir), "train")
    np.testing.assert_array_equal(found.reshape(-1, 64), images)
    np.testing.assert_array_equal(labels, values["label"])


def test_a_flipped_bit_is_named_by_shard_record_and_offset(own_digits_dir):
    shard = first_shard(own_digits_dir)
    assert shard.stat().st_size == 126 * RECORD_BYTES
    flip(shard, 5 * RECORD_BYTES + 40)
    error = records.explain_input_error(load_manifest(own_digits_dir), "train")
    assert f"{shard}: record 5 at byte {5 * RECORD_BYTES} is damaged" in str(error)


@pytest.mark.parametrize("rest", [1, 9, 12, 40, RECORD_BYTES - 1])
def test_a_truncated_shard_is_named(own_digits_dir, rest):
    shard = first_shard(own_digits_dir)
    shard.write_bytes(shard.read_bytes()[: 7 * RECORD_BYTES + rest])
    error = records.explain_input_error(load_manifest(own_digits_dir), "train")
    assert f"{shard}: record 7 at byte {7 * RECORD_BYTES} is damaged" in str(error)


def test_a_shard_cut_between_records_is_named(own_digits_dir):
    shard = first_shard(own_digits_dir)
    shard.write_bytes(shard.read_bytes()[: 7 * RECORD_BYTES])
    error = records.explain_input_error(load_manifest(own_digits_dir), "train")
    assert str(error) == f"{shard} holds 7 records, its manifest says 126"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["label"].int64_list.value.__setitem__(0, 10), r"label 10 is out of range 0\.\.9"),
        (lambda f: f["label"].int64_list.value.__setitem__(0, -1), r"label -1 is out of range 0\.\.9"),
        (lambda f: f["height"].int64_list.value.__setitem__(0, 9), r"its image is \[9, 8, 1\], wanted \[8, 8, 1\]"),
        (lambda f: f.pop("image_raw"), r"image_raw holds \[\] bytes, wanted 64"),
        (lambda f: f["image_raw"].bytes_list.value.__setitem__(0, b"short"), r"image_raw holds \[5\] bytes"),
        (lambda f: f.pop("label"), r"feature label holds \[\], wanted one int64"),
        (lambda f: f["label"].int64_list.value.append(3), r"feature label holds \[\d, 3\], wanted one int64"),
    ],
)
def test_a_wrong_record_is_named_by_shard_and_number(own_digits_dir, change, message):
    shard = first_shard(own_digits_dir)
    rewrite(shard, change)
    with pytest.raises(DataError, match=f"record 2 at byte {2 * RECORD_BYTES}: {message}"):
        records.load_split(load_manifest(own_digits_dir), "train")


def test_sound_shards_have_nothing_to_explain(digits_dir):
    found = load_manifest(digits_dir)
    assert records.explain_input_error(found, "train") is None
    manifest_lib.check_shards(found)
    assert manifest_lib.differing_checksum(found) is None


@pytest.mark.parametrize("batch_size", [1, 7, 64, 359, 1000])
def test_batches_of_records_hold_each_once(digits_dir, batch_size):
    found = load_manifest(digits_dir)
    batches = list(records.record_batches(found, "test", batch_size))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    joined = [record for batch in batches for record in batch]
    assert len(joined) == 359
    paths = [digits_dir / shard.file for shard in found.splits["test"]]
    assert joined == [record for path in paths for record in records.read_records(path)]


def test_the_manifest_tells_what_was_written(digits_dir):
    found = load_manifest(digits_dir)
    assert found.image_shape == (8, 8, 1) and found.num_classes == 10 and "CC BY 4.0" in found.attribution
    assert {split: found.num_examples(split) for split in found.splits} == {
        "train": 1258,
        "validation": 180,
        "test": 359,
    }
    names = sorted(path.name for path in digits_dir.iterdir())
    assert names[0] == "manifest.json" and names[-1] == "validation-00001-of-00002.tfrecords"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["features"]["image"].update(shape=[0, 8, 1]),
            "image's shape is 0, wanted a positive whole number",
        ),
        (lambda m: m["features"].pop("label"), r"features are \['image'\], wanted"),
        (lambda m: m.update(label_kind="word"), "label_kind is 'word', wanted one of class, several, numbers"),
        (lambda m: m.update(class_names="abc"), "class_names is no list of names"),
        (lambda m: m["splits"].update(validation=[]), "validation has no shards"),
        (lambda m: m["splits"]["train"][0].update(num_examples=126.0), "num_examples is 126.0, wanted a positive"),
        (lambda m: m["splits"]["train"][0].update(num_examples=-5), "num_examples is -5"),
        (lambda m: m["splits"]["train"][0].update(num_bytes=None), "num_bytes is None"),
        (lambda m: m["splits"]["train"][0].update(file="../x"), "'../x' is neither a file name nor an absolute path"),
        (lambda m: m["splits"]["train"][0].update(file=5), "5 is no file name"),
        (lambda m: m["splits"].pop("test"), "'test' is missing"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(own_digits_dir, change, message):
    path = own_digits_dir / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        load_manifest(own_digits_dir)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 2, "dataset": "digits"}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json is damaged .*: remove .* and convert the data again"):
        load_manifest(tmp_path)


def test_a_shard_of_another_content_is_found(own_digits_dir):
    found = load_manifest(own_digits_dir)
    flip(first_shard(own_digits_dir), 1000)
    assert manifest_lib.differing_checksum(found).file == "train-00000-of-00010.tfrecords"


def test_a_missing_shard_and_a_shard_of_another_size_are_named(own_digits_dir):
    found = load_manifest(own_digits_dir)
    shard = first_shard(own_digits_dir)
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"has 21,043 bytes, its manifest says 21,042"):
        manifest_lib.check_shards(found)
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00000-of-00010.tfrecords is missing"):
        manifest_lib.check_shards(found)


def test_manifest_json_is_plain_json(digits_dir):
    values = json.loads((digits_dir / "manifest.json").read_text())
    assert values["splits"]["train"][0].keys() == {"file", "num_examples", "num_bytes", "sha256"}


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (2, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("label", [0, 1, 9, 127, 128, 254, 255, 300])
def test_an_example_is_what_the_protocol_buffer_says(shape, label):
    """Also where a label looks like a pixel."""
    size = int(np.prod(shape))
    for value in (0, 1, 90, 254, 255):
        image = np.full(shape, value, np.uint8)
        feature = tf.train.Example.FromString(writing.serialize_example(image, label)).features.feature
        assert list(feature["image_raw"].bytes_list.value) == [bytes([value]) * size]
        numbers = [list(feature[name].int64_list.value) for name in ("height", "width", "depth", "label")]
        assert numbers == [[shape[0]], [shape[1]], [shape[2]], [label]] and len(feature) == 5
