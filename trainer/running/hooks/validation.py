"""Evaluation on the validation set during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainer.errors import Stopped
from trainer.graph.training import TrainGraph
from trainer.tf1 import tf
from trainer.timing import Every


class ValidationHook(tf.train.SessionRunHook):
    """Evaluates after the steps that are due, and hands the result on."""

    def __init__(
        self,
        graph: TrainGraph,
        *,
        every: Every,
        evaluate: Callable[[tf.Session], Mapping[str, float]],
        report: Callable[[tf.Session, int, Mapping[str, float]], bool],
        stops_later: bool = False,
    ) -> None:
        """Takes what it needs.

        Args:
          graph: of the training.
          every: when it is due.
          evaluate: evaluates a session's weights.
          report: takes the session, the step and the metrics; returns whether the training is to end here.
          stops_later: a signal only ends the evaluation; the workers of a cluster stop after a step of all.
        """
        self._stops_later = stops_later
        self._graph = graph
        self._every = every
        self._evaluate = evaluate
        self._report = report

    def due(self, step: int) -> bool:
        return self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs(self._graph.step)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step = int(run_values.results)
        try:
            if self._report(run_context.session, step, self._evaluate(run_context.session)):
                run_context.request_stop()
        except Stopped:
            if not self._stops_later:
                raise
        self._every.done(step)
