"""Pictures of several sizes, kept as JPEG and PNG: decoded in the input, the same in every run and in every tool."""

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.conftest import read_metrics
from tests.soak import pairs
from trainer import api
from trainer.data import manifest, records, writing
from trainer.data.manifest import load_manifest, save_manifest
from trainer.data.records import load_split, read_records
from trainer.data.spec import IMAGE, describe_images
from trainer.data.writing import Encoded, serialize_encoded
from trainer.errors import UsageError
from trainer.inputs import queues
from trainer.inputs.build import InputSettings, build_input
from trainer.inputs.parsing import parse_examples
from trainer.preprocessing.decoding import decode_picture
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.rundir import RunDir
from trainer.running.session import open_session
from trainer.saving.models import load_model
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(300)
TRAINING = "resize_short(14)|random_crop(10)|flip_lr|contrast(0.8..1.25)|scale(-1,1)"
EVALUATION = "resize_short(12)|crop_or_pad(10)|scale(-1,1)"


def picture(number):
    """Noise that is brighter in its upper or in its lower half, of some size from 16 x 20 to 35 x 35."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in rng.integers((16, 20), 36))
    pixels = rng.integers(0, 100, (height, width, 3), np.uint8)
    half = slice(0, height // 2) if number % 2 else slice(height // 2, height)
    pixels[half] += 120
    return pixels


def as_file(pixels, kind="PNG", orientation=1, **more):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif, **more)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """150 pictures, every third a JPEG."""
    folder = tmp_path_factory.mktemp("encoded") / "halves"
    for number in range(150):
        kind, ending = ("JPEG", "jpg") if number % 3 == 0 else ("PNG", "png")
        path = folder / ("below", "above")[number % 2] / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_file(picture(number), kind))
    return folder


@pytest.fixture(scope="module")
def data_dir(folder):
    from trainer.convert import main

    target = folder.parent / "data"
    assert main(["convert", f"--source={folder}", f"--data_dir={target}", "--split=60/20/20", "--shards=4"]) == 0
    return target


@pytest.fixture
def train(data_dir, tmp_path):
    def run(name="run", **settings):
        settings = {
            "data_dir": data_dir, "logdir": tmp_path / name, "preprocess": TRAINING, "eval_preprocess": EVALUATION,
            "batch_size": 20, "eval_every": "0", "train_steps": 20, "log_every": "5", "quiet": True,
            "model_args": ("dropout=0",),
            **settings,
        }  # fmt: skip
        assert api.train(**settings).status == "done"
        return settings["logdir"]

    return run


def test_the_bytes_of_the_files_are_kept_and_every_reader_reads_them(folder, data_dir):
    spec = load_manifest(data_dir)
    assert spec.is_encoded and spec.stored_shape == (None, None, 3)
    sizes = [picture(number).shape for number in range(150)]
    assert spec.smallest == (min(h for h, _, _ in sizes), min(w for _, w, _ in sizes))
    kept = {}
    for split in spec.splits:
        for shard in spec.splits[split]:
            for record in tf.io.tf_record_iterator(str(spec.path_of(shard))):
                feature = tf.train.Example.FromString(record).features.feature
                kept[feature["image"].bytes_list.value[0]] = (
                    feature["label"].int64_list.value[0],
                    feature["height"].int64_list.value[0],
                    feature["width"].int64_list.value[0],
                )
    wanted = {}
    for number in range(150):
        (path,) = folder.glob(f"*/{number}.*")
        height, width, _ = picture(number).shape
        wanted[path.read_bytes()] = (spec.class_names.index(path.parent.name), height, width)
    assert kept == wanted


def test_what_tensorflow_decodes_wrongly_is_written_anew(run_here, tmp_path):
    """16 bits, a palette in a BMP, transparency, TIFF: then TensorFlow gives what pillow gives."""
    pixels = picture(1)
    deep = Image.fromarray(picture(2)[..., 0].astype(np.uint16) * 257)
    clear = Image.fromarray(np.dstack([picture(3), np.full(picture(3).shape[:2], 128, np.uint8)]))
    files = {
        "palette.bmp": Image.fromarray(pixels).convert("P"), "deep.png": deep, "clear.png": clear,
        "scan.tiff": Image.fromarray(pixels), "web.webp": Image.fromarray(pixels), "kept.png": Image.fromarray(pixels),
        "cmyk.jpg": Image.fromarray(pixels).convert("CMYK"), "grey.jpg": Image.fromarray(pixels[..., 0]),
    }  # fmt: skip
    for number in range(8):
        for name, image in files.items():
            image = image.crop((0, 0, image.width - number, image.height))  # None is there twice.
            path = tmp_path / "mine" / "ab"[number % 2] / f"{number}{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, **({"lossless": True} if name.endswith("webp") else {}))
    done = run_here("trainer.convert", f"--source={tmp_path / 'mine'}", f"--data_dir={tmp_path / 'data'}")
    assert done.code == 0 and "40 pictures are written anew as PNG" in done.out, done
    spec = load_manifest(tmp_path / "data")
    side = make_preprocessing(spec.stored_shape, "resize(9)", smallest=spec.smallest).elsewhere
    with tf.Graph().as_default(), tf.Session() as session:
        data, orientation = tf.placeholder(tf.string, []), tf.ones([], tf.int64)
        decoded = decode_picture(data, orientation, side.stored_shape)
        for shard in spec.splits["train"]:
            for record in read_records(spec.path_of(shard)):
                feature = tf.train.Example.FromString(record).features.feature
                image, _ = records.parse_record(record, spec)  # By pillow.
                found = session.run(decoded, {data: feature["image"].bytes_list.value[0]})
                np.testing.assert_array_equal(found, image)


def through_tensorflow_1(pixels, name):
    """The evaluation of TF-Slim's pipelines of these names, written with the functions of TensorFlow 1 alone."""
    image = tf.constant(pixels)
    if name == "inception":
        image = tf.image.central_crop(tf.image.convert_image_dtype(image, tf.float32), 0.875)
        image = tf.image.resize_bilinear(image[tf.newaxis], [24, 24], align_corners=False)[0]
        return (image - 0.5) * 2.0
    height, width = pixels.shape[:2]
    scale = np.float32(27) / np.float32(min(height, width))  # 24 * 256 / 224
    size = [int(np.rint(np.float32(side) * scale)) for side in (height, width)]
    image = tf.image.resize_bilinear(tf.cast(image, tf.float32)[tf.newaxis], size, align_corners=False)[0]
    top, left = (size[0] - 24) // 2, (size[1] - 24) // 2
    return image[top : top + 24, left : left + 24] - [123.68, 116.78, 103.94]


