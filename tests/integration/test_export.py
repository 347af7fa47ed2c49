"""Exports, each run by what owns its format, against the logits of the checkpoint in numpy."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from tests.conftest import environment
from tests.soak import amounts
from trainer.saving.tensors import load_tensors
from trainer.tf1 import tf

AVERAGE = "/ExponentialMovingAverage"
TOLERANCE = 1e-5
OUTPUTS = ["outputs/logits:0", "outputs/probabilities:0", "outputs/classes:0"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(8).integers(0, 256, [1000, 8, 8, 1]).astype(np.uint8)


def convolve(x, weights, biases):
    """Convolves with padding and applies ReLU, in float64: [n, h, w, c]."""
    size = weights.shape[0]
    padded = np.pad(x, [(0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    return np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, weights, optimize=True) + biases, 0)


def pool(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def lenet(tensors, images, ending=AVERAGE):
    """Computes LeNet's logits in numpy, in float64."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    x = images / 255.0
    for layer in ("conv1", "conv2"):
        x = pool(convolve(x, w[f"{layer}/weights{ending}"], w[f"{layer}/biases{ending}"]))
    x = np.maximum(x.reshape(len(x), -1) @ w[f"fc1/weights{ending}"] + w[f"fc1/biases{ending}"], 0)
    return x @ w[f"logits/weights{ending}"] + w[f"logits/biases{ending}"]


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory):
    """A trained LeNet."""
    from trainer.console import Console
    from trainer.settings.config import Config, validate
    from trainer.signals import Signals
    from trainer.training import run as training

    logdir = tmp_path_factory.mktemp("export") / "run"
    settings = {"data_dir": str(digits_dir), "logdir": str(logdir), "train_steps": 100, "eval_every": "0"}
    assert training.train(validate(Config(**settings)), Console(), Signals()) == 0
    return logdir


@pytest.fixture(scope="module")
def logits(run, images):
    return lenet(load_tensors(str(run / "model.ckpt-100")), images)


@pytest.fixture
def export(run, run_here, tmp_path):
    def call(kind, *args, code=0):
        output = tmp_path / kind
        done = run_here("trainer.export", f"--logdir={run}", f"--format={kind}", f"--output={output}", *args)
        assert done.code == code, done
        assert not list(tmp_path.rglob("*.part")), "nothing half is left"
        return output, done

    return call


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


LOAD = """
import sys, numpy as np, tensorflow as tf
model, source, target = sys.argv[1:]
found = {}
loaded = tf.saved_model.load(model)
with np.load(source, allow_pickle=False) as data:
    inputs = {name: data[name] for name in data.files}
for name, images in inputs.items():
    value = tf.constant(list(images)) if name == "encoded_images" else tf.constant(images)
    outputs = loaded.signatures[name](images=value)
    for key, value in outputs.items():
        found[f"{name}.{key}"] = value.numpy()
np.savez(target, **found)
"""


