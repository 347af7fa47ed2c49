"""What the user asks for by signals: SIGINT, SIGTERM and SIGHUP to save and stop, SIGUSR1 to save and go on."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.errors import SIGINT, Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ALL_SIGNALS = (*STOP_SIGNALS, signal.SIGUSR1)
GRACE_SECONDS = 25.0
_installed: list[Signals] = []  # of this process, one at most


class Signals:
    """Ends a program by `Stopped` where nothing is lost by that, and remembers the wish where something is.

    A thread of its own sees the signals as they arrive, because Python's handlers wait for the end of what the main
    thread does in TensorFlow: it ends the process after `grace_seconds`, and at once at a Ctrl-C that follows.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self.grace_seconds = grace_seconds
        self.stop = 0  # the first signal that asked to stop
        self.save = False
        self.saved_step: int | None = None  # where all that was trained is saved
        self._installed = False
        self._deferred = False
        self._handled = False

    def should_stop(self) -> bool:
        return self.stop != 0

    def check(self) -> None:
        """Raises `Stopped` where a signal asked to stop."""
        if self.stop:
            raise Stopped(self.stop)

    def defer(self) -> None:
        """Only remembers the signals from now on: the caller has to ask for them."""
        self._deferred = True

    def shield(self) -> None:
        """Keeps the signals away from this thread, and from those that it starts from now on.

        The thread that watches gets them. A handler that runs in the middle of oneDNN's matrix product for AVX-512
        corrupts memory, even one that does nothing (TensorFlow 2.21, measured).
        """
        if self._installed:
            signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raises `Stopped` at a signal inside the block all the same, and for one that is remembered.

        The signal interrupts a system call that does not return. Nothing may be computed in the block.
        """
        self.check()
        self._deferred = False
        if self._installed:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL_SIGNALS)
        try:
            yield
        finally:
            self._deferred = True
            self.shield()

    def install(self) -> None:
        """Handles the signals from now on, to the very end of the process; in the main thread only."""
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        for number in ALL_SIGNALS:
            # Under nohup the closed terminal is nothing to stop for.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
        self._installed = True
        _installed[:] = [self]
        threading.Thread(target=self._watch, args=(receiver,), daemon=True, name="signals").start()

    def _handle(self, number: int, _: object) -> None:
        if number == signal.SIGUSR1:
            self.save = True
            return
        self.stop = self.stop or number
        first, self._handled = not self._handled, True
        if first and not self._deferred:  # Not again in what cleans up after the first.
            raise Stopped(number)

    def _watch(self, receiver: socket.socket) -> None:
        deadline: float | None = None
        with receiver:
            while True:
                wait = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not select.select([receiver], [], [], wait)[0]:
                    self._give_up()
                for number in receiver.recv(64):
                    if number == signal.SIGINT and self.stop and deadline is not None:
                        os._exit(SIGINT)
                    if number in STOP_SIGNALS and deadline is None:
                        self.stop = self.stop or number
                        deadline = time.monotonic() + self.grace_seconds

    def _give_up(self) -> None:
        """Ends the process: what was under way hangs."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        where = "".join(traceback.format_stack(frame)[-3:])
        lost = "the steps since the last checkpoint are lost"
        if self.saved_step is not None:
            lost = f"all steps up to {self.saved_step} are saved"
        message = (
            f"error: stopped by {signal.Signals(self.stop).name}, but what was under way did not end within "
            f"--grace_seconds={self.grace_seconds:g}: {lost}. It was here:\n{where}"
        )
        os.write(2, message.encode())
        os._exit(128 + self.stop)


def check_installed() -> None:
    """Raises `Stopped` where a signal asked this program to stop, for what is called from far below it."""
    for signals in _installed:
        signals.check()