@pytest.mark.parametrize("name", ["inception", "vgg"])
def test_named_evaluations_are_those_of_tensorflow_1_to_the_last_bit(data_dir, name):
    spec = load_manifest(data_dir)
    side = make_preprocessing(spec.stored_shape, f"{name}(24)", smallest=spec.smallest).elsewhere
    stored = [r for shard in spec.splits["test"] for r in read_records(spec.path_of(shard), spec)]
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(side.in_batches(parse_examples(tf.constant(stored), spec, side)[IMAGE]))
        for image, record in zip(found, stored, strict=True):
            pixels, _ = records.parse_record(record, spec)
            np.testing.assert_array_equal(image, session.run(through_tensorflow_1(pixels, name)))


def read(spec, side, steps, *, position=0, readers=1, threads=1, batch_size=16):
    with tf.Graph().as_default(), tf.variable_scope("input"):
        plan = queues.make_plan(spec, 1, 64)
        how = {"num_readers": readers, "decode_threads": threads, "batch_size": batch_size, "position": position}
        source = queues.build(plan, spec, **how, capacity=3, side=side)
        with open_session(source, tf.ConfigProto(inter_op_parallelism_threads=-1), None) as opened:
            return [opened.session.run(source.batch) for _ in range(steps)]


def test_every_picture_is_cut_out_of_its_record_whatever_the_number_of_threads(data_dir):
    """Each is a window of the picture that pillow decodes; windows of another epoch are others."""
    spec = load_manifest(data_dir)
    side = make_preprocessing(spec.stored_shape, "random_crop(12)", "crop_or_pad(12)", smallest=spec.smallest).training
    images = [image for shard in spec.splits["train"] for image, _ in records.read_examples(spec.path_of(shard), spec)]
    one = read(spec, side, 12)
    windows = {}
    for batch in one:
        for found, label, key in zip(batch["image"], batch["label"], batch["record"], strict=True):
            image = images[key % len(images)].astype(int)
            every = np.lib.stride_tricks.sliding_window_view(image, (12, 12, 3))[:, :, 0]
            same = (every == found).all(axis=(2, 3, 4))
            assert same.any()
            windows[int(key)] = tuple(np.argwhere(same)[0])
            bright = image[: len(image) // 2].mean() > image[len(image) // 2 :].mean()
            assert spec.class_names[label] == ("above" if bright else "below")
    twice = [key for key in windows if key + len(images) in windows]
    assert len(twice) > 50
    assert np.mean([windows[key] == windows[key + len(images)] for key in twice]) < 0.2
    for readers, threads in ((2, 2), (3, 5)):
        for mine, other in zip(one, read(spec, side, 12, readers=readers, threads=threads), strict=True):
            for name in mine:
                np.testing.assert_array_equal(mine[name], other[name])
    for mine, other in zip(one[7:9], read(spec, side, 2, position=7 * 16, threads=3), strict=True):
        np.testing.assert_array_equal(mine["image"], other["image"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_upright_in_a_batch(tmp_path, orientation):
    pixels = picture(1)[:16, :20]
    data = as_file(pixels, "PNG", orientation)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    record = Encoded(data, 0, orientation, upright.shape)
    shards = writing.write_shards([record] * 4, folder=tmp_path, split="train", num_shards=1, advance=lambda n: None)
    smallest = upright.shape[:2]
    spec = describe_images("one", upright.shape, ("a",), {"train": shards, "validation": (), "test": ()}, tmp_path)
    spec = dataclasses.replace(spec, smallest=smallest)
    batch = read(spec, make_preprocessing(spec.stored_shape, smallest=smallest).training, 1, batch_size=4)[0]
    np.testing.assert_array_equal(batch["image"], [upright] * 4)
    np.testing.assert_array_equal(load_split(spec, "train")[0], [upright] * 4)


def losses(logdir):
    return np.array(list(read_metrics(logdir, "loss").values()))


@pytest.mark.slow
def test_towers_and_threads_see_the_same_pictures(train):
    one = losses(train("one", decode_threads=1))
    np.testing.assert_allclose(losses(train("four", num_gpus=4, queue_readers=3, decode_threads=3)), one, rtol=1e-5)
    assert (np.abs(losses(train("other", seed=5)) / one - 1) > 1e-3).any()


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(train):
    settings = {"num_gpus": 2, "decode_threads": 3, "decay": "constant"}
    whole = train("whole", **settings)
    for last in (3, 11, 20):
        parts = train("parts", **settings, train_steps=last)
    readers = [tf.train.NewCheckpointReader(tf.train.latest_checkpoint(str(path))) for path in (whole, parts)]
    for name in readers[0].get_variable_to_shape_map():
        np.testing.assert_array_equal(*(reader.get_tensor(name) for reader in readers), err_msg=name)


AS_FLOATS = {
    "preprocess": "random_resize_short(12..16)|random_crop(10)|flip_lr|unit|color('bs')|scale(-1,1)",
    "eval_preprocess": "unit|resize_short(12, method='bilinear_tf1')|crop_or_pad(10)|scale(-1,1)",
}


@pytest.mark.parametrize("settings", [{}, pytest.param(AS_FLOATS, id="as floats", marks=pytest.mark.slow)])
def test_training_evaluation_predict_and_exports_see_the_same_pictures(train, run_here, tmp_path, settings):
    """Of any size, grey, of CMYK, turned by EXIF; of the test set, and others; resized as bytes, and as float32."""
    logdir = train(train_steps=150, **settings)
    result = json.loads((logdir / "result.json").read_text())
    assert result["test_accuracy"] > 0.9
    done = run_here("trainer.export", f"--logdir={logdir}", "--format=saved_model", f"--output={tmp_path / 'model'}")
    assert done.code == 0 and "uint8_images: uint8 [10, 10, 3]" in done.out, done
    spec = load_model(RunDir(logdir), print).spec
    files, labels = [], []
    for shard in spec.splits["test"]:
        for record in read_records(spec.path_of(shard)):
            feature = tf.train.Example.FromString(record).features.feature
            files.append(feature["image"].bytes_list.value[0])
            labels.append(feature["label"].int64_list.value[0])
    count = len(files)
    files += [
        as_file(picture(1000)[..., 0], "JPEG"),
        as_file(np.asarray(Image.fromarray(picture(1001)).convert("L")), "PNG"),
        as_file(np.rot90(picture(1002)).copy(), "PNG", 6),
        as_file(picture(1004).repeat(9, 0).repeat(9, 1), "JPEG", 3),
    ]
    paths = []
    for number, data in enumerate(files):
        paths.append(tmp_path / f"{number:03}.png")
        paths[-1].write_bytes(data)

    def predict(model):
        done = run_here("trainer.predict", f"--model={model}", "--json", *map(str, paths))
        assert done.code == 0, done
        return np.array([json.loads(line)["probabilities"] for line in done.out.splitlines()])

    predicted = predict(logdir)
    np.testing.assert_allclose(predict(tmp_path / "model"), predicted, atol=0.02)
    done = run_here("trainer.predict", f"--model={logdir}", "--resize=no", str(paths[0]))
    assert done.code == 2 and "--resize=no is for models of pictures of one size" in done.err, done
    assert np.mean(predicted[:count].argmax(1) == labels) == pytest.approx(result["test_accuracy"])
    done = run_here("trainer.evaluate", f"--logdir={logdir}", "--json")
    assert json.loads(done.out.splitlines()[-1])["accuracy"] == pytest.approx(result["test_accuracy"])
    with tf.Graph().as_default(), tf.Session() as session:
        meta = tf.saved_model.load(session, [tf.saved_model.SERVING], str(tmp_path / "model" / "1"))
        signature = meta.signature_def["encoded_images"]
        served = session.run(
            signature.outputs["probabilities"].name, {signature.inputs["images"].name: np.array(files, object)}
        )
    np.testing.assert_allclose(served, predicted, atol=0.02)  # Decoders and resizes differ by a step of 255.
    np.testing.assert_array_equal(served.argmax(1), predicted.argmax(1))


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("preloaded", ""),
        ("feed", ""),
        ("synthetic", ""),
        ("preloaded", "unit|"),
        pytest.param("feed", "unit|", marks=pytest.mark.slow),
    ],
)
def test_the_other_inputs_take_encoded_pictures(train, source, first):
    """Their batches are bytes or float32."""
    resized = f"{first}resize(10)"
    logdir = train(input=source, preprocess=f"{resized}|flip_lr", eval_preprocess=resized, train_steps=40)
    result = json.loads((logdir / "result.json").read_text())
    assert source == "synthetic" or result["test_accuracy"] > 0.7


def test_pictures_in_memory_are_those_of_the_queue(data_dir):
    """Each once in an epoch; only the order is another."""
    spec = load_manifest(data_dir)
    side = make_preprocessing(spec.stored_shape, "resize(10)|flip_lr", smallest=spec.smallest).training
    count, found = spec.num_examples("train"), []
    for name in ("queue", "preloaded", "feed"):
        with tf.Graph().as_default():
            position = tf.get_variable("position", [], tf.int64, tf.zeros_initializer(), trainable=False)
            settings = InputSettings(spec, count, 1, 0, position, num_readers=1, layout=None, capacity=2, side=side)
            source = build_input(name, settings)
            with open_session(source, tf.ConfigProto(), None) as opened:
                opened.session.run(position.initializer)
                batch = opened.session.run(source.batch)
        found.append(
            sorted((image.tobytes(), int(label)) for image, label in zip(batch["image"], batch["label"], strict=True))
        )
    assert found[0] == found[1] == found[2] and len(set(found[0])) == count


@pairs("more", [({"num_gpus": 2, "decode_threads": 3},)], [({},), ({"num_gpus": 2, "decode_threads": 3},)])
def test_cached_pictures_change_no_bit(train, more):
    """Also where a stopped run goes on with them, or without."""
    settings = {
        "preprocess": "resize(12)|random_crop(10)|flip_lr|scale(-1,1)", "decay": "constant",
        "eval_preprocess": "resize(12)|crop_or_pad(10)|scale(-1,1)", **more,
    }  # fmt: skip
    whole = train("whole", **settings)
    for last, cache in ((7, "memory"), (12, "none"), (20, "memory")):
        parts = train("parts", **settings, train_steps=last, cache=cache)
    readers = [tf.train.NewCheckpointReader(tf.train.latest_checkpoint(str(path))) for path in (whole, parts)]
    names = readers[0].get_variable_to_shape_map()
    assert names.keys() == readers[1].get_variable_to_shape_map().keys()
    for name in names:
        np.testing.assert_array_equal(*(reader.get_tensor(name) for reader in readers), err_msg=name)


def test_a_cache_larger_than_the_memory_is_refused(train, monkeypatch):
    from trainer.inputs import loading

    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000))
    with pytest.raises(UsageError, match=r"pictures of 10x10x3 uint8 take 0.0 GiB of memory, and 0.0 GiB are free"):
        train(preprocess="resize(10)", eval_preprocess="", cache="memory")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preprocess": TRAINING, "cache": "memory"}, "only --input=queue does that, without --cache=memory"),
        ({"preprocess": "resize(10)", "input": "feed", "cache": "memory"}, "--cache=memory is of --input=queue or"),
        ({"preprocess": "flip_lr", "eval_preprocess": ""}, "the pictures have several sizes, and have them still"),
        ({"preprocess": "random_crop(30)"}, r"random_crop\(30, 30\) of pictures of 16 x 2\d"),
        ({"preprocess": "rotate(5)|resize(10)|scale(-1,1)"}, "rotate and translate take pictures of one size"),
        ({"preprocess": TRAINING, "input": "preloaded"}, "cuts pictures of several sizes anew in each epoch, and only"),
    ],
)
def test_what_does_not_fit_is_said_before_the_run(train, settings, message):
    with pytest.raises(UsageError, match=message):
        train(**settings)


