"""TFRecord shards that another program wrote: indexed where they lie, read in the graph as without it."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.conftest import RECORDS
from trainer import api
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split, parse_boxes, parse_record, read_examples, read_records
from trainer.data.spec import IMAGE, LABEL, RecordFields, describe_images
from trainer.inputs.parsing import parse_examples
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)
SPLITS = ("train", "validation", "test")


def picture(number, mode="RGB"):
    """Noise of some size, brighter where its number is odd."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in rng.integers((12, 14), 24))
    pixels = rng.integers(0, 100, (height, width, 3), np.uint8) + np.uint8(120 * (number % 2))
    return Image.fromarray(pixels).convert(mode)


def as_file(image, kind="JPEG", orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, **({} if orientation == 1 else {"exif": exif}))
    return file.getvalue()


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    values = np.atleast_1d(value)
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(**features):
    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def slim(number, **more):
    """A record in TF-Slim's layout; what `image/format` says is wrong for every third."""
    kind = "PNG" if number % 3 == 0 else "JPEG"
    known = {
        "image__encoded": as_file(picture(number), kind), "image__class__label": 1 + number % 2,
        "image__class__text": (b"dark", b"light")[number % 2], "image__format": b"JPEG",
        "image__height": 1, "image__width": 1,
    }  # fmt: skip
    return example(**{**known, **more})


def write(folder, records, compression="", pattern="{split}-{shard:05d}-of-00002"):
    """Writes records of each split into two shards."""
    folder.mkdir(exist_ok=True)
    options = tf.io.TFRecordOptions(compression_type=compression)
    for split in SPLITS:
        for shard in range(2):
            path = folder / pattern.format(split=split, shard=shard)
            with tf.io.TFRecordWriter(str(path), options) as writer:
                for record in records[split][shard::2]:
                    writer.write(record)
    return folder


def splits_of(make, sizes=(40, 10, 12)):
    numbers = iter(range(1000))
    return {split: [make(next(numbers)) for _ in range(size)] for split, size in zip(SPLITS, sizes, strict=True)}


@pytest.fixture
def convert(run_here, tmp_path):
    def run(source, *args):
        return run_here("trainer.convert", f"--source={source}", f"--data_dir={tmp_path / 'data'}", *args)

    return run


def read_in_graph(spec, split):
    """Reads a split as the trainer does: the middle 9 x 9 of the pictures, and labels."""
    side = make_preprocessing(spec.stored_shape, "crop_or_pad(9)", smallest=spec.smallest).elsewhere
    records = [r for shard in spec.splits[split] for r in read_records(spec.path_of(shard), spec)]
    with tf.Graph().as_default(), tf.Session() as session:
        found = parse_examples(tf.constant(records), spec, side)
        return session.run([side.in_batches(found[IMAGE]), found[LABEL]])


