"""Summaries, fetched with the step: a run of their own would consume a batch."""

from __future__ import annotations

from collections.abc import Callable

from trainer.graph.training import TrainGraph
from trainer.reporting.event_file import EventFile, scalar_summary
from trainer.tf1 import tf
from trainer.timing import Every


class ScalarHook(tf.train.SessionRunHook):
    """Writes scalars: of the first step, of the last one, and of those that are due."""

    def __init__(
        self,
        writer: EventFile,
        graph: TrainGraph,
        *,
        every: Every,
        last_step: int,
        images_per_second: Callable[[], float | None],
    ) -> None:
        self._writer = writer
        self._graph = graph
        self._every = every
        self._last_step = last_step
        self._images_per_second = images_per_second
        self._has_first = every.is_never

    def due(self, step: int) -> bool:
        at_edge = not self._has_first or step >= self._last_step
        return (at_edge and not self._every.is_never) or self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs([self._graph.step, self._graph.summaries.scalars])

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step_v, scalars_v = run_values.results
        step = int(step_v)
        self._writer.add_summary(scalars_v, step)
        if rate := self._images_per_second():
            self._writer.add_summary(scalar_summary("images_per_second", rate), step)
        self._has_first = True
        self._every.done(step)


class HistogramHook(tf.train.SessionRunHook):
    """Writes histograms of weights and gradients, and the grid of input images."""

    def __init__(self, writer: EventFile, graph: TrainGraph, *, every: Every) -> None:
        self._writer = writer
        self._graph = graph
        self._every = every

    def due(self, step: int) -> bool:
        return self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs([self._graph.step, self._graph.summaries.histograms])

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step_v, histograms_v = run_values.results
        self._writer.add_summary(histograms_v, int(step_v))
        self._every.done(int(step_v))
