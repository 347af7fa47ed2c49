"""A stop and a save that one worker was asked for, agreed on by all of them after the same step."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from trainer.placing.strategy import END, NUM_VOTES, SAVE, STOP, Votes
from trainer.signals import Signals
from trainer.tf1 import tf

WAIT_SECONDS = 5.0  # for a step to end after a signal, before its input is taken from it


class VoteHook(tf.train.SessionRunHook):
    """Runs with every step: casts this worker's votes, and takes over what has been agreed on."""

    def __init__(
        self,
        votes: Votes,
        signals: Signals,
        *,
        is_chief: bool,
        ends: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes what it needs.

        Args:
          votes: of the step.
          signals: of the program.
          is_chief: it writes the checkpoints.
          ends: has a hook of this worker asked that the training ends here.
          clock: gives seconds.
        """
        self._votes = votes
        self._is_chief = is_chief
        self._signals = signals
        self._ends = ends
        self._cast = [0.0] * NUM_VOTES
        self._saves = 0  # asked of this worker
        self._agreed_saves = 0.0
        self._clock = clock
        self._signalled = 0.0  # when a signal was seen first
        self.stopped = False

    def due(self, step: int) -> bool:
        return True

    def should_stop(self) -> bool:
        return self.stopped

    def should_wake(self) -> bool:
        """Is a step to be woken that waits for its input: the agreed last one, or one that never ends?"""
        if self._signals.stop and not self._signalled:
            self._signalled = self._clock()
        return self.stopped or (self._signalled > 0 and self._clock() - self._signalled > WAIT_SECONDS)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        if self._signals.save and not self._is_chief:  # It writes the checkpoints.
            self._signals.save = False
            self._saves += 1
        own = [0.0] * NUM_VOTES
        own[STOP], own[SAVE], own[END] = float(self._signals.stop != 0), float(self._saves), float(self._ends())
        if own != self._cast:
            run_context.session.run(self._votes.cast, {self._votes.own: own})
            self._cast = own
        return tf.train.SessionRunArgs(self._votes.agreed)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        agreed = run_values.results
        if agreed[STOP] > 0:
            self._signals.stop = self._signals.stop or signal.SIGTERM
        self.stopped = self.stopped or agreed[STOP] > 0 or agreed[END] > 0
        if self._is_chief and agreed[SAVE] > self._agreed_saves:
            self._signals.save = True
        self._agreed_saves = float(agreed[SAVE])
