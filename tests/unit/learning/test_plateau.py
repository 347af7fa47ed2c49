"""When a learning rate falls, against arithmetic."""

import math

import numpy as np
import pytest

from trainer.learning.metrics import Goal
from trainer.learning.plateau import State

HIGHER, LOWER = Goal("accuracy"), Goal("loss", larger_is_better=False)


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
