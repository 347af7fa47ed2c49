"""Large networks train on two towers within the memory of a small machine."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import environment
from trainer.convert import main

pytestmark = pytest.mark.timeout(600)
MEASURE = (
    "import resource, subprocess, sys; code = subprocess.call([sys.executable, '-m', 'trainer', *sys.argv[1:]]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024); sys.exit(code)"
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    arrays = {}
    for split, count in (("train", 40), ("val", 30), ("test", 30)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        arrays[f"y_{split}"] = rng.integers(0, 10, count)
    np.savez(folder / "arrays.npz", **arrays)
    assert main(["convert", f"--source={folder / 'arrays.npz'}", f"--data_dir={folder / 'data'}"]) == 0
    return folder / "data"


def mebibytes(pictures, logdir, *flags):
    """Trains three steps, and evaluates; returns the largest memory of the process."""
    command = [sys.executable, "-c", MEASURE, f"--data_dir={pictures}", f"--logdir={logdir}", "--train_steps=3"]
    command += ["--preprocess=resize(224,224)|scale(-1,1)", "--num_gpus=2", "--batch_size=16", "--optimizer=momentum"]
    done = subprocess.run([*command, *flags], env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "after 3 steps" in done.stdout, done
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_resnet_50_takes_less_than_6_gib(pictures, tmp_path):
    assert mebibytes(pictures, tmp_path / "run", "--model=resnet_v1_50", "--batch_norm=sync") < 6 << 10


@pytest.mark.soak
def test_vgg_16_takes_less_than_12_gib_and_less_in_pieces(pictures, tmp_path):
    whole = mebibytes(pictures, tmp_path / "whole", "--model=vgg_16")
    pieces = mebibytes(pictures, tmp_path / "pieces", "--model=vgg_16", "--accumulate=4")
    assert pieces < 0.9 * whole and whole < 12 << 10