def damage(spec, folder, number):
    """Copies a data set; the picture of one training record is cut short, and its checksum is right."""
    for shards in spec.splits.values():
        for shard in shards:
            (folder / shard.file).write_bytes(spec.path_of(shard).read_bytes())
    shard = spec.splits["train"][1]
    whole = list(read_records(spec.path_of(shard)))
    example = tf.train.Example.FromString(whole[number])
    value = example.features.feature["image"].bytes_list.value
    value[0] = value[0][: len(value[0]) // 2]
    whole[number] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(folder / shard.file)) as writer:
        for record in whole:
            writer.write(record)
    changed = dataclasses.replace(
        shard, num_bytes=(folder / shard.file).stat().st_size, sha256=manifest.sha256_of(folder / shard.file)
    )
    train_shards = tuple(changed if other == shard else other for other in spec.splits["train"])
    save_manifest(dataclasses.replace(spec, splits={**spec.splits, "train": train_shards}, data_dir=folder))
    return folder / shard.file


def test_a_damaged_picture_is_named_with_shard_and_record(run_here, data_dir, tmp_path):
    (tmp_path / "data").mkdir()
    path = damage(load_manifest(data_dir), tmp_path / "data", 5)
    flags = [f"--data_dir={tmp_path / 'data'}", f"--preprocess={TRAINING}", f"--eval_preprocess={EVALUATION}"]
    done = run_here("trainer", *flags, f"--logdir={tmp_path / 'run'}", "--train_steps=50", "--batch_size=20")
    assert done.code == 1 and f"{path}: record 5 at byte" in done.err and "its picture is damaged" in done.err, done
    assert "Traceback" not in done.err


def test_serialized_pictures_are_checked_when_they_are_read(data_dir):
    spec = load_manifest(data_dir)
    data = as_file(picture(1))
    height, width, _ = picture(1).shape
    for record, message in (
        (Encoded(data, 2, 1, (height, width, 3)), "label 2 is out of range 0..1"),
        (Encoded(data, 0, 1, (height + 1, width, 3)), f"its picture is \\[{height}, {width}, 3\\], and not"),
        (Encoded(b"<html>", 0, 1, (height, width, 3)), "its picture is damaged: it is no image that can be read"),
        (Encoded(data, 0, 1, (height, width, 1)), "its image is"),
    ):
        with pytest.raises(ValueError, match=message):
            records.parse_record(serialize_encoded(record), spec)
