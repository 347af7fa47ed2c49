"""A folder of one's own pictures: found, split, converted, trained on; and what is wrong with it, a line each."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer import api
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.data.sources.folders import Found, Looked, find_pictures, parse_shares, split_of
from trainer.data.sources.own import resized
from trainer.errors import UsageError

pytestmark = pytest.mark.timeout(120)
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
    assert result.test_accuracy > 0.9
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
    assert convert(tmp_path / "wide").code == 2
    done = convert(tmp_path / "wide", "--short_side=8", "--split=60/20/20")
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
    assert other.code == 2 and "the pictures have 2 shapes, 202 of 203 are 16 x 16" in other.err, other


def looked(content, split=""):
    import hashlib

    return Looked(Found(Path(content), 0, split), (1, 1), False, "PNG", hashlib.sha256(content.encode()).hexdigest())


def test_a_split_follows_from_the_content_alone():
    shares = parse_shares("80/10/10")
    chosen = [split_of(looked(str(number)), shares) for number in range(10_000)]
    counts = [chosen.count(split) for split in ("train", "validation", "test")]
    assert np.abs(np.array(counts) - [8000, 1000, 1000]).max() < 120, counts
    assert split_of(looked("5", "test"), shares) == "test"
    assert {split_of(looked(str(number)), parse_shares("1/0/0")) for number in range(100)} == {"train"}
    for text in ("80/20", "a/b/c", "0/0/0", "80/10/-10", ""):
        with pytest.raises(UsageError, match="wanted three whole numbers, as 80/10/10"):
            parse_shares(text)


def test_the_shorter_side_is_resized():
    assert resized((100, 200), 50) == (50, 100) and resized((333, 100), 10) == (33, 10)
    assert resized((7, 9), 0) == (7, 9) and resized((1, 1000), 1) == (1, 1000)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--source=none"], 2, "--source=none: no such folder"),
        (["--split=1/1/1"], 2, "--split is of your own pictures: give their folder by --source"),
        (["--source=.", "--source_dir=."], 2, "--source is of your own pictures"),
        (["--source=empty"], 1, "empty holds no folders; wanted one for each class"),
        (["--source=bare"], 1, "bare holds no pictures in its 1 folders (a ...)"),
        (["--source=one", "--split=1/0/0"], 1, "one gives no picture for validation"),
        (["--source=one", "--short_side=-1"], 2, "short_side=-1 is out of range"),
    ],
)
def test_mistakes_are_one_line(run_here, tmp_path, args, code, message):
    for name in ("empty", "bare/a", "one/a"):
        (tmp_path / name).mkdir(parents=True)
    picture(0).save(tmp_path / "one" / "a" / "0.png")
    done = run_here("trainer.convert", *args, cwd=tmp_path)
    assert done.code == code and message in done.err and "Traceback" not in done.err, done
