"""Samples of the input queue's fill, on which the verdict at the end of a run rests."""

from __future__ import annotations

from trainer.graph import TrainGraph
from trainer.tf1 import tf

WARMUP_STEPS = 10
EVERY_STEPS = 50  # or more often, where a run is shorter than ten such samples


class InputFillHook(tf.train.SessionRunHook):
    """Samples the queue's fill, with the steps."""

    def __init__(self, graph: TrainGraph, *, first_step: int, num_steps: int) -> None:
        self._fill = graph.fill
        self._first = first_step + WARMUP_STEPS
        self._every_steps = max(1, min(EVERY_STEPS, num_steps // 10))
        self.samples: list[float] = []

    def due(self, step: int) -> bool:
        # At first the queue only shows how it is being filled.
        return self._fill is not None and step % self._every_steps == 0 and step >= self._first

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs(self._fill)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        self.samples.append(float(run_values.results))
