"""Jobs of several tasks: how tests start them, read them, and kill their tasks."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import psutil
import pytest

from tests.conftest import read_metrics

# The summaries fetch means that other steps do not.
LOSSES = (
    "--train_steps=50",
    "--log_every=1",
    "--batch_size=48",
    "--dropout=0",
    "--summary_every=7",
    "--trace_every=11",
)


@pytest.fixture
def launch(program, digits_dir, tmp_path):
    """Starts a job on this machine."""

    def start(*args, workers=2, name="job", flags=(), batch_size=0, **options):
        more = [*flags, *(f"--{key}={value}" for key, value in options.items())]
        settings = [f"--logdir={tmp_path / name}", f"--data_dir={digits_dir}", "--eval_every=0"]
        settings += [f"--batch_size={batch_size}"] if batch_size else []
        return program("launch", "local", f"--workers={workers}", *more, "--", *settings, *args)

    return start


@pytest.fixture
def run_job(launch, tmp_path):
    """Runs a job to its end; returns its run directory."""

    def run(*args, name="job", **options):
        process = launch(*args, name=name, **options)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
        return tmp_path / name

    return run


@pytest.fixture
def by_hand(program, digits_dir, tmp_path):
    """Starts two workers without a launcher."""

    def start(*args):
        from launch.plan import free_ports

        hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
        where = (f"--worker_hosts={hosts}", f"--logdir={tmp_path / 'run'}", f"--data_dir={digits_dir}")
        return [program("trainer", *where, "--job_name=worker", f"--task_index={index}", *args) for index in (0, 1)]

    return start


def wait_for_line(process, pattern):
    """Reads a job's lines up to the first that matches; returns the lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError("".join(lines))


def children(process):
    """Finds the processes of a job's tasks, by the names of these."""
    found = {}
    for child in psutil.Process(process.pid).children():
        task = json.loads(child.environ()["TF_CONFIG"])["task"]
        found[f"{task['type']} {task['index']}"] = child
    return found


def kill_at_random(process, victim, count):
    """Kills a task so many times, each some time after it has begun; returns what the job prints to its end."""
    rng = np.random.default_rng(sum(victim.encode()))
    begun = "serves until" if victim.startswith("ps") else "steps of 64"
    kills, lines = 0, []
    while kills < count:
        lines += wait_for_line(process, rf"\[{victim}\] .*{begun}")
        time.sleep(float(rng.uniform(0, 4)))
        children(process)[victim].kill()
        kills += 1
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, "".join(lines) + out
    return "".join(lines) + out


def variables(logdir, step):
    """Reads a checkpoint."""
    from trainer.tf1 import tf

    reader = tf.train.NewCheckpointReader(str(logdir / f"model.ckpt-{step}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def same_losses(logdir, reference):
    """Compares the losses of 50 steps."""
    mine, other = (np.array(list(read_metrics(path, "loss").values())) for path in (logdir, reference))
    assert len(mine) == len(other) == 50
    np.testing.assert_allclose(mine, other, rtol=1e-5)
