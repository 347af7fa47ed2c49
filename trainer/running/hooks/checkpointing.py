"""Checkpoints every so often."""

from __future__ import annotations

from collections.abc import Callable

from trainer.graph.training import TrainGraph
from trainer.reporting.failures import Failures
from trainer.rundir import RunDir
from trainer.saving import checkpoints
from trainer.saving.files import keep_for_ever
from trainer.signals import Signals
from trainer.tf1 import tf
from trainer.timing import Every

WHAT = "a checkpoint"


class CheckpointHook(tf.train.SessionRunHook):
    """Saves after the steps that are due or asked for by a signal, and once more on `save`.

    Where a save fails the training goes on; only that of `save` itself is an error. `saved` is the step that is on
    disk already. Where `keep_every` is due, the checkpoint stays for ever.
    """

    def __init__(
        self,
        ops: checkpoints.CheckpointOps,
        rundir: RunDir,
        graph: TrainGraph,
        *,
        every: Every,
        keep_every: Every,
        keep: int,
        saved: int,
        signals: Signals,
        failures: Failures,
        prepare: Callable[[], None],
    ) -> None:
        self.saved = saved
        self._signals = signals
        self._failures = failures
        self._prepare = prepare
        self._ops = ops
        self._rundir = rundir
        self._graph = graph
        self._every, self._keep_every = every, keep_every
        self._keep = keep

    def due(self, step: int) -> bool:
        return self._every.due(step) or self._signals.save

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs(self._graph.step)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        with self._failures.tolerated(WHAT):
            self.save(run_context.session, int(run_values.results))
        self._every.done(int(run_values.results))
        self._signals.save = False

    def save(self, session: tf.Session, step: int) -> None:
        """Saves `step`, unless it is the one that was saved last.

        Raises:
          NotFiniteError, TrainerError: as `checkpoints.save` does.
        """
        if step != self.saved:
            self._prepare()
            checkpoints.save(self._ops, session, self._rundir, step, self._keep)
            self.saved = step
            if self._keep_every.due(step):
                with self._failures.tolerated(f"{self._rundir.kept.name}/"):
                    keep_for_ever(self._rundir, step)
                self._keep_every.done(step)
