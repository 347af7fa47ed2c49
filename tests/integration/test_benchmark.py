"""`python -m trainer.benchmark`: its figures, its files, and what it refuses."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from tests.conftest import REPO, environment

pytestmark = pytest.mark.timeout(180)
SHORT = ["--windows=3", "--window_seconds=0.3", "--warmup_seconds=0.2"]
MLP = ["--model=mlp", "--model_args=hidden_sizes=64, dropout=0"]


@pytest.mark.slow
def test_the_parts_of_a_step_add_up(run_program, digits_dir, tmp_path):
    files = [f"--json={tmp_path / 'figures.json'}", f"--plot={tmp_path / 'figures.png'}"]
    done = run_program("trainer.benchmark", *SHORT, *MLP, f"--data_dir={digits_dir}", *files, cwd=tmp_path)
    assert done.code == 0, done
    figures = json.loads((tmp_path / "figures.json").read_text())
    parts, windows = figures["microseconds"], figures["windows"]
    assert len(windows) == 3 and all(value > 0 for window in windows for value in window.values())
    step = sorted(window["steps"] for window in windows)[1]
    assert parts["step"] == pytest.approx(1e6 * step)
    assert figures["images_per_second"]["median"] == pytest.approx(64 / step)
    # Forward and the weights' gradient of both layers, and the hidden units' gradient.
    assert figures["flops_per_step"] == 2 * 64 * (2 * 64 * 64 + 3 * 64 * 10)
    for window in windows:
        assert window["gradients"] < 1.5 * window["fixed_batch"]  # A part of the step.
    start = figures["start_up"]
    assert 0 < start["of_it_importing"] < start["seconds_to_first_step"] < 60
    assert 200 < figures["peak_memory_mib"] < 5000
    assert figures["matmul_gflops"] > 1 and 0 < figures["fraction_of_matmul"] < 1.5
    for words in ("images/s", "waiting for the batch", "-bound", "GFLOP/s", "peak memory"):
        assert words in done.out
    assert Image.open(tmp_path / "figures.png").size[0] > 500
    assert not (tmp_path / "runs").exists()  # Nothing is left behind.


@pytest.mark.slow
def test_flags_of_a_run_are_measured_too(run_program, digits_dir):
    short = ["--windows=1", "--window_seconds=0.1", "--warmup_seconds=0", f"--data_dir={digits_dir}"]
    flags = [
        "--staging=yes",
        "--precision=float16",
        "--deterministic",
        "--flagfile=configs/digits.flags",
        "--train_steps=5",
    ]
    done = run_program("trainer.benchmark", *flags, *short, *MLP, timeout=60)
    assert done.code == 0, done


@pytest.mark.slow
def test_what_does_not_split_is_left_out_and_said(run_program, digits_dir):
    short = ["--windows=1", "--window_seconds=0.02", "--warmup_seconds=0", "--batch_size=6"]
    done = run_program("trainer.benchmark", "--scaling", *short, *MLP, f"--data_dir={digits_dir}", "--num_gpus=3")
    assert done.code == 0, done
    assert "left out: batch_size=6 does not split over 4 towers; use 4 or 8" in done.out
    assert "left out: batch_size=16 does not split over 3 towers; use 15 or 18" in done.out


@pytest.mark.slow
def test_scaling_measures_towers_and_batches(run_program, digits_dir, tmp_path):
    short = ["--windows=1", "--window_seconds=0.05", "--warmup_seconds=0"]
    files = [f"--json={tmp_path / 'figures.json'}", f"--plot={tmp_path / 'figures.png'}"]
    done = run_program("trainer.benchmark", "--scaling", *short, *MLP, f"--data_dir={digits_dir}", *files)
    assert done.code == 0, done
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["towers"] for row in figures["towers"]] == [1, 2, 4, 8]
    assert [row["batch_size"] for row in figures["batches"]] == [16, 32, 64, 128, 256, 512, 1024]
    assert all(row["median"] > 0 for rows in figures.values() for row in rows)
    assert Image.open(tmp_path / "figures.png").size[0] > 500


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--windows=0", "windows=0 is out of range"),
        ("--window_seconds=0", "window_seconds=0.0 is out of range"),
        ("--warmup_seconds=-1", "warmup_seconds=-1.0 is out of range"),
        ("--json=/no/such/place.json", "/no/such/place.json: no such directory"),
        ("--logdir=runs/x", "--logdir: a measurement keeps no log directory"),
        ("--plot=a.txt", "the picture is a PNG"),
        ("--json=.", ". is a directory"),
        ("--batch_size=0", "batch_size=0 is out of range"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(run_here, digits_dir, flag, told):
    done = run_here("trainer.benchmark", *SHORT, f"--data_dir={digits_dir}", flag)
    assert done.code == 2 and told in done.err and "Traceback" not in done.err, done


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((REPO / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_starts_and_explains_itself(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "usage: " in done.stdout, done
