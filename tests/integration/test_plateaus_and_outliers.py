"""A rate that falls with the evaluations, steps that are not applied for their gradients, checkpoints that stay."""

import json
import os
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.test_nonfinite import PLAIN, plant, spoil_gradient  # noqa: F401  (a fixture)
from tests.integration.test_resume import weights
from trainer.errors import NotFiniteError, UsageError
from trainer.saving.tensors import load_tensors

pytestmark = pytest.mark.timeout(120)


def scalars(logdir, tag):
    events = EventAccumulator(str(logdir), {"scalars": 0}).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


PLATEAU = {**PLAIN, "decay": "plateau:0.5:2", "eval_every": "4", "summary_every": "1", "learning_rate": 1e-6}


def test_the_rate_falls_after_evaluations_without_a_better_one(train, capsys):
    """At so small a rate no evaluation after the first is better: it falls after the third, at step 12, and at 20."""
    logdir = train(**PLATEAU, train_steps=24)
    rates = scalars(logdir, "learning_rate")
    for step in range(1, 25):
        assert rates[step] == pytest.approx(1e-6 * (1 if step <= 12 else 0.5 if step <= 20 else 0.25)), step
    assert "from here on the learning rate is 5e-07" in capsys.readouterr().out
    assert weights(logdir)["plateau"][0] == 0.25


@pytest.mark.parametrize(
    "settings",
    [{"train_steps": 12}, *(pytest.param({"train_steps": steps}, marks=pytest.mark.slow) for steps in (10, 14))],
    ids=str,
)
def test_a_resumed_plateau_is_bit_for_bit_the_one_that_never_stopped(train, tmp_path, settings):
    """Where a run ends with an evaluation of its own, that counts for nothing."""
    same = PLATEAU | {"learning_rate": 0.3, "num_gpus": 2, "steps_per_loop": 3, "keep_best": True}
    whole = weights(train(**same, train_steps=24, logdir=str(tmp_path / "whole")))
    train(**same | settings, logdir=str(tmp_path / "parts"))
    parts = weights(train(**same, train_steps=24, logdir=str(tmp_path / "parts")))
    assert sorted(parts) == sorted(whole)
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": "plateau:0.5", "eval_every": "0"}, "waits for evaluations"),
        ({"decay": "plateau:2"}, "write plateau:RATE"),
        ({"decay": "plateau:0.1:0"}, "write plateau:RATE"),
        ({"clip": "clip_to_zero"}, "no positive number"),
        ({"max_skips": 7}, "--max_skips=7 is of --nonfinite=skip and --clip=clip_to_zero:MAX"),
        ({"keep_every": "6d"}, "is no period"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(train, settings, message):
    with pytest.raises(UsageError, match=message):
        train(**PLAIN | {"train_steps": 4} | settings)


@pytest.mark.parametrize("settings", [{}, {"num_gpus": 2}, {"steps_per_loop": 5}], ids=str)
def test_a_step_with_the_norm_of_an_outlier_leaves_no_trace_but_its_count(
    train,
    tmp_path,
    plant,  # noqa: F811
    monkeypatch,
    capsys,
    settings,
):
    """As if the stream had never held those batches: compared with a run whose input drops them."""
    from trainer.inputs import feed

    keys, same = feed.batch_keys, PLAIN | settings | {"train_steps": 12, "input": "feed"}

    def without_three(*args):
        return (batch for number, batch in enumerate(keys(*args)) if number not in (6, 7, 8))

    with monkeypatch.context() as patch:
        patch.setattr(feed, "batch_keys", without_three)
        wanted = weights(train(**same, logdir=str(tmp_path / "wanted")))
    plant(spoil_gradient(1e6), 7, times=3)
    logdir = train(**same, clip="clip_to_zero:50", max_skips=3)
    found = weights(logdir)
    assert found.pop("position") == 15 * 64 and found.pop("skipped_steps") == 3
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert json.loads((logdir / "result.json").read_text())["skipped_steps"] == 3
    out = capsys.readouterr().out
    assert "step 7 is not applied: the norm of all gradients is above 50; skipped (3 of at most --max_skips=3)" in out


def test_a_run_whose_steps_are_all_outliers_ends(train):
    with pytest.raises(NotFiniteError, match=r"step 1 is not applied: .* above 1e-06; 5 were skipped before it"):
        train(**PLAIN, train_steps=12, clip="clip_to_zero:1e-6", max_skips=5)


def test_nan_is_no_outlier(train, plant):  # noqa: F811
    plant(spoil_gradient(np.nan), 7)
    with pytest.raises(NotFiniteError, match=r"step 7 is not finite and not applied: the gradient of hidden1/weights"):
        train(**PLAIN, train_steps=12, clip="clip_to_zero:50")


def test_checkpoints_of_a_period_stay(train, tmp_path):
    logdir = train(**PLAIN, train_steps=20, checkpoint_every="3", keep_checkpoints=1, keep_every="5")
    assert sorted(path.name for path in logdir.glob("*.index")) == ["model.ckpt-20.index"]
    kept = sorted(int(path.stem.split("-")[1]) for path in (logdir / "kept").glob("*.index"))
    assert kept == [6, 12, 15, 20]
    assert load_tensors(str(logdir / "kept" / "model.ckpt-12"))["global_step"] == 12


def test_the_hours_of_what_stays_go_on_over_a_resume(train):
    """The newest was kept seven hours ago: the next one is due at once; then not for six hours."""
    same = PLAIN | {"checkpoint_every": "3", "keep_every": "6h"}
    logdir = train(**same, train_steps=3)
    assert not (logdir / "kept").exists()
    train(**same | {"keep_every": "1"}, train_steps=6)
    for path in (logdir / "kept").iterdir():
        os.utime(path, (time.time() - 7 * 3600,) * 2)
    train(**same, train_steps=12)
    assert sorted(path.name for path in (logdir / "kept").glob("*.index")) == [
        f"model.ckpt-{step}.index" for step in (6, 9)
    ]


def test_norms_of_each_gradient_are_summarized(train):
    logdir = train(**PLAIN, train_steps=3, summary_every="1")
    events = EventAccumulator(str(logdir), {"scalars": 0}).Reload()
    names = [tag for tag in events.Tags()["scalars"] if tag.startswith("gradient_norms/")]
    assert "gradient_norms/hidden1/weights" in names and len(names) == 4
    squares = sum(scalars(logdir, name)[2] ** 2 for name in names)
    assert scalars(logdir, "gradient_norm")[2] == pytest.approx(squares**0.5, rel=1e-5)
