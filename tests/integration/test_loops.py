"""`--steps_per_loop`: the same steps in one run of TensorFlow, bit for bit, and nothing lost at its edges."""

import json
import signal
import time

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.integration.test_nonfinite import PLAIN, nan_logits, plant  # noqa: F401  (a fixture)
from tests.integration.test_resume import weights
from tests.integration.test_signals import newest_step, stop, wait_for
from trainer.errors import NotFiniteError

pytestmark = pytest.mark.timeout(120)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("source", "towers", "optimizer"),
    [
        ("queue", 2, "momentum"),
        ("preloaded", 2, "adam"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("queue", 1, "adam"), ("feed", 1, "momentum")]),
    ],
)
def test_steps_in_a_loop_are_the_steps_outside_of_it(train, tmp_path, source, towers, optimizer):
    """With dropout, averages, L2, clipping and a moving rate: what stayed as it was before the loop would show."""
    settings = {
        "input": source, "num_gpus": towers, "optimizer": optimizer, "log_every": "10", "summary_every": "7",
        "decay": "exponential:0.9:7", "warmup": "5", "clip": "global_norm:1", "weight_decay": 1e-3, "train_steps": 45,
    }  # fmt: skip
    one = train(**settings, logdir=str(tmp_path / "one"))
    many = train(**settings, logdir=str(tmp_path / "many"), steps_per_loop=20)
    same(weights(many), weights(one))
    for name in ("loss", "learning_rate"):
        assert read_metrics(many, name) == read_metrics(one, name)


@pytest.mark.slow
def test_the_models_and_optimizers_all_loop(train, tmp_path):
    for model, optimizer in (("mlp", "sgd"), ("mlp", "rmsprop"), ("lenet", "momentum")):
        runs = [
            train(
                model=model,
                optimizer=optimizer,
                train_steps=12,
                steps_per_loop=loop,
                logdir=str(tmp_path / f"{optimizer}{loop}"),
            )
            for loop in (1, 12)
        ]
        same(weights(runs[1]), weights(runs[0]))


@pytest.mark.parametrize("towers", [1, 4])
def test_a_step_that_is_not_finite_ends_the_loop_before_the_next(train, plant, tmp_path, capsys, towers):  # noqa: F811
    plant(nan_logits, first=17, tower=towers - 1)
    with pytest.raises(NotFiniteError) as caught:
        train(**PLAIN | {"log_every": "0"}, num_gpus=towers, train_steps=40, steps_per_loop=30)
    assert "step 17 is not finite and not applied: the loss, the gradient of hidden1/weights" in str(caught.value)
    assert f"in tower {towers - 1}" in str(caught.value)
    assert newest_step(tmp_path / "run") == 16
    assert all(np.isfinite(value).all() for value in weights(tmp_path / "run").values())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["step"] == 16 and np.isfinite(result["train_loss"])


def test_steps_that_are_skipped_are_counted_in_a_loop_too(train, plant, tmp_path):  # noqa: F811
    plant(nan_logits, first=17, times=3)
    settings = {**PLAIN, "log_every": "0", "train_steps": 40, "nonfinite": "skip"}
    runs = [train(**settings, steps_per_loop=loop, logdir=str(tmp_path / f"loop{loop}")) for loop in (1, 30)]
    same(weights(runs[1]), weights(runs[0]))
    assert weights(runs[1])["skipped_steps"] == 3 and weights(runs[1])["global_step"] == 40


def test_everything_is_due_at_its_own_step(train, tmp_path):
    """Evaluations, checkpoints and lines do not wait for the loop's end."""
    settings = {"eval_every": "15", "checkpoint_every": "10", "log_every": "4", "train_steps": 40}
    one = train(**settings, logdir=str(tmp_path / "one"))
    many = train(**settings, logdir=str(tmp_path / "many"), steps_per_loop=1000)
    for name in ("loss", "validation_accuracy"):
        assert read_metrics(many, name) == read_metrics(one, name)
    assert {path.name for path in many.glob("*.index")} == {path.name for path in one.glob("*.index")}


@pytest.mark.parametrize(
    ("fault", "more"),
    [
        pytest.param(None, [], marks=pytest.mark.soak),
        pytest.param("blocked_reader", [], marks=pytest.mark.slow),
        pytest.param("blocked_reader", ["--staging=yes", "--num_gpus=2", "--steps_per_loop=1"], marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_a_loop_keeps_the_steps_that_it_has_made(program, digits_dir, tmp_path, train, fault, more):
    """Also where a loop is woken in its middle; what is saved is what as many steps outside of a loop give."""
    args = [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}", "--eval_every=0", "--decay=constant"]
    args += ["--steps_per_loop=1000000", "--train_steps=1000000", "--log_every=15", "--summary_every=0"]
    args += ["--histogram_every=0", "--input=queue", "--queue_capacity=2", "--checkpoint_every=0"]
    process = program(*(["tests.planted", fault] if fault else ["trainer"]), *args, *more)
    wait_for(process, "PHASE" if fault else "step 15/")
    time.sleep(1.2)
    stop(process, signal.SIGTERM)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    step = newest_step(tmp_path / "run")
    assert result["step"] == step > 15
    towers = 2 if more else 1
    plain = train(decay="constant", train_steps=step, queue_capacity=2, num_gpus=towers, logdir=str(tmp_path / "plain"))
    found, wanted = weights(tmp_path / "run"), weights(plain)
    # Which tells that the blocked reader is TensorFlow's, and the other is not.
    assert found.pop("stream")[:4].tolist() == wanted.pop("stream")[:4].tolist()
    same(found, wanted)
