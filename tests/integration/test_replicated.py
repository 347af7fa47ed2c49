"""A copy of the variables for each tower: the results of variables on one device, and the same checkpoints."""

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.integration.test_resume import weights
from trainer.errors import TrainerError, UsageError
from trainer.placing import replicas

pytestmark = pytest.mark.timeout(120)
SETTINGS = {
    "train_steps": 50,
    "log_every": "1",
    "batch_size": 48,
    "model_args": ("dropout=0",),
    "optimizer": "momentum",
    "clip": "global_norm:1",
    "weight_decay": 1e-3,
}


def losses(run):
    return np.array(list(read_metrics(run, "loss").values()))


@pytest.mark.parametrize(
    ("reduce", "towers"), [("copy", 2), pytest.param("tree", 3, marks=pytest.mark.slow), ("collective", 2)]
)
def test_the_losses_are_those_of_one_copy(train, tmp_path, reduce, towers):
    one = train(**SETTINGS, logdir=str(tmp_path / "one"), num_gpus=towers)
    settings = {**SETTINGS, "strategy": "replicated", "reduce": reduce, "bucket_mb": 0.1}
    run = train(**settings, logdir=str(tmp_path / "copies"), num_gpus=towers)
    np.testing.assert_allclose(losses(run), losses(one), rtol=1e-5)
    assert {n: v.shape for n, v in weights(run).items()} == {n: v.shape for n, v in weights(one).items()}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", pytest.param("rmsprop", marks=pytest.mark.slow)])
def test_a_run_goes_on_with_copies_from_a_checkpoint_without(train, tmp_path, optimizer):
    """Slots of the optimizer too are the same for all copies."""
    settings = SETTINGS | {"optimizer": optimizer, "decay": "constant", "num_gpus": 2}
    one = train(**settings, logdir=str(tmp_path / "one"))
    train(**settings | {"train_steps": 20}, logdir=str(tmp_path / "two"))
    two = train(**settings, logdir=str(tmp_path / "two"), strategy="replicated", steps_per_loop=10)
    mine, other = weights(two), weights(one)
    for name, value in other.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_float16_trains_with_copies(train, tmp_path):
    run = train(
        **SETTINGS | {"train_steps": 10}, logdir=str(tmp_path / "run"), num_gpus=2, strategy="replicated",
        precision="float16",
    )  # fmt: skip
    assert np.all(np.isfinite(losses(run)))


def test_nccl_without_gpus_is_refused(train, tmp_path):
    with pytest.raises(UsageError, match="--reduce=nccl is for GPUs"):
        train(logdir=str(tmp_path / "run"), num_gpus=2, strategy="replicated", reduce="nccl", train_steps=1)


def test_a_reduction_that_is_wrong_is_refused_before_the_first_step(train, tmp_path, monkeypatch):
    monkeypatch.setitem(replicas.REDUCTIONS, "tree", lambda tensors, devices, _: [tensors[0]] * len(devices))
    with pytest.raises(TrainerError, match="the gradients' means are wrong"):
        train(logdir=str(tmp_path / "run"), num_gpus=2, strategy="replicated", reduce="tree", train_steps=1)