def check(spec, split, wanted):
    """Compares what is read in the graph, and without it, with pictures of pillow and their labels."""
    found = [example for shard in spec.splits[split] for example in read_examples(spec.path_of(shard), spec)]
    images, labels = read_in_graph(spec, split)
    assert [label for _, label in found] == labels.tolist() == [label for _, label in wanted]
    for (stored, _), small, (pixels, _) in zip(found, images, wanted, strict=True):
        np.testing.assert_array_equal(stored, pixels)
        top, left = ((side - 9) // 2 for side in pixels.shape[:2])
        np.testing.assert_array_equal(small, pixels[top : top + 9, left : left + 9])


def decoded(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def wanted_of(records, label="image/class/label", offset=1):
    """Reads records by protobuf and pillow, in the order of two shards."""
    found = []
    for record in (*records[0::2], *records[1::2]):
        features = tf.train.Example.FromString(record).features.feature
        data = features["image/encoded"].bytes_list.value[0]
        found.append((decoded(data), features[label].int64_list.value[0] - offset))
    return found


@pytest.mark.parametrize("compression", ["", "GZIP", "ZLIB"])
def test_shards_in_slims_layout_are_indexed_and_trained_on_where_they_lie(convert, compression, tmp_path):
    records = splits_of(slim)
    folder = write(tmp_path / "halves", records, compression)
    done = convert(folder, "--label_offset=1")
    assert done.code == 0 and "indexed halves: 40 train, 10 validation, 12 test images" in done.out, done
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["manifest.json"]
    spec = load_manifest(tmp_path / "data")
    assert (spec.name, spec.class_names, spec.compression) == ("halves", ("dark", "light"), compression)
    for split in SPLITS:
        check(spec, split, wanted_of(records[split]))
    result = api.train(
        data_dir=tmp_path / "data", logdir=tmp_path / "run", preprocess="random_crop(12)|flip_lr|scale(-1,1)",
        eval_preprocess="crop_or_pad(12)|scale(-1,1)", train_steps=60, batch_size=20, model="mlp", quiet=True,
    )  # fmt: skip
    assert result.test["accuracy"] == 1.0


def test_boxes_of_shards_are_kept_and_turned_with_their_pictures(convert, tmp_path):
    """In the order of TF-Slim's features; a shard without any has none."""
    box = {"ymin": 0.1, "xmin": 0.2, "ymax": 0.4, "xmax": 0.9}

    def boxed(number):
        features = {f"image__object__bbox__{name}": [value, value] for name, value in box.items()}
        data = as_file(picture(number), "PNG", 6 if number == 0 else 1)
        return slim(number, **(features if number % 2 == 0 else {}), image__encoded=data)

    records = splits_of(boxed)
    done = convert(write(tmp_path / "halves", records), "--label_offset=1")
    assert done.code == 0 and "1 of 6 shards are written anew: 1 pictures become PNG" in done.out, done
    spec = load_manifest(tmp_path / "data")
    check(spec, "train", wanted_of(records["train"]))
    first = [parse_boxes(record, spec) for record in read_records(spec.path_of(spec.splits["train"][0]), spec)]
    upright = [list(box.values())] * 2
    turned = [[0.2, 0.6, 0.9, 0.9]] * 2  # A quarter turn clockwise: what was left is above, what was below is left.
    np.testing.assert_allclose(first[0], turned, atol=1e-6)
    assert all(np.allclose(found, upright) for found in first[1:])
    none = [parse_boxes(record, spec) for record in read_records(spec.path_of(spec.splits["train"][1]), spec)]
    assert all(found.shape == (0, 4) for found in none)
    cut = [example(**{"image__encoded": as_file(picture(1), "PNG"), "image__class__label": 1,
                      "image__object__bbox__ymin": [0.1, 0.2], "image__object__bbox__xmin": [0.1]})]  # fmt: skip
    records["train"][0] = cut[0]
    done = convert(write(tmp_path / "other", records), "--label_offset=1", f"--data_dir={tmp_path / 'cut'}")
    assert done.code == 1 and "its boxes have [2, 1, 0, 0] corners ymin, xmin, ymax, xmax" in done.err, done


def test_the_example_shards_of_tf_cnn_benchmarks_are_trained_on(convert, tmp_path):
    folder = RECORDS / "fake_tf_record_data"
    if not folder.is_dir():
        pytest.skip(f"the records are not in {RECORDS} (RECORDS_DIR names their folder)")
    done = convert(folder)
    assert done.code == 0 and "no test shards are named" in done.out, done
    spec = load_manifest(tmp_path / "data")
    assert [spec.num_examples(split) for split in SPLITS] == [512, 128, 128]
    assert spec.class_names[:3] == ("0", "one", "two")
    result = api.train(
        data_dir=tmp_path / "data", logdir=tmp_path / "run", preprocess="distorted_crop(16)",
        eval_preprocess="resize(16,16)", train_steps=10, batch_size=16, model="mlp", quiet=True,
    )  # fmt: skip
    assert result.step == 10


def test_what_tensorflow_decodes_another_way_is_written_anew_with_its_shard_alone(convert, tmp_path):
    """A GIF, a transparent PNG, and a picture that EXIF turns."""
    clear = picture(1).convert("RGBA")
    clear.putalpha(100)
    records = splits_of(slim)
    files = {0: as_file(picture(0), "GIF"), 2: as_file(clear, "PNG"), 4: as_file(picture(3), "PNG", 6)}
    for place, data in files.items():
        records["train"][place] = slim(place, image__encoded=data)
    folder = write(tmp_path / "halves", records, "GZIP")
    done = convert(folder, "--label_offset=1")
    assert done.code == 0 and "1 of 6 shards are written anew: 3 pictures become PNG" in done.out, done
    spec = load_manifest(tmp_path / "data")
    assert [spec.path_of(shard).parent for shard in spec.splits["train"]] == [tmp_path / "data", folder]
    check(spec, "train", wanted_of(records["train"]))


def detection(number, labels, sizes):
    """A record of the Object Detection API, with so many objects."""
    boxes = {f"image__object__bbox__{side}": np.zeros(len(labels)) for side in ("xmin", "ymin")}
    boxes |= {f"image__object__bbox__{side}": np.array(sizes, float) for side in ("xmax", "ymax")}
    data = as_file(picture(number))
    return example(image__encoded=data, image__object__class__label=np.array(labels, int), **boxes)


@pytest.mark.parametrize(("label_of", "place"), [("first", 0), ("largest", 2)])
def test_one_of_several_objects_gives_the_label(convert, label_of, place, tmp_path):
    labels = {number: (number % 3, (number + 1) % 3, (number + 2) % 3) for number in range(62)}
    records = splits_of(lambda number: detection(number, labels[number], [0.2, 0.1, 0.7]))
    folder = write(tmp_path / "objects", records)
    done = convert(folder)
    assert done.code == 1 and "it has 3 labels: --label_of=first or --label_of=largest takes one" in done.err, done
    assert convert(folder, f"--label_of={label_of}", "--preset=detection").code == 0
    spec = load_manifest(tmp_path / "data")
    numbers = range(40, 50)
    wanted = [(np.asarray(Image.open(io.BytesIO(as_file(picture(n))))), labels[n][place]) for n in numbers]
    check(spec, "validation", wanted[0::2] + wanted[1::2])


def test_pixels_of_named_features_are_read(convert, tmp_path):
    def make(number):
        pixels = np.full((6, 5, 3), 3 * number, np.uint8)
        return example(raw=pixels.tobytes(), rows=6, columns=5, channels=3, kind=number % 4)

    names = "image_raw=raw,height=rows,width=columns,depth=channels,label=kind"
    source = write(tmp_path / "raw", splits_of(make), pattern="{split}_{shard}.records")
    done = convert(source, f"--features={names}")
    assert done.code == 0, done
    images, labels = load_split(load_manifest(tmp_path / "data"), "validation")
    numbers = [*range(40, 50, 2), *range(41, 50, 2)]
    assert labels.tolist() == [number % 4 for number in numbers]
    assert images.shape == (10, 6, 5, 3) and images[:, 0, 0, 0].tolist() == [3 * number for number in numbers]
    settings = {"train_steps": 4, "batch_size": 8, "model": "mlp", "quiet": True}
    assert api.train(data_dir=tmp_path / "data", logdir=tmp_path / "run", **settings).step == 4


@pytest.mark.parametrize("text", ["0:background\n1:night\n2:day\n", "night\nday\n"])
def test_classes_are_named_by_a_labels_file(convert, text, tmp_path):
    folder = write(tmp_path / "halves", splits_of(slim))
    (folder / "labels.txt").write_text(text)
    assert convert(folder, "--label_offset=1").code == 0
    assert load_manifest(tmp_path / "data").class_names == ("night", "day")


def test_damaged_records_are_named_or_left_out_with_their_shard_written_anew(convert, tmp_path):
    records = splits_of(slim)
    records["train"][3] = slim(3, image__encoded=b"no picture")
    records["train"][5] = slim(5, image__class__label=np.array([1, 2]))
    folder = write(tmp_path / "halves", records)
    done = convert(folder, "--label_offset=1")
    assert done.code == 1 and "train-00001-of-00002: record 1 at byte" in done.err and "record 2 at byte" in done.err
    assert "damaged records, 2:" in done.err and "--skip_corrupt=2" in done.err
    assert not (tmp_path / "data").exists()
    assert convert(folder, "--label_offset=1", "--skip_corrupt=2").code == 0
    spec = load_manifest(tmp_path / "data")
    assert spec.num_examples("train") == 38
    whole = wanted_of(splits_of(slim)["train"])  # The second shard begins at 20, its records 1 and 2 are left out.
    check(spec, "train", [*whole[:21], *whole[23:]])


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_a_damaged_stream_is_named_and_never_skipped(convert, compression, run_here, tmp_path):
    folder = write(tmp_path / "halves", splits_of(slim), compression)
    assert convert(folder, "--label_offset=1").code == 0
    path = folder / "train-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    where = (f"--data_dir={tmp_path / 'data'}", "--model=mlp", "--preprocess=resize(9,9)")
    done = run_here("trainer", *where, f"--logdir={tmp_path / 'run'}")
    assert done.code == 1 and str(path) in done.err and "Traceback" not in done.err, done
    done = run_here("trainer", *where, f"--logdir={tmp_path / 'run'}", "--skip_corrupt=5")
    assert done.code == 1 and f"a {compression} stream has no whole records behind damage" in done.err, done


@pytest.mark.parametrize("is_sorted", [True, False])
def test_shards_that_are_sorted_inside_are_named(convert, is_sorted, tmp_path):
    def make(number):
        kind = number // 60 % 2 if is_sorted else number % 3 % 2
        return example(raw=bytes([number % 256] * 12), h=2, w=2, d=3, kind=kind)

    folder = write(tmp_path / "raw", splits_of(make, (240, 10, 10)))
    done = convert(folder, "--features=image_raw=raw,height=h,width=w,depth=d,label=kind")
    assert done.code == 0, done
    assert ("2 shards are sorted by class inside, as" in done.out) == is_sorted, done


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--files=train=*.nope"], "no file matches"),
        (["--files=train"], "wanted SPLIT=GLOB"),
        (["--files=train=train-*"], "no shards for validation and test"),
        (["--features=image=image/encoded"], "wanted label, and either image"),
        (["--features=picture=image/encoded"], "wanted NAME=FEATURE"),
        (["--preset=slin"], "did you mean slim"),
        (["--label_of=last"], "label_of"),
        (["--deduplicate"], "--deduplicate is not of --source="),
        (["--label_offset=2"], "label 1 is less than --label_offset=2"),
        (["--features=image=image/encoded,label=nope"], "its records have no nope, only"),
    ],
)
def test_mistakes_are_explained(convert, args, message, tmp_path):
    folder = write(tmp_path / "halves", splits_of(slim, (4, 2, 2)))
    done = convert(folder, *args)
    assert done.code in (1, 2) and message in done.err and "Traceback" not in done.err, done
    assert not (tmp_path / "data").exists()


