"""Jobs of several tasks: how tests read them, and kill their tasks."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import psutil

from tests.conftest import read_metrics

# The summaries fetch means that other steps do not.
LOSSES = (
    "--train_steps=50",
    "--log_every=1",
    "--batch_size=48",
    "--model_args=dropout=0",
    "--summary_every=7",
    "--trace_every=11",
)


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


def same_losses(logdir, reference, steps=50):
    """Compares the losses of the first of 50 steps."""
    mine, other = (np.array(list(read_metrics(path, "loss").values())) for path in (logdir, reference))
    assert len(mine) == len(other) == 50
    np.testing.assert_allclose(mine[:steps], other[:steps], rtol=1e-5)
