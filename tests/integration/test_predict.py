"""`trainer.predict`: files of every kind, from each kind of model."""

import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPO, environment
from trainer.data.pictures import read_pictures
from trainer.saving.tensors import load_tensors

AVERAGE = "/ExponentialMovingAverage"


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory):
    from trainer.console import Console
    from trainer.settings.config import Config, validate
    from trainer.signals import Signals
    from trainer.training import run as training

    logdir = tmp_path_factory.mktemp("predict") / "run"
    config = Config(
        data_dir=str(digits_dir), logdir=str(logdir), train_steps=60, model="mlp",
        model_args=("hidden_sizes=30, dropout=0",), learning_rate=0.01,
    )  # fmt: skip
    assert training.train(validate(config), Console(), Signals()) == 0
    return logdir


def probabilities(run, images):
    """Computes them in numpy."""
    found = load_tensors(str(run / "model.ckpt-60"))
    w = {name: found[f"{name}{AVERAGE}"].astype(np.float64) for name in found if f"{name}{AVERAGE}" in found}
    hidden = np.maximum(images.reshape(len(images), -1) / 255.0 @ w["hidden1/weights"] + w["hidden1/biases"], 0)
    logits = hidden @ w["logits/weights"] + w["logits/biases"]
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(4).integers(0, 256, [5, 8, 8, 1]).astype(np.uint8)


@pytest.fixture
def files(images, tmp_path):
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_bad_image_has_its_line_and_the_others_go_on(run, run_here, files, images):
    (files / "1.png").write_bytes((files / "1.png").read_bytes()[:40])
    (files / "5.png").write_bytes(b"")
    (files / "6.png").write_bytes(b"no image")
    (files / "7.png").mkdir()
    done = run_here("trainer.predict", f"--model={run}", "--json", "--batch_size=2", str(files / "*.png"), "nix.png")
    assert done.code == 1 and "5 of 9 images could not be read" in done.err and "Traceback" not in done.err, done
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["image"] for row in rows] == [*(str(files / f"{number}.png") for number in range(8)), "nix.png"]
    assert [number for number, row in enumerate(rows) if "error" in row] == [1, 5, 6, 7, 8]
    assert rows[6]["error"] == "it is no image that can be read" and rows[8]["error"] == "No such file or directory"
    wanted = probabilities(run, images)
    for number in (0, 2, 3, 4):
        assert rows[number]["probabilities"] == pytest.approx(wanted[number], abs=1e-5)
        assert rows[number]["index"] == wanted[number].argmax()
        assert rows[number]["class"] == str(wanted[number].argmax())
        assert rows[number]["probability"] == pytest.approx(wanted[number].max(), abs=1e-5)


@pytest.mark.parametrize("kind", ["saved_model", "frozen"])
def test_exports_give_what_the_run_gives(run, run_here, files, kind, tmp_path):
    output = tmp_path / kind
    assert run_here("trainer.export", f"--logdir={run}", f"--format={kind}", f"--output={output}").code == 0
    names = [str(files / f"{number}.png") for number in range(5)]
    found = [run_here("trainer.predict", f"--model={model}", *names) for model in (run, output)]
    assert found[0].code == found[1].code == 0, found
    assert found[0].out == found[1].out and len(found[0].out.splitlines()) == 5