def test_a_saved_model_is_loaded_by_tensorflow_2_in_a_fresh_process(export, images, logits, tmp_path):
    output, _ = export("saved_model")
    files = np.array([png(image) for image in images], dtype=bytes)
    # Trailing zero bytes of a PNG would be lost in numpy's fixed-width bytes; it ends with a checksum that is none.
    np.savez(
        tmp_path / "in.npz",
        uint8_images=images,
        serving_default=images.astype(np.float32) * np.float32(1 / 255),
        encoded_images=files,
    )
    script = [sys.executable, "-c", LOAD, str(output / "1"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(script, check=True, capture_output=True, timeout=120, env=environment())
    with np.load(tmp_path / "out.npz") as found:
        for name, wanted in (("uint8_images", logits), ("serving_default", logits), ("encoded_images", logits)):
            np.testing.assert_allclose(found[f"{name}.logits"], wanted, atol=TOLERANCE)
            exponents = np.exp(wanted - wanted.max(1, keepdims=True))
            np.testing.assert_allclose(
                found[f"{name}.probabilities"], exponents / exponents.sum(1, keepdims=True), atol=TOLERANCE
            )
            assert np.array_equal(found[f"{name}.classes"], wanted.argmax(1))


@pytest.mark.slow
def test_saved_model_cli_knows_the_signatures_and_runs_them(export, images, logits, tmp_path):
    output, _ = export("saved_model", "--version=3")
    cli = [str(Path(sys.executable).with_name("saved_model_cli"))]
    shown = subprocess.run(
        [*cli, "show", "--dir", str(output / "3"), "--all"], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    for text in ("serving_default", "uint8_images", "encoded_images", "DT_STRING", "shape: (-1, 8, 8, 1)"):
        assert text in shown
    np.save(tmp_path / "images.npy", images)
    command = ["run", "--dir", str(output / "3"), "--tag_set", "serve", "--signature_def", "uint8_images"]
    inputs = ["--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", str(tmp_path / "cli")]
    subprocess.run([*cli, *command, *inputs], check=True, capture_output=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "cli" / "logits.npy"), logits, atol=TOLERANCE)
    # No operation of training is in it.
    kinds = {node.op for node in tf.GraphDef.FromString(_graph_def(output / "3")).node}
    assert not {kind for kind in kinds if kind.startswith(("ResourceApply", "Queue", "RandomShuffle"))}


def _graph_def(folder):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return model.meta_graphs[0].graph_def.SerializeToString()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "JPEG"])
@pytest.mark.parametrize("size", [(8, 8), (64, 48), (5, 3), (20, 31)])
def test_encoded_images_become_what_pillow_and_predict_make_of_them(mode, size):
    from trainer.data.pictures import read_pictures
    from trainer.preprocessing.decoding import decode_images

    rng = np.random.default_rng(3)
    smooth = Image.fromarray(rng.integers(0, 256, [6, 6, 4]).astype(np.uint8), "RGBA").resize(size)
    picture = smooth.convert("RGB" if mode == "JPEG" else mode)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if mode == "JPEG" else "PNG")
    for depth in (1, 3):
        with tf.Graph().as_default(), tf.Session() as session:
            (found,) = session.run(decode_images(tf.constant([buffer.getvalue()]), (8, 8, depth)))
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(buffer.getvalue())
            (wanted,) = read_pictures([file.name], shape=(8, 8, depth), resize="stretch", invert=False)
        # Pillow rounds between its two passes, and a JPEG decoder may differ by a little.
        assert np.abs(found.astype(int) - wanted.image.astype(int)).max() <= (4 if mode == "JPEG" else 2)


def test_a_run_in_bfloat16_is_exported_in_float32(train, run_here, images, tmp_path):
    folder = train(train_steps=20, precision="bfloat16")
    wanted = lenet(load_tensors(str(folder / "model.ckpt-20")), images)
    for kind in ("frozen", "tflite"):
        done = run_here("trainer.export", f"--logdir={folder}", f"--format={kind}", f"--output={tmp_path / kind}")
        assert done.code == 0, done
    with tf.Graph().as_default(), tf.Session() as session:
        graph_def = tf.GraphDef.FromString((tmp_path / "frozen").read_bytes())
        (found,) = tf.import_graph_def(graph_def, return_elements=[OUTPUTS[0]], name="")
        np.testing.assert_allclose(session.run(found, {"images:0": images}), wanted, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["meta", "frozen", "saved_model"])
def test_what_is_no_export_is_never_replaced(run, run_here, kind):
    before = sorted(path.name for path in run.iterdir())
    done = run_here("trainer.export", f"--logdir={run}", f"--format={kind}", f"--output={run}", "--overwrite")
    if kind == "saved_model":  # Into a directory of versions.
        assert done.code == 0 and (run / "1" / "saved_model.pb").is_file()
        done = run_here("trainer.export", f"--logdir={run}", "--format=meta", f"--output={run / '1'}", "--overwrite")
    assert done.code == 2 and "which --overwrite does not replace" in done.err
    assert set(before) <= {path.name for path in run.iterdir()}


