"""Checkpoints every so often."""

from __future__ import annotations

from trainer.errors import TrainerError
from trainer.graph import TrainGraph
from trainer.rundir import RunDir
from trainer.tf1 import tf
from trainer.timing import Every


class CheckpointHook(tf.train.SessionRunHook):
    """Saves after the steps that are due, and once more on `save`; `saved` is the step that is on disk already."""

    def __init__(self, saver: tf.train.Saver, rundir: RunDir, graph: TrainGraph, every: Every, saved: int) -> None:
        self._saver = saver
        self._rundir = rundir
        self._graph = graph
        self._every = every
        self._saved = saved

    def due(self, step: int) -> bool:
        return self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs(self._graph.step)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        self.save(run_context.session, int(run_values.results))
        self._every.restart()

    def save(self, session: tf.Session, step: int) -> None:
        """Saves `step`, unless it is the one that was saved last.

        Raises:
          TrainerError: it could not be written.
        """
        if step == self._saved:
            return
        try:
            self._saver.save(session, str(self._rundir.checkpoint_prefix), global_step=step)
        except tf.errors.OpError as error:
            reason = error.message.strip().splitlines()[0]
            raise TrainerError(f"the checkpoint of step {step} could not be saved: {reason}") from error
        self._saved = step