def test_a_saved_model_of_another_program_is_taken_by_its_default_signature(run_here, files, tmp_path):
    script = f"""
import tensorflow as tf
class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32)])
    def __call__(self, x):
        return {{"scores": tf.one_hot(tf.fill([tf.shape(x)[0]], 3), 7) + 0 * tf.reduce_sum(x)}}
model = Model()
tf.saved_model.save(model, {str(tmp_path / "other")!r}, signatures=model.__call__)
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
    done = run_here("trainer.predict", f"--model={tmp_path / 'other'}", str(files / "0.png"))
    assert done.code == 0 and done.out.split()[-2:] == ["3", "100.00%"], done


@pytest.mark.parametrize("kind", ["png", "idx", "idx.gz"])
def test_standard_input(run, images, kind):
    if kind == "png":
        buffer = io.BytesIO()
        Image.fromarray(images[0, ..., 0]).save(buffer, "PNG")
        data, names = buffer.getvalue(), ["-"]
    else:
        data = struct.pack(">4B3I", 0, 0, 8, 3, 5, 8, 8) + images.tobytes()
        data, names = gzip.compress(data) if kind == "idx.gz" else data, [f"-[{number}]" for number in range(5)]
    command = [sys.executable, "-m", "trainer.predict", f"--model={run}", "--json", "-"]
    done = subprocess.run(command, input=data, capture_output=True, timeout=120, env=environment())
    assert done.returncode == 0, done
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == names
    wanted = probabilities(run, images)
    for row, values in zip(rows, wanted, strict=False):
        assert row["probabilities"] == pytest.approx(values, abs=1e-5)


def read(path, **settings):
    settings = {"shape": (8, 8, 1), "resize": "stretch", "invert": False, **settings}
    (found,) = read_pictures([str(path)], **settings)
    return found


def test_pictures_become_what_the_model_takes(tmp_path):
    dark_on_light = np.full([8, 8], 255, np.uint8)
    dark_on_light[2, 3] = 55
    path = tmp_path / "a.png"
    Image.fromarray(dark_on_light).save(path)
    assert read(path, invert=True).image[..., 0].tolist() == (255 - dark_on_light).tolist()
    assert read(path, shape=(8, 8, 3)).image.tolist() == np.repeat(dark_on_light[..., None], 3, 2).tolist()
    # 16 bits become 8.
    Image.fromarray((dark_on_light.astype(np.uint16) << 8) + 7).save(path)
    assert read(path).image[..., 0].tolist() == dark_on_light.tolist()
    # Floating-point pixels have no scale that is known.
    Image.fromarray(np.full([8, 8], 0.5, np.float32)).save(tmp_path / "f.tif")
    assert "pixels are of mode F" in read(tmp_path / "f.tif").error
    # What is transparent is paper.
    Image.fromarray(np.dstack([np.zeros([8, 8, 3], np.uint8), 255 - dark_on_light])).save(path)
    assert read(path).image[..., 0].tolist() == dark_on_light.tolist()
    # A wide picture: stretched, padded with black above and below, or refused.
    Image.fromarray(np.full([8, 16], 200, np.uint8)).save(path)
    assert set(read(path).image.flat) == {200}
    assert read(path, resize="pad").image[:, 0, 0].tolist() == [0, 0, 200, 200, 200, 200, 0, 0]
    assert read(path, resize="no").error == "it is 16x8, the model takes 8x8; see --resize"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["x.png"], "--model is missing"),
        (["--model=RUN"], "IMAGE is missing"),
        (["--model=RUN", "--resize=crop", "x.png"], "resize=crop is unknown"),
        (["--model=/nowhere", "x.png"], "no such file or directory"),
        (["--model=README", "x.png"], "is no frozen graph"),
        (["--model=TESTS", "x.png"], "neither a run (config.json) nor a SavedModel"),
        (["--model=RUN", "EMPTY"], "empty: no images there"),
        (["--model=RUN", "--batch_size=-1", "x.png"], "out of range"),
        (["--model=README", "--weights=raw", "x.png"], "belong to a run directory"),
    ],
)
def test_mistakes_of_a_prediction_are_explained(run, run_here, tmp_path, args, message):
    (tmp_path / "empty").mkdir()
    places = {"RUN": run, "README": REPO / "README.md", "TESTS": REPO / "tests", "EMPTY": tmp_path / "empty"}
    for name, path in places.items():
        args = [arg.replace(name, str(path)) for arg in args]
    done = run_here("trainer.predict", *args)
    assert done.code == 2 and message in done.err, done


def processor_seconds():
    """Returns what the programs that have ended took of the processors."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


@pytest.mark.slow
def test_ten_thousand_images_take_less_than_ten_seconds(mnist_files, mnist_dir, train, run_program, tmp_path):
    """As PNG files and as the IDX file of MNIST's test set, start-up included."""
    from trainer.data.sources.idx import read_idx

    model = train(dataset="mnist", data_dir=str(mnist_dir), model="lenet", train_steps=20, batch_size=32)
    idx = mnist_files / "t10k-images-idx3-ubyte.gz"
    for number, image in enumerate(read_idx(idx, 3)):
        Image.fromarray(image).save(tmp_path / f"{number:05d}.png")
    outs = []
    for source in (str(tmp_path / "*.png"), str(idx)):
        begin = time.monotonic(), processor_seconds()
        done = run_program("trainer.predict", f"--model={model}", source, "--json")
        taken = time.monotonic() - begin[0], processor_seconds() - begin[1]
        assert done.code == 0, done
        assert min(taken) < 10, taken  # Another test beside it makes it wait for a processor.
        outs.append([json.loads(line)["probabilities"] for line in done.out.splitlines()])
    assert len(outs[0]) == 10000
    np.testing.assert_allclose(outs[0], outs[1], atol=2e-6)