def test_files_of_a_run_are_never_replaced(run, run_here):
    for name in ("model.ckpt-100.index", "config.json"):
        before = (run / name).read_bytes()
        done = run_here("trainer.export", f"--logdir={run}", "--format=frozen", f"--output={run / name}", "--overwrite")
        assert done.code == 2 and "is a file of a run" in done.err, done
        assert (run / name).read_bytes() == before
    done = run_here("trainer.export", f"--logdir={run}", f"--output={run / 'config.json'}")
    assert done.code == 2 and "config.json is a file; give another --output" in done.err, done
    done = run_here("trainer.export", f"--logdir={run}", "--format=frozen", "--version=3")
    assert done.code == 2 and "--version=3 is of --format=saved_model" in done.err, done


def test_a_frozen_graph_runs_by_import_graph_def(export, images, logits):
    output, done = export("frozen")
    for name in ("images:0", *OUTPUTS):
        assert name in done.out
    graph_def = tf.GraphDef.FromString(output.read_bytes())
    assert not {node.op for node in graph_def.node} & {"VarHandleOp", "ReadVariableOp", "VariableV2", "RestoreV2"}
    with tf.Graph().as_default(), tf.Session() as session:
        placeholder, found, *_ = tf.import_graph_def(graph_def, return_elements=["images:0", *OUTPUTS], name="")
        np.testing.assert_allclose(session.run(found, {placeholder: images}), logits, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["graph.pb", "graph.pbtxt"])
def test_a_graph_and_a_checkpoint_give_the_model(run, export, images, logits, name):
    output, _ = export("graph")
    data = (output / name).read_bytes()
    graph_def = text_format.Parse(data, tf.GraphDef()) if name.endswith("txt") else tf.GraphDef.FromString(data)
    tensors = load_tensors(str(run / "model.ckpt-100"))
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.import_graph_def(graph_def, name="")
        for operation in graph.get_operations():
            if operation.type == "AssignVariableOp":  # Of the initializers: fed with the weights instead.
                name = operation.name.removesuffix("/Assign")
                session.run(operation, {operation.inputs[1]: tensors[f"{name}{AVERAGE}"]})
        np.testing.assert_allclose(session.run(OUTPUTS[0], {"images:0": images}), logits, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["model.ckpt.meta", "model.ckpt.meta.txt"])
def test_a_meta_graph_gives_the_model_without_this_package(export, images, logits, tmp_path, name):
    output, _ = export("meta")
    np.save(tmp_path / "images.npy", images)
    script = f"""
import numpy as np, tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
with tf.Session() as session:
    meta = {str(output / name)!r}
    if meta.endswith("txt"):
        from google.protobuf import text_format
        meta = text_format.Parse(open(meta).read(), tf.MetaGraphDef())
    tf.train.import_meta_graph(meta).restore(session, {str(output / "model.ckpt")!r})
    (images,), (logits, *_) = tf.get_collection("inputs"), tf.get_collection("outputs")
    np.save({str(tmp_path / "out.npy")!r}, session.run(logits, {{images: np.load({str(tmp_path / "images.npy")!r})}}))
"""
    command = [sys.executable, "-I", "-c", script]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), logits, atol=TOLERANCE)


def test_tensorflow_lite_gives_the_same_logits(export, images, logits):
    output, done = export("tflite")
    assert done.err == ""
    interpreter = tf.lite.Interpreter(str(output))
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    found = {details["name"]: interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()}
    assert found.keys() == {"outputs/logits", "outputs/probabilities"}
    np.testing.assert_allclose(found["outputs/logits"], logits, atol=TOLERANCE)
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    wanted = exponents / exponents.sum(1, keepdims=True)
    np.testing.assert_allclose(found["outputs/probabilities"], wanted, atol=TOLERANCE)


