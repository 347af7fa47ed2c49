"""A stop and a save that one worker was asked for, agreed on by all of them after the same step."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from trainer.placing.strategies import SAVE, STOP, Wishes
from trainer.signals import Signals
from trainer.tf1 import tf

WAIT_SECONDS = 5.0  # for a step to end after a signal, before its input is taken from it


class AgreementHook(tf.train.SessionRunHook):
    """Runs with every step: tells this worker's wishes, and takes over what has been agreed on."""

    def __init__(
        self, wishes: Wishes, signals: Signals, *, is_chief: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wishes = wishes
        self._is_chief = is_chief
        self._signals = signals
        self._told = [0.0, 0.0]
        self._saves = 0  # asked of this worker
        self._agreed_saves = 0.0
        self._clock = clock
        self._asked = 0.0  # when a signal was seen first
        self.stopped = False

    def due(self, step: int) -> bool:
        return True

    def should_stop(self) -> bool:
        return self.stopped

    def should_wake(self) -> bool:
        """Is a step to be woken that waits for its input: the agreed last one, or one that never ends?"""
        if self._signals.stop and not self._asked:
            self._asked = self._clock()
        return self.stopped or (self._asked > 0 and self._clock() - self._asked > WAIT_SECONDS)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        if self._signals.save and not self._is_chief:  # It writes the checkpoints.
            self._signals.save = False
            self._saves += 1
        own = [float(self._signals.stop != 0), float(self._saves)]
        if own != self._told:
            run_context.session.run(self._wishes.tell, {self._wishes.own: own})
            self._told = own
        return tf.train.SessionRunArgs(self._wishes.agreed)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        agreed = run_values.results
        if agreed[STOP] > 0:
            self.stopped = True
            self._signals.stop = self._signals.stop or signal.SIGTERM
        if self._is_chief and agreed[SAVE] > self._agreed_saves:
            self._signals.save = True
        self._agreed_saves = float(agreed[SAVE])
