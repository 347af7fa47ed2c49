"""A folder of one's own pictures: found, split, converted, trained on; and what is wrong with it, a line each."""

import csv
import dataclasses
import hashlib
import json
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer import api
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split, parse_boxes, parse_record, read_records
from trainer.data.sources.folders import find_pictures
from trainer.data.sources.own import resized
from trainer.data.sources.splitting import choose_splits, parse_shares
from trainer.data.spec import SPLITS
from trainer.errors import UsageError
from trainer.inputs import queues
from trainer.inputs.parsing import parse_examples
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.running.session import open_session
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)
BOXED = "path,label,ymin,xmin,ymax,xmax\n"
CLASSES = ("circle ':o:' [red]", "квадрат")


def picture(number, size=(16, 16), mode="RGB"):
    """A circle or a square, somewhere, in some colour."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", size, tuple(int(c) for c in rng.integers(0, 80, 3)))
    x, y = (int(v) for v in rng.integers(0, 6, 2))
    draw = ImageDraw.Draw(image)
    shape = draw.ellipse if number % 2 == 0 else draw.rectangle
    shape((x, y, x + 9, y + 9), fill=tuple(int(c) for c in rng.integers(150, 256, 3)))
    return image.convert(mode)


@pytest.fixture
def folder(tmp_path):
    """200 pictures in two folders, one of them with a folder inside."""
    for number in range(200):
        path = tmp_path / "shapes" / CLASSES[number % 2] / ("more" if number % 3 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return tmp_path / "shapes"


@pytest.fixture
def convert(run_here, tmp_path):
    def run(source, *args):
        return run_here("trainer.convert", f"--source={source}", f"--data_dir={tmp_path / 'data'}", *args)

    return run


def test_pictures_of_two_folders_are_learned(folder, convert, tmp_path):
    done = convert(folder, "--split=60/20/20")
    assert done.code == 0, done
    spec = load_manifest(tmp_path / "data")
    assert (spec.name, spec.class_names, spec.image_shape) == ("shapes", CLASSES, (16, 16, 3))
    counts = [spec.num_examples(split) for split in ("train", "validation", "test")]
    assert sum(counts) == 200 and 100 < counts[0] < 140 and "PNG 200" in done.out and "16 x 16 200" in done.out
    assert all(name in done.out for name in CLASSES), done
    stored = [load_split(spec, split) for split in ("train", "validation", "test")]
    found = {
        image.tobytes(): int(label) for images, labels in stored for image, label in zip(images, labels, strict=True)
    }
    assert found == {np.asarray(picture(number)).tobytes(): number % 2 for number in range(200)}
    result = api.train(
        data_dir=tmp_path / "data", logdir=tmp_path / "run", epochs=15, batch_size=20, preprocess="flip_lr|scale(-1,1)",
        num_gpus=2, eval_every="0", quiet=True,
    )  # fmt: skip
    assert result.test["accuracy"] > 0.9
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == ""


def test_folders_of_splits_say_the_split(tmp_path, convert):
    for number in range(60):
        split = ("train", "val", "Test")[number % 3]
        path = tmp_path / "mine" / split / CLASSES[number // 3 % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    done = convert(tmp_path / "mine", "--dataset=other")
    assert done.code == 0 and "wrote other: 20 train, 20 validation, 20 test images of 16x16x3" in done.out, done
    again = convert(tmp_path / "mine", "--dataset=other")
    assert again.code == 0 and "nothing to do" in again.out and f"{tmp_path / 'mine'} was not looked at" in again.out


def test_what_lies_in_a_folder_is_found_or_said(folder):
    (folder / CLASSES[0] / ".DS_Store").write_bytes(b"x")
    (folder / CLASSES[0] / "notes.txt").write_text("BM, hello")
    (folder / CLASSES[0] / "sound.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    picture(1000).save(folder / CLASSES[0] / "without_an_ending", "GIF")
    (folder / CLASSES[0] / "back").symlink_to(folder / CLASSES[0])
    (folder / CLASSES[1] / "link.png").symlink_to(folder / CLASSES[0] / "0.png")
    found = find_pictures(folder)
    assert found.class_names == CLASSES and len(found.pictures) == 202
    assert sorted(Path(line.split(": ")[0]).name for line in found.skipped) == [
        ".DS_Store",
        "back",
        "notes.txt",
        "sound.wav",
    ]


def test_a_class_has_a_name_in_utf_8(folder, convert):
    (folder / "caf\udce9").mkdir()
    done = convert(folder)
    assert done.code == 1 and "the name of a class must be UTF-8" in done.err, done


KINDS = {
    "progressive.jpg": ("RGB", {"progressive": True}), "grey.jpg": ("L", {}), "cmyk.jpg": ("CMYK", {}),
    "palette.png": ("P", {}), "alpha.png": ("RGBA", {}), "one.gif": ("P", {}), "palette.bmp": ("P", {}),
    "web.webp": ("RGB", {"lossless": True}), "scan.tiff": ("RGB", {}), "wrong_name.jpg": ("RGB", {"format": "PNG"}),
}  # fmt: skip


def test_every_kind_of_file_is_what_pillow_makes_of_it(folder, convert, tmp_path):
    expected = set()
    for number, (name, (mode, more)) in enumerate(KINDS.items(), 1000):
        path = folder / CLASSES[number % 2] / name
        picture(number, mode=mode).save(path, **more)
        with Image.open(path) as image:
            expected.add(np.asarray(image.convert("RGB")).tobytes())
    sideways = picture(2001).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter; shown, it is upright.
    sideways.save(folder / CLASSES[1] / "phone.png", exif=exif)
    expected.add(np.asarray(picture(2001)).tobytes())
    done = convert(folder)
    assert done.code == 0, done
    spec = load_manifest(tmp_path / "data")
    stored = {image.tobytes() for split in spec.splits for image in load_split(spec, split)[0]}
    assert len(stored) == 200 + len(expected) and expected <= stored


def huge_png():
    """30,000 x 30,000 pixels, as its header says."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def test_damaged_pictures_are_named_and_nothing_is_written(folder, convert, tmp_path):
    jpeg = tmp_path / "whole.jpg"
    picture(0, (200, 200)).save(jpeg)
    half = jpeg.read_bytes()[: jpeg.stat().st_size // 2]
    damaged = {"empty.jpg": b"", "page.jpg": b"<html>not found</html>", "cut.jpg": half, "huge.png": huge_png()}
    for name, data in damaged.items():
        (folder / CLASSES[0] / name).write_bytes(data)
    done = convert(folder)
    assert done.code == 1 and "damaged pictures, 4:" in done.err and "--skip_corrupt=4 leaves so many out" in done.err
    for text in (
        "empty.jpg: the file is empty",
        "page.jpg: it is no image",
        "cut.jpg: ",
        "huge.png: it has more than 89,478,485",
    ):
        assert text in done.err, done
    assert "Traceback" not in done.err and not (tmp_path / "data").exists()
    assert convert(folder, "--skip_corrupt=3").code == 1
    done = convert(folder, "--skip_corrupt=4")
    assert done.code == 0 and "left out, as damaged, 4:" in done.out, done
    assert sum(load_manifest(tmp_path / "data").num_examples(split) for split in ("train", "validation", "test")) == 200


def test_the_shorter_side_of_all_pictures_is_resized(tmp_path, convert):
    for number in range(30):
        path = tmp_path / "wide" / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (32, 16) if number % 3 else (64, 32)).save(path)
    done = convert(tmp_path / "wide", "--store=decoded")
    assert done.code == 2 and "the pictures have 2 shapes, 20 of 30 are 32 x 16; decoded they must" in done.err, done
    done = convert(tmp_path / "wide", "--store=decoded:8", "--split=60/20/20")
    assert done.code == 0, done
    spec = load_manifest(tmp_path / "data")
    assert spec.image_shape == (8, 16, 3)
    stored = {image.tobytes() for split in spec.splits for image in load_split(spec, split)[0]}
    small = picture(1, (32, 16)).resize((16, 8), Image.Resampling.BILINEAR)
    assert len(stored) == 30 and np.asarray(small).tobytes() in stored


