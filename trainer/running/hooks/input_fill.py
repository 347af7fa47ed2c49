"""Samples of the input queue's fill, on which the verdict at the end of a run rests."""

from __future__ import annotations

import time

from trainer.graph.training import TrainGraph
from trainer.tf1 import tf
from trainer.timing import Every

WARMUP_STEPS = 10
EVERY_STEPS = 50  # or more often, where a run is shorter than ten such samples


class InputFillHook(tf.train.SessionRunHook):
    """Samples the queue's fill, with the steps."""

    def __init__(self, graph: TrainGraph, *, first_step: int, num_steps: int) -> None:
        self._step, self._fill = graph.step, graph.fill
        self._first = first_step + WARMUP_STEPS
        every_steps = max(1, min(EVERY_STEPS, num_steps // 10))
        self._every = Every(every_steps=every_steps, first_step=first_step, clock=time.monotonic)
        self.samples: list[float] = []

    def due(self, step: int) -> bool:
        # At first the queue only shows how it is being filled.
        return self._fill is not None and step >= self._first and self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs([self._step, self._fill])

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step_v, fill_v = run_values.results
        self.samples.append(float(fill_v))
        self._every.done(int(step_v))
