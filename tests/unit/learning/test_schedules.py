"""Learning rates against arithmetic."""

import math

import numpy as np
import pytest

from trainer.grammars import parse_decay, parse_period
from trainer.learning.schedules import build_learning_rate
from trainer.tf1 import tf


def rates(decay, steps, *, warmup="0", train_steps=100, base=0.8, steps_per_epoch=10.0, by_epochs=False, ahead=0):
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.placeholder(tf.int64, [])
        rate = build_learning_rate(
            step,
            base=base,
            decay=parse_decay(decay),
            warmup=parse_period("warmup", warmup),
            train_steps=train_steps,
            ends_by_epochs=by_epochs,
            steps_ahead=ahead,
            steps_per_epoch=steps_per_epoch,
        )
        return [float(session.run(rate, {step: value})) for value in steps]


@pytest.mark.parametrize(
    ("decay", "formula"),
    [
        ("constant", lambda s: 0.8),
        ("exponential:0.99:1epochs", lambda s: 0.8 * 0.99 ** (s / 10)),
        ("exponential:0.5:7:staircase", lambda s: 0.8 * 0.5 ** (s // 7)),
        ("cosine", lambda s: 0.8 * (1 + math.cos(math.pi * min(s, 100) / 100)) / 2),
        ("piecewise:20=0.1,30=0.01", lambda s: 0.8 if s < 20 else 0.1 if s < 30 else 0.01),
        ("piecewise:2epochs=0.1", lambda s: 0.8 if s < 20 else 0.1),
    ],
)
def test_decays_follow_their_formulas(decay, formula):
    steps = [0, 1, 6, 7, 19, 20, 21, 29, 30, 50, 99, 100, 150]
    np.testing.assert_allclose(rates(decay, steps), [formula(step) for step in steps], rtol=1e-6, atol=2e-8)


def test_warm_up_rises_linearly_to_the_rate():
    steps = [0, 1, 3, 4, 5, 50]
    factors = [1 / 5, 2 / 5, 4 / 5, 1, 1, 1]
    np.testing.assert_allclose(rates("constant", steps, warmup="5"), [0.8 * f for f in factors], rtol=1e-6)
    decayed = [0.8 * 0.9**step * f for step, f in zip(steps, factors, strict=True)]
    np.testing.assert_allclose(rates("exponential:0.9:1", steps, warmup="5"), decayed, rtol=1e-5)


@pytest.mark.parametrize(
    ("decay", "by_epochs"),
    [("exponential:0.5:2epochs", False), ("piecewise:2epochs=0.1,6epochs=0.01", False), ("cosine", True)],
)
def test_epochs_go_on_where_batches_become_larger(decay, by_epochs):
    """40 steps of 100 examples, 4 epochs of 1,000, and then batches of 200: the rates of the same epochs."""
    small = rates(decay, range(0, 100, 2), warmup="5epochs", by_epochs=by_epochs)
    large = rates(
        decay, range(40, 70), warmup="5epochs", steps_per_epoch=5.0, by_epochs=by_epochs, train_steps=70, ahead=20 - 40
    )
    wanted = np.array(small[20:])
    warm = (np.arange(20, 50) + 1) / 25  # A warm-up in larger steps is a little behind.
    of_small = np.minimum(1, (np.arange(40, 100, 2) + 1) / 50)
    np.testing.assert_allclose(np.array(large) / np.minimum(1, warm), wanted / of_small, rtol=1e-5, atol=1e-8)


def test_what_is_measured_in_steps_is_steps_whatever_their_batches():
    for decay in ("exponential:0.5:20", "piecewise:20=0.1", "cosine"):
        assert rates(decay, [10, 30, 60], warmup="15", ahead=-7) == rates(decay, [10, 30, 60], warmup="15")
