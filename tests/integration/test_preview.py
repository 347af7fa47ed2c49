"""The sheet of a data set's pictures: as they are stored, evaluated, and trained on."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from trainer import plotting
from trainer.data import records
from trainer.data.manifest import load_manifest, save_manifest
from trainer.evaluating.previewing import Stored, choose_pictures, describe_pixels, see
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def preview(run_here, digits_dir, tmp_path):
    def run(*args, data_dir=digits_dir):
        return run_here("trainer.preview", f"--data_dir={data_dir}", f"--output={tmp_path / 'sheet.png'}", *args)

    return run


def test_a_sheet_is_drawn_and_pixels_and_classes_are_told(preview, digits_dir, tmp_path):
    spec = load_manifest(digits_dir)
    images, labels = records.load_split(spec, "train")
    done = preview("--preprocess=translate(1)|scale(-1,1)", "--pictures=3", "--epochs=2")
    assert done.code == 0, done
    # All 1,258 are not counted, but the first 100 of each of the 10 shards.
    begins = np.cumsum([0, *(shard.num_examples for shard in spec.splits["train"])])[:-1]
    counted = np.concatenate([np.arange(begin, begin + 100) for begin in begins])
    mean = images[counted].astype(float).mean()
    assert f"stored: uint8 8x8x1, 0 to 255, mean {mean:.4g}, deviation {images[counted].std():.4g}" in done.out, done
    assert f"evaluation: float32 8x8x1, -1 to 1, mean {mean / 127.5 - 1:.4g}, deviation" in done.out, done
    counts = ", ".join(f"{digit} {count}" for digit, count in enumerate(np.bincount(labels[counted])))
    assert f"classes: {counts}\n" in done.out and f"wrote {tmp_path / 'sheet.png'}" in done.out, done
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > image.height > 300


def test_the_columns_are_what_training_and_evaluation_see(preview, digits_dir, monkeypatch):
    sheets = []
    monkeypatch.setattr(plotting, "plot_sheet", lambda *args: sheets.append(args))
    text = "translate(1)|contrast(0.5..1.5)|scale(-1,1)"
    assert preview(f"--preprocess={text}", "--seed=3", "--epochs=3", "--pictures=12").code == 0
    columns, titles, names, _ = sheets[0]
    spec = load_manifest(digits_dir)
    images, labels = records.load_split(spec, "train")
    begins = np.cumsum([0, *(shard.num_examples for shard in spec.splits["train"])])
    numbers = [*begins[:10], begins[0] + 1, begins[1] + 1]  # Two records of a shard come after one of each.
    np.testing.assert_array_equal(columns[0], images[numbers])
    assert names == [spec.class_names[label] for label in labels[numbers]]
    np.testing.assert_allclose(columns[1], images[numbers] / 127.5 - 1, atol=1e-6)
    stored = [Stored(number, images[number], 0, np.zeros((0, 4), np.float32)) for number in numbers]
    views = see(make_preprocessing((8, 8, 1), text, seed=3), stored, epochs=3, num_records=1258)
    assert titles[2:] == ["training, epoch 0", "training, epoch 1", "training, epoch 2"]
    for column, wanted in zip(columns[2:], views.trained, strict=True):
        np.testing.assert_array_equal(column, wanted)
    assert not np.array_equal(columns[2], columns[3])


def test_pictures_are_mixed_with_those_that_are_shown_with_them():
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    stored = [Stored(number, image, 0, np.zeros((0, 4), np.float32)) for number, image in enumerate(images)]
    seen = make_preprocessing((8, 8, 1), "unit|mixup(1.0)", seed=3)
    found = np.array(see(seen, stored, epochs=1, num_records=5).trained[0])
    with tf.Graph().as_default(), tf.Session() as session:
        shares = session.run(seen.training.shares(tf.range(5, dtype=tf.int64)))[:, np.newaxis, np.newaxis, np.newaxis]
    np.testing.assert_allclose(found, (shares * images + (1 - shares) * np.roll(images, 1, 0)) / 255, atol=1e-6)


def test_names_of_classes_are_drawn_as_they_are(digits_dir, tmp_path, preview):
    """Not as formulas, and without a warning where the font lacks a letter."""
    spec = load_manifest(digits_dir)
    for path in digits_dir.glob("*.tfrecords"):
        (tmp_path / path.name).symlink_to(path)
    names = ("$\\frac$", "水", "a_b^c", *spec.class_names[3:])
    save_manifest(dataclasses.replace(spec, class_names=names, data_dir=tmp_path))
    done = preview("--split=validation", data_dir=tmp_path)
    assert done.code == 0 and "$\\frac$ " in done.out and done.err == "", done


def test_pixels_are_told_by_channel():
    flat = np.full((2, 4, 4, 3), 7, np.uint8)
    assert describe_pixels("x", flat) == "x: uint8 4x4x3, 7 to 7, mean 7 7 7, deviation 0 0 0"


def test_no_more_pictures_than_there_are(digits_dir):
    spec = load_manifest(digits_dir)
    found = choose_pictures(spec, "validation", 1000)
    assert sorted(picture.number for picture in found) == list(range(180))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--split=dev"], 2, "split=dev is unknown"),
        (["--output=sheet.jpg"], 2, "wanted a name that ends with .png"),
        (["--output=none/sheet.png"], 2, "there is no directory none"),
        (["--pictures=0"], 2, "pictures=0 is out of range"),
        (["--preprocess=random_crop(9)"], 2, "random_crop(9, 9) of pictures of 8 x 8"),
        (["--data_dir="], 2, "--data_dir is missing"),
        (["--data_dir=nothing"], 1, "nothing holds no manifest.json"),
    ],
)
def test_mistakes_are_one_line(preview, args, code, message):
    done = preview(*args)
    assert done.code == code and message in done.err and "Traceback" not in done.err, done
