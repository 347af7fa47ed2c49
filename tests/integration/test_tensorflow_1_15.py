"""TensorFlow 1.15 itself, in an environment of its own, where a Python 3.7 is present: both ways."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPO
from trainer.saving.tensors import load_tensors, save_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPT = REPO / "tests" / "tf115.py"


def find_python37():
    candidates = [Path(folder) / "python3.7" for folder in os.environ.get("PATH", "").split(os.pathsep)]
    candidates += sorted(Path.home().glob(".pyenv/versions/3.7.*/bin/python3.7"))
    works = (
        path for path in candidates if path.exists() and not subprocess.run([path, "-c", ""], stderr=-3).returncode
    )
    return next(works, None)


@pytest.fixture(scope="module")
def tensorflow_1_15(tmp_path_factory):
    """Runs the script by TensorFlow 1.15."""
    python = find_python37()
    if python is None:
        pytest.skip("there is no Python 3.7, the last that TensorFlow 1.15 runs on")
    folder = tmp_path_factory.mktemp("tf115") / "environment"
    subprocess.run([python, "-m", "venv", folder], check=True)
    requirements = REPO / "benchmarks" / "peers" / "requirements_tf115.txt"
    subprocess.run([folder / "bin/pip", "install", "--quiet", "-r", requirements], check=True, timeout=1800)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TF")}  # Of version 2.

    def run(*args):
        done = subprocess.run(
            [folder / "bin/python", SCRIPT, *map(str, args)], capture_output=True, text=True, timeout=120, env=clean
        )
        assert done.returncode == 0, done.stderr

    return run


def stored(path):
    with np.load(path) as found:
        return {name.replace(".", "/"): found[name] for name in found.files}


@pytest.mark.parametrize("version", ["own", "v1", "v2"])
def test_tensorflow_1_15_restores_ours_by_a_plain_saver(tensorflow_1_15, train, tmp_path, version):
    folder = train(model="mlp", model_args=("hidden_sizes=4, dropout=0",), train_steps=20)
    path = folder / "model.ckpt-20"
    wanted = load_tensors(str(path))
    if version != "own":
        path = tmp_path / "converted"
        save_tensors(wanted, str(path), version=version)
    tensorflow_1_15("read", path, tmp_path / "out.npz")
    found = stored(tmp_path / "out.npz")
    assert len(found) == 9 and found["global_step"] == 20
    for name, value in found.items():
        assert np.array_equal(value, wanted[name]), name


@pytest.mark.parametrize("name", ["v1.ckpt-7", "v2.ckpt-7"])
def test_ours_goes_on_from_what_tensorflow_1_15_writes(tensorflow_1_15, train, tmp_path, name):
    tensorflow_1_15("write", tmp_path)
    wanted = stored(tmp_path / "values.npz")
    # The fixture that stands in for it elsewhere is what it writes.
    assert load_tensors(str(tmp_path / name)).keys() == load_tensors(str(REPO / "tests/golden/tf115" / name)).keys()
    folder = train(
        model="mlp", model_args=("hidden_sizes=4, dropout=0",), train_steps=1, warm_start=str(tmp_path / name),
        trainable_scopes=("logits",), ema_decay=0.0,
    )  # fmt: skip
    found = load_tensors(str(folder / "model.ckpt-1"))
    assert np.array_equal(found["hidden1/weights"], wanted["hidden1/weights"])
    assert np.allclose(found["logits/weights"], wanted["logits/weights"], atol=2e-3)
