"""The best checkpoint is kept apart from the newest."""

import numpy as np
import pytest

from trainer.errors import TrainerError
from trainer.learning.metrics import Goal
from trainer.rundir import RunDir
from trainer.saving.best import Best, is_better, keep_best, load_best
from trainer.saving.tensors import load_tensors, save_tensors
from trainer.tf1 import tf

ACCURACY = Goal("accuracy")


@pytest.fixture
def rundir(tmp_path):
    for step in (1, 2):
        save_tensors({"w": np.full([3], step, np.float32)}, str(tmp_path / f"model.ckpt-{step}"))
    return RunDir(tmp_path)


def best_of(step, accuracy, loss=1.0, split="validation"):
    return Best(step, split, "ema", "accuracy", accuracy, loss)


def test_it_outlives_the_original_and_replaces_the_one_before(rundir):
    keep_best(rundir, str(rundir.path / "model.ckpt-1"), best_of(1, 0.5))
    keep_best(rundir, str(rundir.path / "model.ckpt-2"), best_of(2, 0.6))
    for path in rundir.path.glob("model.ckpt-*"):
        path.unlink()
    assert tf.train.latest_checkpoint(str(rundir.best)) == str(rundir.best / "model.ckpt-2")
    assert load_tensors(str(rundir.best / "model.ckpt-2"))["w"].tolist() == [2, 2, 2]
    assert load_best(rundir) == best_of(2, 0.6)
    assert not list(rundir.best.glob("model.ckpt-1.*"))


def test_one_that_has_gone_leaves_the_best_before_it(rundir):
    keep_best(rundir, str(rundir.path / "model.ckpt-1"), best_of(1, 0.5))
    with pytest.raises(FileNotFoundError):
        keep_best(rundir, str(rundir.path / "model.ckpt-7"), best_of(7, 0.9))
    assert load_best(rundir) == best_of(1, 0.5)


@pytest.mark.parametrize(
    ("found", "before", "better"),
    [
        (best_of(2, 0.6), None, True),
        (best_of(2, 0.6), best_of(1, 0.5), True),
        (best_of(2, 0.5), best_of(1, 0.5), False),
        (best_of(2, 0.5, loss=0.9), best_of(1, 0.5), True),
        (best_of(2, 0.4), best_of(1, 0.5), False),
    ],
)
def test_higher_accuracy_and_then_smaller_loss_is_better(found, before, better):
    assert is_better(found, before, ACCURACY) is better


def test_of_an_error_the_smaller_is_better():
    error = Goal("mae", larger_is_better=False, is_fraction=False)
    before, found = (best_of(1, value)._replace(metric="mae") for value in (0.5, 0.4))
    assert is_better(found, before, error) and not is_better(before, found, error)
    assert error.describe(0.41234) == "mae 0.4123" and ACCURACY.describe(0.41234) == "accuracy 41.23%"


def test_the_best_of_another_split_kind_or_metric_stays():
    better = best_of(2, 0.9)
    for found in (best_of(2, 0.9, split="test"), better._replace(weights="raw"), better._replace(metric="recall")):
        assert not is_better(found, best_of(1, 0.5), ACCURACY)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"step": 1, "split": "test", "weights": "ema", "accuracy": "x", "loss": 1}']
)
def test_a_damaged_note_of_the_best_is_named_and_nothing_is_replaced(rundir, text):
    keep_best(rundir, str(rundir.path / "model.ckpt-1"), best_of(1, 0.5))
    (rundir.best / "best.json").write_text(text)
    with pytest.raises(TrainerError, match="is damaged"):
        load_best(rundir)
