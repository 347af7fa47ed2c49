"""SIGKILL at any moment: never a checkpoint is lost, and the run that goes on ends as one that was never killed."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import environment
from tests.integration.test_own_models import OWN
from tests.integration.test_signals import newest_step
from tests.soak import amounts, pairs
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(1800)
# On a network with dropout and averages, so that weights tell of every record, mask and rate.
RUN = ["--model=mlp", "--model_args=hidden_sizes=32", "--deterministic", "--decay=constant"]
# A network of the user's, with batch normalization over two towers.
OWN_RUN = [f"--model={OWN / 'normalized.py'}", "--model_args=rate=0.3", "--batch_norm=sync", "--num_gpus=2", *RUN[2:]]
BUSY = ["--eval_every=40", "--summary_every=5", "--checkpoint_every=10", "--log_every=100"]
RENAMES = "rename,renameat,renameat2"


def weights(logdir):
    reader = tf.train.NewCheckpointReader(tf.train.latest_checkpoint(str(logdir)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_weights(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def named_step(logdir):
    """The step that the `checkpoint` file names; 0 where there is none."""
    path = tf.train.latest_checkpoint(str(logdir)) if logdir.exists() else None
    return int(path.rsplit("-", 1)[1]) if path else 0


@pairs("kills, model", [(4, OWN_RUN)], [(4, RUN), (20, OWN_RUN), (50, RUN)])
def test_kills_at_random_moments(kills, model, program, run_program, digits_dir, tmp_path):
    rng = random.Random(7)
    args = [f"--data_dir={digits_dir}", *model]
    logdir = tmp_path / "run"
    step, phases = 0, []
    # How long this machine takes from the command to the first checkpoint.
    begin = time.monotonic()
    process = program("trainer", *args, *BUSY, f"--logdir={logdir}", "--train_steps=1000000")
    while not named_step(logdir):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    start = time.monotonic() - begin
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for kill in range(kills):
        process = program("trainer", *args, *BUSY, f"--logdir={logdir}", "--train_steps=1000000")
        # Half of them while it starts, restores and trains its first steps; half while it trains and saves.
        time.sleep(start * (rng.uniform(0.05, 1.1) if kill % 2 else rng.uniform(0.9, 1.8)))
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # What was named before is still there, or something newer.
        named = named_step(logdir)
        assert named >= step
        step = named
        phases.append(step)
    assert step > 0
    done = run_program("trainer", *args, f"--logdir={logdir}", f"--train_steps={step + 200}", timeout=300)
    assert done.code == 0 and f"resuming from step {newest_from(done.out)}" in done.out
    assert newest_from(done.out) >= step
    whole = tmp_path / "whole"
    assert run_program("trainer", *args, f"--logdir={whole}", f"--train_steps={step + 200}", timeout=1800).code == 0
    assert_same_weights(weights(logdir), weights(whole))
    assert not list(logdir.glob("*.temp*")) and not list(logdir.glob("*.part"))
    print(f"{kills} kills survived; checkpoints after them: {phases}")


def newest_from(out):
    return int(re.search(r"resuming from step (\d+)", out)[1])


def strace(*options, output):
    tool = shutil.which("strace")
    if not tool:
        pytest.skip("strace is not installed")
    command = [tool, "-f", "-qq", "-o", str(output), *options, sys.executable, "-m", "trainer"]

    def run(*args):
        done = subprocess.run([*command, *args], env=environment(), capture_output=True, text=True, timeout=120)
        if "ptrace" in done.stderr and "not permitted" in done.stderr:
            pytest.skip("tracing is not permitted here")
        return done

    return run


def renames_of_a_save(args, tmp_path):
    """Runs to the second checkpoint; returns the renames since the first one was named, by their number."""
    output = tmp_path / "trace"
    done = strace("-e", f"trace={RENAMES}", output=output)(*args, f"--logdir={tmp_path / 'traced'}", "--train_steps=20")
    assert done.returncode == 0, done.stderr
    lines = [line for line in output.read_text().splitlines() if "rename" in line and "resumed" not in line]
    named = [number for number, line in enumerate(lines, 1) if '/checkpoint"' in line]
    return [(number, lines[number - 1]) for number in range(named[0] + 1, named[1] + 1)]


@pytest.mark.slow
def test_a_kill_at_each_rename_of_a_save(run_program, digits_dir, tmp_path):
    # strace counts the calls of each thread for itself: all of a save's come from one where it is not --deterministic.
    run = [flag for flag in RUN if flag != "--deterministic"]
    args = [f"--data_dir={digits_dir}", *run, "--eval_every=0", "--checkpoint_every=10", "--log_every=0"]
    renames = renames_of_a_save(args, tmp_path)
    names = [line for _, line in renames if "model.ckpt-20" in line or '/checkpoint"' in line]
    assert len(names) >= 4  # Data, index, meta and `checkpoint`.
    whole = tmp_path / "whole"
    assert run_program("trainer", *args, f"--logdir={whole}", "--train_steps=30").code == 0
    for number, line in renames:
        logdir = tmp_path / f"killed{number}"
        inject = ["-e", f"trace={RENAMES}", "-e", f"inject={RENAMES}:signal=SIGKILL:when={number}"]
        killed = strace(*inject, output=tmp_path / "inject")(*args, f"--logdir={logdir}", "--train_steps=30")
        assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (line, killed)
        assert named_step(logdir) in (10, 20), line
        again = run_program("trainer", *args, f"--logdir={logdir}", "--train_steps=30")
        assert again.code == 0 and newest_from(again.out) in (10, 20), again
        assert_same_weights(weights(logdir), weights(whole))
    print(f"a kill at each of {len(renames)} renames of a save")


@amounts("attempts", 3, 12)
def test_kills_during_conversion(attempts, program, run_program, mnist_files, tmp_path):
    """Whole shards or none, and the next conversion removes what was left."""
    rng = random.Random(3)
    data_dir = tmp_path / "data" / "mnist"
    args = ["--dataset=mnist", f"--source_dir={mnist_files}", f"--data_dir={data_dir}"]
    kills = 0
    for _ in range(attempts):
        process = program("trainer.convert", *args)
        time.sleep(rng.uniform(1.5, 5.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        if data_dir.exists():
            break
    done = run_program("trainer.convert", *args)
    assert done.code == 0, done
    again = run_program("trainer.convert", *args).out
    assert again.endswith(f"nothing to do; --source_dir={mnist_files} was not looked at\n"), again
    assert [path.name for path in data_dir.parent.iterdir()] == ["mnist"]
    assert kills
    print(f"{kills} kills of a conversion")


@pytest.mark.slow
def test_kills_during_evaluation(program, run_program, digits_dir, tmp_path):
    args = [f"--data_dir={digits_dir}", f"--logdir={tmp_path}", *RUN]
    for when, length in (
        ("final", ["--train_steps=30", "--eval_every=0"]),
        ("periodic", ["--train_steps=60", "--eval_every=40"]),
    ):
        process = program("tests.planted", "slow_evaluation", *args, *length)
        for line in process.stdout:
            if "PHASE" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert newest_step(tmp_path) in (30, None), when
        assert not (tmp_path / "result.json").exists()
    done = run_program("trainer", *args, "--train_steps=60")
    assert done.code == 0 and json.loads((tmp_path / "result.json").read_text())["status"] == "done"