def test_what_is_odd_about_a_set_is_said(folder, convert, tmp_path):
    picture(0).save(folder / CLASSES[1] / "again.png")  # The same bytes as 0.png, of the other class.
    (folder / "rare").mkdir()
    picture(3000).save(folder / "rare" / "one.png")
    done = convert(folder)
    assert done.code == 0 and "the same picture several times, 1:" in done.out, done
    assert done.out.count("has no picture of rare") == 2
    (folder / CLASSES[0] / "large.png").unlink(missing_ok=True)
    picture(5, (32, 16)).save(folder / CLASSES[0] / "large.png")
    other = convert(folder, f"--data_dir={tmp_path / 'other'}")
    assert other.code == 0 and "images of several sizes, in 3 channels" in other.out, other


def digest(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_a_split_follows_from_the_content_alone():
    shares = parse_shares("80/10/10")
    digests = [digest(number) for number in range(10_000)]
    chosen = choose_splits(digests, [""] * 10_000, shares, ())
    counts = [chosen.count(split) for split in ("train", "validation", "test")]
    assert np.abs(np.array(counts) - [8000, 1000, 1000]).max() < 120, counts
    assert chosen[5_000:] == choose_splits(digests[5_000:], [""] * 5_000, shares, ())
    assert set(choose_splits(digests, [""] * 10_000, parse_shares("1/0/0"), ())) == {"train"}
    # What the source lacks is taken from its training pictures; the others stay where they are.
    given = ["train", "train", "validation", "train"] * 2_500
    found = choose_splits(digests, given, shares, {"train", "validation"})
    assert found[2::4] == ["validation"] * 2_500 and found.count("validation") == 2_500
    assert abs(found.count("test") - 7_500 / 9) < 120
    assert choose_splits(digests, given, shares, {"train", "validation", "test"}) == given
    for text in ("80/20", "a/b/c", "0/0/0", "80/10/-10", ""):
        with pytest.raises(UsageError, match="wanted three whole numbers, as 80/10/10"):
            parse_shares(text)


def test_folders_without_a_test_split_give_it_a_part_of_the_training_pictures(tmp_path, convert):
    for number in range(90):
        path = tmp_path / "mine" / ("train", "val", "train")[number % 3] / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    assert convert(tmp_path / "mine", "--split=50/0/50").code == 0
    spec = load_manifest(tmp_path / "data")
    counts = [spec.num_examples(split) for split in ("train", "validation", "test")]
    assert counts[1] == 30 and sum(counts) == 90 and min(counts) > 15


def test_one_of_each_picture_is_kept_where_it_is_judged(tmp_path, convert):
    for number in range(60):
        path = tmp_path / "mine" / ("train", "val", "test")[number % 3] / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(30 if number == 31 else number).save(path)  # In training and in validation.
    done = convert(tmp_path / "mine")
    assert done.code == 0 and "1 on several sides: --deduplicate keeps one" in done.out, done
    done = convert(tmp_path / "mine", "--deduplicate", f"--data_dir={tmp_path / 'once'}")
    assert done.code == 0 and "left out 1 pictures that are there once more" in done.out, done
    spec = load_manifest(tmp_path / "once")
    assert [spec.num_examples(split) for split in ("train", "validation", "test")] == [19, 20, 20]


@pytest.mark.parametrize("balance", [0.25, 1])
def test_rare_classes_are_there_more_often(tmp_path, convert, balance):
    """Of 200 training pictures every tenth is rare; the other splits stay as they are."""
    rows = [["path", "label", "split"]]
    for number in range(240):
        picture(number, size=(16, 16 + number // 60)).save(tmp_path / f"{number}.png")
        split = "train" if number < 200 else ("val", "test")[(number - 200) // 20]
        rows.append([f"{number}.png", "usual" if number % 10 else "rare", split])
    path = write_list(tmp_path / "list.csv", rows)
    done = convert(path, f"--balance={balance}")
    assert done.code == 0 and "training pictures: rare 20 -> " in done.out, done
    spec = load_manifest(tmp_path / "data")
    stored = [r for shard in spec.splits["train"] for r in read_records(spec.path_of(shard), spec)]
    examples = [parse_record(record, spec) for record in stored]
    copies = Counter(image.tobytes() for image, label in examples if label == 0)
    times = 9**balance
    assert len(copies) == 20 and set(copies.values()) == ({9} if balance == 1 else {1, 2})
    assert copies.total() == pytest.approx(20 * times, abs=6) and len(examples) == copies.total() + 180
    assert [spec.num_examples(split) for split in SPLITS[1:]] == [20, 20]
    assert convert(path, f"--balance={balance}", f"--data_dir={tmp_path / 'again'}").code == 0
    assert load_manifest(tmp_path / "again").splits == spec.splits


def test_a_path_that_a_list_names_twice_is_two_examples(tmp_path, convert):
    rows = [["path", "label", "split"]]
    for number in range(12):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append([f"{number}.png", number % 2, ("train", "val", "test")[number % 3]])
    rows.append(["0.png", 0, "test"])  # It is in the training set too.
    path = write_list(tmp_path / "list.csv", rows)
    done = convert(path)
    assert done.code == 0 and "1 on several sides" in done.out and "0.png (train) = " in done.out, done
    spec = load_manifest(tmp_path / "data")
    assert [spec.num_examples(split) for split in ("train", "validation", "test")] == [4, 4, 5]
    assert convert(path, "--deduplicate", f"--data_dir={tmp_path / 'once'}").code == 0
    spec = load_manifest(tmp_path / "once")
    assert [spec.num_examples(split) for split in ("train", "validation", "test")] == [3, 4, 5]


def test_folders_of_splits_and_others_do_not_mix(tmp_path, convert):
    for name in ("train/a", "test/a", "annotations"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    done = convert(tmp_path / "mine")
    assert done.code == 1 and "holds annotations beside train: wanted folders of splits or of classes" in done.err, done


def write_list(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_list_names_pictures_labels_and_splits(folder, convert, tmp_path, ending, delimiter):
    rows = [["label", "path", "split"]]
    for path in folder.rglob("*.png"):
        number = int(path.stem)
        name = path.relative_to(folder) if number % 5 else path  # Absolute ones too.
        rows.append([f'{CLASSES[number % 2]}, "so"', name, ("train", "Val", "test")[number % 3]])
    done = convert(write_list(folder / f"pictures.{ending}", rows, delimiter))
    assert done.code == 0, done
    spec = load_manifest(tmp_path / "data")
    assert spec.name == "pictures" and spec.class_names == tuple(f'{name}, "so"' for name in CLASSES)
    for place, split in enumerate(("train", "validation", "test")):
        images, labels = load_split(spec, split)
        found = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
        assert found == {np.asarray(picture(n)).tobytes(): n % 2 for n in range(200) if n % 3 == place}


def test_labels_that_are_numbers_are_in_their_order(tmp_path, convert):
    rows = [["path", "label"]]
    for number in range(60):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append([f"{number}.png", number % 12])
    assert convert(write_list(tmp_path / "list.csv", rows)).code == 0
    assert load_manifest(tmp_path / "data").class_names == tuple(str(number) for number in range(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv has no column path, only none; wanted a header with path and label"),
        ("file,label\na,b\n", "list.csv has no column path, only file, label"),
        ("path,label\n", "list.csv names no pictures"),
        ("path,label\na.png\n", "list.csv:2: has another number of columns than the header"),
        ("path,label\na.png,b,c\n", "list.csv:2: has another number of columns than the header"),
        ("path,label\n,b\n", "list.csv:2: path is empty"),
        ("path,label\na.png,\n", "list.csv: a.png has an empty label; wanted a class for each picture"),
        ("path,label,split\na.png,b,dev\n", "list.csv:2: split 'dev': wanted train, val"),
        ("path,label,xmin\na.png,b,1\n", "has a column xmin and none ymin; a box is ymin, xmin, ymax, xmax"),
        (f"{BOXED}a.png,b,1,2,1,4\n", "list.csv:2: the box (1.0, 2.0, 1.0, 4.0) (ymin, xmin, ymax, xmax) has no area"),
        (
            f"{BOXED}a.png,b,-1,2,1,4\n",
            "the box (-1.0, 2.0, 1.0, 4.0) (ymin, xmin, ymax, xmax) lies outside",
        ),
        (f"{BOXED}a.png,b,0,0,1,1\nb.png,b,0,0,9,9\n", "wanted all as fractions of 0..1, or all in pixels"),
        ("path,label\na.png,;\n", "list.csv: all labels are empty"),
        ("path,target:a\na.png,1e39\n", "list.csv:2: target:a is '1e39', wanted a number of float32"),
        (f"{BOXED}a.png,b,0,0,1,\n", "list.csv:2: xmax is '', wanted a number of float32"),
        (f"{BOXED}a.png,b,0,0,1,nan\n", "list.csv:2: xmax is 'nan', wanted a number of float32"),
        (f"{BOXED}a.png,b,0,0,1,1\na.png,c,0,0,1,1\n", "list.csv:3: a.png has another label or split than in a line"),
        ("path,target:age\na.png,old\n", "list.csv:2: target:age is 'old', wanted a number of float32"),
        ("path,target:\na.png,1\n", "its columns are path, target:; each needs a name of its own"),
        ("path,label,label\na.png,1,2\n", "its columns are path, label, label; each needs a name of its own"),
        ("path,label,target:age\na.png,1,2\n", "has columns label and target:age: wanted classes or numbers, not both"),
        ('path,label\n"a.png,b\n', "list.csv is damaged"),
        ("path,label\na.png,caf\udce9\n", "list.csv is no list in UTF-8"),
        ("path,label\nnone.png,b\n", "none.png: No such file or directory"),
    ],
)
def test_what_is_wrong_in_a_list_is_one_line(tmp_path, convert, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text, errors="surrogateescape")
    done = convert(path)
    assert done.code == 1 and message in done.err and "Traceback" not in done.err, done
    assert not (tmp_path / "data").exists()


def turned_file(path, pixels, orientation):
    """Writes what lies in a file of this Orientation, lossless."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def spot(number, height=20, width=30):
    """A bright rectangle on black, and its box in pixels, ymin, xmin, ymax, xmax."""
    rng = np.random.default_rng(number)
    top, left = int(rng.integers(0, height - 8)), int(rng.integers(0, width - 9))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top : top + 7, left : left + 8] = 255
    return pixels, (top, left, top + 7, left + 8)


def boxed_list(folder, *, in_pixels):
    """Bright rectangles in files of each Orientation; every fifth has a line for each half of it, one has no box."""
    folder.mkdir()
    rows = [["path", "label", "ymin", "xmin", "ymax", "xmax"]]
    for number in range(64):
        pixels, box = spot(number)
        turned_file(folder / f"{number}.png", pixels, 1 + number % 8)
        scaled = box if in_pixels else tuple(side / (20, 30)[place % 2] for place, side in enumerate(box))
        middle = (scaled[1] + scaled[3]) / 2
        halves = [(*scaled[:3], middle), (scaled[0], middle, *scaled[2:])]
        for each in halves if number % 5 == 0 else [scaled if number else ("", "", "", "")]:
            rows.append([f"{number}.png", number % 2, *each])
    return write_list(folder / "list.csv", rows)


@pytest.mark.parametrize(("in_pixels", "store"), [(True, "encoded"), (False, "paths")])
def test_boxes_of_a_list_lie_where_their_objects_are(tmp_path, convert, in_pixels, store):
    """In the upright picture, and in the windows that a training cuts out around them."""
    done = convert(boxed_list(tmp_path / "spots", in_pixels=in_pixels), f"--store={store}")
    assert done.code == 0, done
    spec = load_manifest(tmp_path / "data")
    for split in SPLITS:
        for shard in spec.splits[split]:
            for record in read_records(spec.path_of(shard), spec):
                pixels, _ = parse_record(record, spec)
                height, width = pixels.shape[:2]
                seen = np.zeros((height, width), bool)
                for box in parse_boxes(record, spec):
                    top, left, bottom, right = np.rint(box * [height, width, height, width]).astype(int)
                    seen[top:bottom, left:right] = True
                np.testing.assert_array_equal(seen, pixels[..., 0] == 255)
    text = "distorted_crop(16, area=0.05..0.3, min_object_covered=1.0, attempts=1000)"
    side = make_preprocessing(
        spec.stored_shape, text, "resize(16)", smallest=spec.smallest, has_boxes=spec.has_boxes
    ).training
    stored = [r for shard in spec.splits["train"] for r in read_records(spec.path_of(shard), spec)]
    boxed = [len(parse_boxes(record, spec)) > 0 for record in stored]

    def bright_windows(spec):
        """Of five epochs, the share of windows whose bright part is that of a rectangle or of its half, or more."""
        with tf.Graph().as_default(), tf.Session() as session:
            keys = tf.placeholder(tf.int64, [len(stored)])
            found = parse_examples(tf.constant(stored), spec, side, keys)["image"]
            cut = [session.run(found, {keys: np.arange(len(stored)) + 1000 * epoch})[boxed] for epoch in range(5)]
        return np.mean([(images > 127).mean((1, 2, 3)) > 0.8 * 28 / 180 for images in cut])

    assert bright_windows(spec) > 0.95
    # The same windows are drawn anywhere, if nobody reads the boxes.
    assert bright_windows(dataclasses.replace(spec, fields=spec.fields._replace(boxes=""))) < 0.7


def test_fractions_that_are_rounded_up_are_fractions(tmp_path, convert):
    """Of one picture that is written in two ways, in a list of semicolons with spaces in its header."""
    for number in range(60):
        picture(number).save(tmp_path / f"{number}.png")
    rows = [["path", " label", "split ", *BOXED.strip().split(",")[2:]]]
    for number in range(60):
        rows.append([f"{number}.png", "a", (" train", "val", "test")[number % 3], 0.5, 0.5, 1.0004, 1])
    rows.append(["./0.png", "a", "train", 0, 0, 0.5, 0.5])
    done = convert(write_list(tmp_path / "list.csv", rows, ";"))
    assert done.code == 0 and "boxes: 61, in fractions of 0..1" in done.out, done
    spec = load_manifest(tmp_path / "data")
    stored = [r for split in SPLITS for shard in spec.splits[split] for r in read_records(spec.path_of(shard), spec)]
    assert sorted(len(parse_boxes(record, spec)) for record in stored) == [1] * 59 + [2]


def test_a_path_of_a_list_that_is_no_file_does_not_hang(tmp_path, convert):
    os.mkfifo(tmp_path / "pipe.jpg")
    done = convert(write_list(tmp_path / "list.csv", [["path", "label"], ["pipe.jpg", "a"], ["/dev/zero", "b"]]))
    assert done.code == 1 and done.err.count("it is no regular file") == 2, done


def test_a_box_outside_of_its_picture_is_a_line(tmp_path, convert):
    picture(1).save(tmp_path / "a.png")
    path = write_list(tmp_path / "list.csv", [BOXED.strip().split(","), ["a.png", "b", 0, 3, 10, 17]])
    done = convert(path)
    message = "a.png: the box (0.0, 3.0, 10.0, 17.0) (ymin, xmin, ymax, xmax) lies outside of 16 x 16 pixels"
    assert done.code == 1 and message in done.err, done


def test_a_training_around_boxes_says_what_it_needs(tmp_path, convert):
    assert convert(boxed_list(tmp_path / "spots", in_pixels=True)).code == 0
    settings = {"data_dir": tmp_path / "data", "logdir": tmp_path / "run", "model": "mlp", "quiet": True}
    settings |= {"eval_preprocess": "resize(12)", "train_steps": 5, "batch_size": 16}
    with pytest.raises(UsageError, match=r"keeps the objects of pictures.* only as the first"):
        api.train(**settings, preprocess="resize_short(16)|distorted_crop(12)")
    result = api.train(**settings, preprocess="distorted_crop(12)", num_gpus=2)
    assert result.step == 5
    done = convert(tmp_path / "spots" / "list.csv", "--store=decoded", f"--data_dir={tmp_path / 'decoded'}")
    assert done.code == 2 and "boxes are kept with pictures that are stored by --store=encoded" in done.err, done


def batch_of(spec, size=12):
    """All records of the training set, as the queue gives them: by the bytes of their pictures, their labels."""
    side = make_preprocessing(spec.stored_shape, smallest=spec.smallest).training
    with tf.Graph().as_default():
        source = queues.build(
            queues.make_plan(spec, 1), spec, batch_size=spec.num_examples("train"), position=0, num_readers=2,
            capacity=1, side=side,
        )  # fmt: skip
        with open_session(source, tf.ConfigProto(), None) as opened:
            batch = opened.session.run(source.batch)
    return {image.tobytes(): label for image, label in zip(batch["image"], batch["label"], strict=True)}


@pytest.mark.parametrize("store", ["encoded", "decoded"])
def test_pictures_may_have_several_labels_or_none(tmp_path, convert, run_here, store):
    """Batches have a number of 0 or 1 for each class."""
    rows, wanted = [["path", "label"]], {}
    for number in range(60):
        picture(number).save(tmp_path / f"{number}.png")
        tags = [name for name, by in (("two", 2), ("three", 3), ("five", 5)) if number % by == 0]
        rows.append([f"{number}.png", " ; ".join(tags)])
        wanted[np.asarray(picture(number)).tobytes()] = [float(number % by == 0) for by in (5, 3, 2)]
    done = convert(write_list(tmp_path / "list.csv", rows), f"--store={store}")
    assert done.code == 0, done
    spec = load_manifest(tmp_path / "data")
    assert spec.label_kind == "several" and spec.class_names == ("five", "three", "two")
    found = batch_of(spec)
    assert len(found) == spec.num_examples("train")
    assert all(label.tolist() == wanted[image] for image, label in found.items())
    done = run_here("trainer.preview", f"--data_dir={spec.data_dir}", f"--output={tmp_path / 'sheet.png'}")
    assert done.code == 0 and "classes: five " in done.out, done
    done = run_here("trainer", f"--data_dir={spec.data_dir}", f"--logdir={tmp_path / 'run'}", "--batch_size=8")
    assert done.code == 0 and "test mean_average_precision" in done.out, done


@pytest.mark.parametrize("store", ["encoded", "decoded"])
def test_targets_are_numbers(tmp_path, convert, run_here, store):
    rows, wanted = [["path", "target:age", "target:weight"]], {}
    for number in range(60):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append([f"{number}.png", number, number / -7])
        wanted[np.asarray(picture(number)).tobytes()] = np.array([number, number / -7], np.float32)
    done = convert(write_list(tmp_path / "list.csv", rows), f"--store={store}")
    assert done.code == 0 and "age: " in done.out, done
    spec = load_manifest(tmp_path / "data")
    assert spec.label_kind == "numbers" and spec.class_names == ("age", "weight")
    found = batch_of(spec)
    assert len(found) == spec.num_examples("train")
    assert all((label == wanted[image]).all() for image, label in found.items())
    images, labels = load_split(spec, "validation")
    assert all((label == wanted[image.tobytes()]).all() for image, label in zip(images, labels, strict=True))
    done = run_here("trainer.preview", f"--data_dir={spec.data_dir}", f"--output={tmp_path / 'sheet.png'}")
    assert done.code == 0 and "targets, means: age " in done.out, done


def arrays(count=90, shape=(8, 8)):
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (count, *shape), np.uint8), "y_train": np.arange(count) % 3,
        "x_test": rng.integers(0, 256, (20, *shape), np.uint8), "y_test": np.arange(20)[:, np.newaxis] % 3,
    }  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_arrays_as_keras_has_them(tmp_path, convert, together):
    given = arrays()
    if together:
        np.savez(tmp_path / "mine.npz", **given)
    else:
        (tmp_path / "mine").mkdir()
        for name, array in given.items():
            np.save(tmp_path / "mine" / f"{name}.npy", array)
    done = convert(tmp_path / ("mine.npz" if together else "mine"), "--split=60/30/10")
    assert done.code == 0, done
    spec = load_manifest(tmp_path / "data")
    assert (spec.name, spec.class_names, spec.image_shape) == ("mine", ("0", "1", "2"), (8, 8, 1))

    def pairs(images, labels):
        return {(image.tobytes(), int(label)) for image, label in zip(images, np.ravel(labels), strict=True)}

    assert pairs(*load_split(spec, "test")) == pairs(given["x_test"], given["y_test"])
    train, validation = (pairs(*load_split(spec, split)) for split in ("train", "validation"))
    assert 45 < len(train) < 75 and not train & validation  # 60 of 90, by the content.
    assert train | validation == pairs(given["x_train"], given["y_train"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": None}, "holds no x_train; wanted x_train, y_train, x_test, y_test as Keras's data sets"),
        ({"y_train": None}, "holds no y_train, only x_test, x_train, y_test"),
        ({"x_train": np.zeros((90, 8, 8))}, "x_train is float64 [90, 8, 8]; wanted uint8, 0 to 255"),
        ({"x_train": np.zeros((90, 1, 8, 8), np.uint8)}, "x_train has 8 channels, wanted 1, 3 or 4"),
        ({"x_test": np.zeros((20, 9, 8), np.uint8)}, "images of [8, 8, 1] and [9, 8, 1]"),
        ({"y_train": np.zeros(80, int)}, "y_train has 80 labels from 0 on, wanted 90 from 0 on"),
        ({"y_train": np.full(90, 2_000_000_000)}, "a label is 2,000,000,000, of 110 images; number the classes"),
        ({"y_train": np.full(90, -1)}, "y_train has 90 labels from -1 on"),
        ({"y_train": np.zeros((90, 3), int)}, "y_train is int64 [90, 3]; wanted a whole number an image"),
        ({"y_train": np.array([{}] * 90)}, "y_train cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_arrays_of_another_layout_are_one_line(tmp_path, convert, change, message):
    given = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    np.savez(tmp_path / "mine.npz", **given)
    done = convert(tmp_path / "mine.npz")
    assert done.code == 1 and message in done.err and "Traceback" not in done.err, done
    assert not (tmp_path / "data").exists()


def test_a_damaged_file_of_arrays_and_flags_of_pictures_are_one_line(tmp_path, convert):
    np.savez(tmp_path / "mine.npz", **arrays())
    done = convert(tmp_path / "mine.npz", "--store=decoded:5")
    assert done.code == 2 and "--store is not of --source=" in done.err, done
    whole = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "mine.npz").write_bytes(whole[:2000] + b"xx" + whole[2002:])
    done = convert(tmp_path / "mine.npz")
    assert done.code == 1 and "cannot be read: Bad CRC-32" in done.err, done


def test_the_shorter_side_is_resized():
    assert resized((100, 200), 50) == (50, 100) and resized((333, 100), 10) == (33, 10)
    assert resized((7, 9), 0) == (7, 9) and resized((1, 1000), 1) == (1, 1000)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--source=none"], 2, "--source=none: no such file or folder"),
        (["--split=1/1/1"], 2, "--split is of your own pictures: give them by --source"),
        (["--source=.", "--source_dir=."], 2, "--source is of your own pictures"),
        (["--source=empty"], 1, "empty holds no folders; wanted one for each class"),
        (["--source=bare"], 1, "bare holds no pictures in its 1 folders (a ...)"),
        (["--source=one", "--split=1/0/0"], 1, "one gives no picture for validation"),
        (["--source=one", "--store=decoded:0"], 2, "--store=decoded:0: wanted encoded"),
        (["--source=one", "--store=raw"], 2, "--store=raw: wanted encoded"),
        (["--source=one", "--store=encoded:160"], 2, "--store=encoded:160: wanted encoded"),
    ],
)
def test_mistakes_are_one_line(run_here, tmp_path, args, code, message):
    for name in ("empty", "bare/a", "one/a"):
        (tmp_path / name).mkdir(parents=True)
    picture(0).save(tmp_path / "one" / "a" / "0.png")
    done = run_here("trainer.convert", *args, cwd=tmp_path)
    assert done.code == code and message in done.err and "Traceback" not in done.err, done
