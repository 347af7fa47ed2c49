"""Summaries, fetched with the step: a run of their own would consume a batch."""

from __future__ import annotations

from collections.abc import Callable

from trainer.graph import TrainGraph
from trainer.running.event_file import EventFile
from trainer.tf1 import tf
from trainer.timing import Every


class SummaryHook(tf.train.SessionRunHook):
    """Writes scalars, and less often histograms with the grid of input images."""

    def __init__(
        self,
        writer: EventFile,
        graph: TrainGraph,
        *,
        scalars: Every,
        histograms: Every,
        images_per_second: Callable[[], float],
    ) -> None:
        self._writer = writer
        self._graph = graph
        self._scalars = scalars
        self._histograms = histograms
        self._images_per_second = images_per_second
        self._step = 0

    def due(self, step: int) -> bool:
        self._step = step
        return self._scalars.due(step) or self._histograms.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        fetches = {"step": self._graph.step}
        if self._scalars.due(self._step):
            fetches["scalars"] = self._graph.scalars
        if self._histograms.due(self._step):
            fetches["histograms"] = self._graph.histograms
        return tf.train.SessionRunArgs(fetches)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        results = run_values.results
        step = int(results["step"])
        if "histograms" in results:
            self._writer.add_summary(results["histograms"], step)
            self._histograms.restart()
        if "scalars" in results:
            self._writer.add_summary(results["scalars"], step)
            if rate := self._images_per_second():
                self._writer.add_summary(scalar_summary("images_per_second", rate), step)
            self._scalars.restart()


def scalar_summary(tag: str, value: float) -> tf.Summary:
    return tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)])
