"""Learning rates against arithmetic."""

import math

import numpy as np
import pytest

from trainer.grammars import parse_decay
from trainer.learning.schedules import build_learning_rate
from trainer.tf1 import tf


def rates(decay, steps, *, warmup_steps=0, train_steps=100, base=0.8, steps_per_epoch=10.0):
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.placeholder(tf.int64, [])
        rate = build_learning_rate(
            step,
            base=base,
            decay=parse_decay(decay),
            warmup_steps=warmup_steps,
            train_steps=train_steps,
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
    np.testing.assert_allclose(rates("constant", steps, warmup_steps=5), [0.8 * f for f in factors], rtol=1e-6)
    decayed = [0.8 * 0.9**step * f for step, f in zip(steps, factors, strict=True)]
    np.testing.assert_allclose(rates("exponential:0.9:1", steps, warmup_steps=5), decayed, rtol=1e-5)