def test_unknown_features_are_listed(convert, tmp_path):
    records = splits_of(lambda number: example(pic=as_file(picture(number)), kind=0), (4, 2, 2))
    done = convert(write(tmp_path / "other", records))
    assert done.code == 2 and "its records hold kind, pic" in done.err and "--features='image=FEATURE" in done.err, done


def test_shards_that_have_gone_are_named(convert, run_here, tmp_path):
    folder = write(tmp_path / "halves", splits_of(slim))
    assert convert(folder, "--label_offset=1").code == 0
    folder.rename(tmp_path / "moved")
    done = run_here("trainer", f"--data_dir={tmp_path / 'data'}", f"--logdir={tmp_path / 'run'}")
    assert done.code == 1 and f"{folder}/train-00000-of-00002 is missing" in done.err, done


def test_a_shard_that_is_missing_or_damaged_at_its_beginning_is_named(convert, tmp_path):
    folder = write(tmp_path / "halves", splits_of(slim))
    path = folder / "train-00001-of-00002"
    content = path.read_bytes()
    path.write_bytes(bytes(12) + content[12:])
    done = convert(folder)
    assert done.code == 1 and f"{path} is no file of TFRecords" in done.err, done
    path.unlink()
    done = convert(folder)
    assert done.code == 1 and "holds 1 of the 2 shards for train" in done.err, done
    path.symlink_to(tmp_path / "nowhere")
    done = convert(folder)
    assert done.code == 1 and f"{path}: No such file" in done.err, done