def test_raw_weights_and_other_checkpoints_are_exported_as_asked(run, export, images):
    output, done = export("frozen", "--weights=raw", "--checkpoint=100")
    assert "raw weights" in done.out
    with tf.Graph().as_default(), tf.Session() as session:
        graph_def = tf.GraphDef.FromString(output.read_bytes())
        (found,) = tf.import_graph_def(graph_def, return_elements=[OUTPUTS[0]], name="")
        wanted = lenet(load_tensors(str(run / "model.ckpt-100")), images, "")
        np.testing.assert_allclose(session.run(found, {"images:0": images}), wanted, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["saved_model", "frozen"])
def test_an_older_version_stays_unless_it_may_be_overwritten(export, kind):
    output, _ = export(kind)
    target = output / "1" / "saved_model.pb" if kind == "saved_model" else output
    os.utime(target, (1, 1))
    _, done = export(kind, code=2)
    assert "exists already; --overwrite replaces it" in done.err and target.stat().st_mtime == 1
    export(kind, "--overwrite")
    assert target.stat().st_mtime != 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--format=onnx"], "format=onnx is unknown"),
        (["--weights=both"], "weights=both is unknown"),
        (["--version=0"], "out of range"),
        (["--checkpoint=3"], "holds no checkpoint of step 3; there are: 100"),
        (["--logdir=/nowhere"], "holds no config.json"),
        (["--logdir="], "--logdir is missing"),
    ],
)
def test_mistakes_of_an_export_are_explained(run, run_here, args, message):
    done = run_here("trainer.export", f"--logdir={run}", *args)
    assert done.code == 2 and message in done.err, done


@amounts("kills", 4, 20)
@pytest.mark.timeout(1800)
def test_killed_exports_leave_all_of_the_old_or_all_of_the_new(kills, run, program, run_program, tmp_path):
    """Kills all over an export: the SavedModel is always whole, and in the end nothing half is left."""
    output = tmp_path / "out"
    first = ["trainer.export", f"--logdir={run}", f"--output={output}", "--checkpoint=100"]
    begin = time.monotonic()
    assert run_program(*first).code == 0
    seconds = time.monotonic() - begin
    rng = np.random.default_rng(2)
    killed = 0
    for _ in range(3 * kills):
        begin = time.monotonic()
        process = program(*first, "--overwrite")
        try:
            # The writing itself is at the end, after the import. How long that takes changes from run to run.
            process.wait(seconds * float(rng.uniform(0.5, 1.02)))
            seconds = time.monotonic() - begin
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        with tf.Graph().as_default(), tf.Session() as session:
            tf.saved_model.load(session, ["serve"], str(output / "1"))
        if killed == kills:
            break
    assert killed == kills
    assert run_program(*first, "--overwrite").code == 0
    assert [path.name for path in output.iterdir()] == ["1"]
    with tf.Graph().as_default(), tf.Session() as session:
        tf.saved_model.load(session, ["serve"], str(output / "1"))


def test_what_a_killed_export_moved_aside_comes_back(tmp_path):
    from trainer.errors import UsageError
    from trainer.saving.replacing import replacing

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old, half = (tmp_path / f".1.{gone.pid}.{ending}" for ending in ("old.part", "part"))
    for folder in (old, half):
        folder.mkdir()
    (old / "model").write_text("old")
    with pytest.raises(UsageError, match="exists already"), replacing(tmp_path / "1", overwrite=False):
        pass
    assert (tmp_path / "1" / "model").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    with pytest.raises(ValueError), replacing(tmp_path / "1", overwrite=True, marker="model") as aside:
        aside.mkdir()
        raise ValueError
    assert (tmp_path / "1" / "model").read_text() == "old"
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == '["1"]'
