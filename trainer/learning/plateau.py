"""A learning rate that falls where a metric of the validation set gets no better: `--decay=plateau`."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from trainer.learning.metrics import Goal
from trainer.tf1 import tf

NAME = "plateau"


class State(NamedTuple):
    """What has been seen of the evaluations; a variable of the run holds it, so that checkpoints do too."""

    factor: float = 1.0  # of the learning rate
    best: float = 0.0  # value of the metric
    since: float = 0.0  # evaluations without a better one, since that or the last fall
    has_best: float = 0.0  # 1 once a value was finite: until then any is better
    metric: float = 0.0  # stands for the metric, which another start of the run may change

    def after(self, value: float, goal: Goal, *, rate: float, patience: int) -> State:
        """Returns the state after one more evaluation.

        Args:
          value: of the metric; NaN is never better.
          goal: the metric.
          rate: the factor falls to this part of itself.
          patience: after so many evaluations in a row without a better one.
        """
        value = float(np.float32(value))  # As the variable holds it.
        metric = float(zlib.crc32(f"{goal.name}:{goal.larger_is_better}".encode()) & 0xFFFFFF)  # float32 holds 24 bits.
        if metric != self.metric:
            return State(factor=self.factor, metric=metric)._after(value, goal, rate, patience)
        return self._after(value, goal, rate, patience)

    def _after(self, value: float, goal: Goal, rate: float, patience: int) -> State:
        if np.isfinite(value) and (not self.has_best or goal.is_better(value, self.best)):
            return self._replace(best=value, since=0.0, has_best=1.0)
        if self.since + 1 < patience:
            return self._replace(since=self.since + 1)
        return self._replace(factor=self.factor * rate, since=0.0)


class Plateau:
    """The factor of a run's learning rate."""

    def __init__(self, rate: float, patience: int) -> None:
        """Makes the variable, in the default graph; see `State.after`."""
        self._rate, self._patience = rate, patience
        self._state = tf.get_variable(NAME, initializer=np.array(State(), np.float32), trainable=False)
        self._next = tf.placeholder(tf.float32, self._state.shape, name=f"next_{NAME}")
        self._write = self._state.assign(self._next, read_value=False)

    def build_factor(self) -> tf.Tensor:
        """Builds the factor of the rate: float32 []."""
        return self._state.read_value()[0]

    def note(self, session: tf.Session, value: float, goal: Goal) -> State | None:
        """Takes note of an evaluation; returns the new state where the rate falls."""
        old = State(*map(float, session.run(self._state)))
        new = old.after(value, goal, rate=self._rate, patience=self._patience)
        session.run(self._write, {self._next: np.array(new, np.float32)})
        return new if new.factor != old.factor else None