def test_damage_in_the_first_record_is_named(convert, tmp_path):
    folder = write(tmp_path / "halves", splits_of(slim))
    path = folder / "train-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    done = convert(folder)
    assert done.code == 1 and f"{path}: record 0 at byte 0 is damaged" in done.err and "Traceback" not in done.err, done


def test_a_file_belongs_to_one_split(convert, tmp_path):
    folder = write(tmp_path / "halves", splits_of(slim))
    done = convert(folder, "--files=train=*,validation=validation-*")
    assert done.code == 2 and "is named twice" in done.err, done


def test_damaged_shards_of_one_name_in_two_folders_are_salvaged_apart(convert, run_here, tmp_path):
    records = splits_of(slim)
    for split in SPLITS:
        (tmp_path / "all" / split).mkdir(parents=True)
        with tf.io.TFRecordWriter(str(tmp_path / "all" / split / "part-0")) as writer:
            for record in records[split]:
                writer.write(record)
    files = "train=train/part-*,validation=validation/part-*,test=test/part-*"
    assert convert(tmp_path / "all", "--kind=tfrecord", f"--files={files}", "--label_offset=1").code == 0
    for split in ("train", "validation"):
        path = tmp_path / "all" / split / "part-0"
        content = bytearray(path.read_bytes())
        content[40] ^= 1
        path.write_bytes(content)
    where = (f"--data_dir={tmp_path / 'data'}", f"--logdir={tmp_path / 'run'}", "--model=mlp", "--train_steps=2")
    done = run_here("trainer", *where, "--preprocess=resize(9)", "--batch_size=8", "--skip_corrupt=2")
    assert done.code == 0, done
    clean = sorted((tmp_path / "run").rglob("*-part-0"))
    assert len(clean) == 2
    assert sorted(sum(1 for _ in read_records(path)) for path in clean) == [9, 39]


def test_the_largest_object_is_found_among_padding(tmp_path):
    """A box of no legal area beside a record with more objects."""
    records = [detection(0, [1], [-0.3]), detection(1, [0, 2], [0.1, 0.5])]
    for number, record in enumerate(records):
        features = tf.train.Example.FromString(record)
        for side in ("ymin", "xmin"):
            features.features.feature[f"image/object/bbox/{side}"].float_list.value[0] = 0.1
        records[number] = features.SerializeToString()
    fields = RecordFields("image/encoded", label="image/object/class/label", boxes="image/object/bbox",
                          label_of="largest", are_sized=False)  # fmt: skip
    spec = dataclasses.replace(
        describe_images("objects", (None, None, 3), ("a", "b", "c"), {}, tmp_path, smallest=(12, 14)), fields=fields
    )
    side = make_preprocessing(spec.stored_shape, "crop_or_pad(9)", smallest=spec.smallest).elsewhere
    with tf.Graph().as_default(), tf.Session() as session:
        labels = session.run(parse_examples(tf.constant(records), spec, side)[LABEL])
    assert labels.tolist() == [parse_record(record, spec)[1] for record in records] == [1, 2]
