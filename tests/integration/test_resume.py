"""k steps + stop + resume = an uninterrupted run: the same losses and the same weights, bit for bit."""

import numpy as np
import pytest

from tests.conftest import read_metrics
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


def weights(logdir):
    reader = tf.train.NewCheckpointReader(tf.train.latest_checkpoint(str(logdir)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("source", ["queue", "preloaded", "feed"])
@pytest.mark.parametrize("towers", [1, 2, 4])
def test_stopped_and_resumed_runs_end_as_one_that_was_never_stopped(train, tmp_path, source, towers):
    """With dropout, averages, momentum and a moving rate; stops within an epoch and around its edge, 19.66 steps."""
    settings = {
        "input": source, "num_gpus": towers, "queue_readers": 3, "log_every": "1", "optimizer": "adam",
        "decay": "exponential:0.9:7", "warmup": "5", "clip": "global_norm:1", "weight_decay": 1e-4,
    }  # fmt: skip
    whole = train(**settings, train_steps=45, logdir=str(tmp_path / "whole"))
    parts = tmp_path / "parts"
    for last in (7, 19, 20, 45):
        train(**settings, train_steps=last, logdir=str(parts))
    for name in ("loss", "learning_rate"):
        assert read_metrics(parts, name) == read_metrics(whole, name)
    found, wanted = weights(parts), weights(whole)
    assert found.keys() == wanted.keys() and wanted["position"] == 45 * 64
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
