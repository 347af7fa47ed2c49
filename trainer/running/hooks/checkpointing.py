"""Checkpoints every so often."""

from __future__ import annotations

from trainer.graph import TrainGraph
from trainer.rundir import RunDir
from trainer.running.session import Signals
from trainer.saving import checkpoints
from trainer.tf1 import tf
from trainer.timing import Every


class CheckpointHook(tf.train.SessionRunHook):
    """Saves after the steps that are due or asked for by a signal, and once more on `save`.

    `saved` is the step that is on disk already.
    """

    def __init__(
        self,
        ops: checkpoints.CheckpointOps,
        rundir: RunDir,
        graph: TrainGraph,
        *,
        every: Every,
        keep: int,
        saved: int,
        signals: Signals,
    ) -> None:
        self._signals = signals
        self._ops = ops
        self._rundir = rundir
        self._graph = graph
        self._every = every
        self._keep = keep
        self._saved = saved

    def due(self, step: int) -> bool:
        return self._every.due(step) or self._signals.save

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs(self._graph.step)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        self.save(run_context.session, int(run_values.results))
        self._every.restart()
        self._signals.save = False

    def save(self, session: tf.Session, step: int) -> None:
        """Saves `step`, unless it is the one that was saved last."""
        if step != self._saved:
            checkpoints.save(self._ops, session, self._rundir, step, self._keep)
            self._saved = step
