"""When a learning rate falls, against arithmetic."""

import math

import numpy as np
import pytest

from trainer.learning.metrics import Goal
from trainer.learning.plateau import State

HIGHER, LOWER = Goal("accuracy"), Goal("loss", larger_is_better=False)


def test_another_metric_begins_anew():
    state = State().after(1.3, LOWER, rate=0.5, patience=1)
    state = state.after(1.5, LOWER, rate=0.5, patience=1)
    assert state.factor == 0.5
    for accuracy in (0.1, 0.2, 0.3):
        state = state.after(accuracy, HIGHER, rate=0.5, patience=1)
    assert state.factor == 0.5 and state.best == np.float32(0.3)


@pytest.mark.parametrize(
    ("goal", "values", "factors"),
    [
        (HIGHER, [0.5, 0.6, 0.6, 0.5, 0.7, 0.7, 0.6, 0.6], [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        (HIGHER, [math.nan, 0.1, math.nan, math.inf, 0.2], [1, 1, 1, 0.5, 0.5]),
        (LOWER, [3.0, 2.0, 2.5, 2.0, 1.9], [1, 1, 1, 0.5, 0.5]),
    ],
)
def test_it_falls_after_each_two_evaluations_without_a_better_one(goal, values, factors):
    state, found = State(), []
    for value in values:
        state = state.after(value, goal, rate=0.5, patience=2)
        found.append(state.factor)
    assert found == factors and np.isfinite(state).all()
