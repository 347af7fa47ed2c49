"""A session from its start to its orderly end: variables, input threads, and whose error the user sees."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from trainer.errors import SIGINT
from trainer.inputs.batch import Input
from trainer.tf1 import tf

STOP_GRACE_SECONDS = 10.0
INPUT_NICENESS = 5


@contextmanager
def open_session(
    source: Input, settings: tf.ConfigProto, restore: Callable[[tf.Session], None] | None
) -> Iterator[tf.Session]:
    """Opens a session on the default graph with its variables set and its input threads running; ends them all.

    Where an input thread fails, its error is raised instead of the closed queue that the step then meets.

    Args:
      source: of the batches; `start` is called before the queue runners.
      settings: of the session.
      restore: sets all global variables; None: they are initialized.
    """
    graph = tf.get_default_graph()
    initializers = [tf.local_variables_initializer()]
    if restore is None:
        initializers.append(tf.global_variables_initializer())
    with tf.Session(config=settings) as session:
        session.run(initializers)
        if restore is not None:
            restore(session)
        graph.finalize()
        # No kind of error counts as a clean end: inputs go on for ever.
        coord = tf.train.Coordinator(clean_stop_exception_types=())
        threads: list[threading.Thread] = []
        try:
            with coord.stop_on_exception():
                if source.start:
                    source.start(session, coord)
                threads = tf.train.start_queue_runners(session, coord)
                _yield_to_training(threads)
                yield session
        finally:
            coord.request_stop()
            # Raises the first error that any thread, or the block above, has reported.
            coord.join(threads, stop_grace_period_secs=STOP_GRACE_SECONDS, ignore_live_threads=True)


def _yield_to_training(threads: Iterable[threading.Thread]) -> None:
    """Lowers the priority of input threads, so that they fill the gaps of the step instead of stopping its operations.

    Linux schedules threads one by one; elsewhere the priorities stay as they are.
    """
    if sys.platform != "linux":
        return
    for thread in threads:
        if thread.native_id:
            with contextlib.suppress(ProcessLookupError):  # It has ended already, with an error that is reported.
                os.setpriority(os.PRIO_PROCESS, thread.native_id, INPUT_NICENESS)


class Signals:
    """Remembers what the user asked for by signals, until the step in hand has ended.

    SIGINT and SIGTERM ask to save and stop, SIGUSR1 to save and go on.
    """

    def __init__(self) -> None:
        self.stop = 0  # the first signal that asked to stop
        self.save = False

    def should_stop(self) -> bool:
        return self.stop != 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles the signals inside the block; a second SIGINT ends the process at once, with exit code 130."""
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        handlers = {number: signal.signal(number, self._remember) for number in numbers}
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_exit_on_second_sigint, args=(receiver,), daemon=True, name="signals").start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            sender.close()  # Ends the thread.

    def _remember(self, number: int, _: object) -> None:
        if number == signal.SIGUSR1:
            self.save = True
        else:
            self.stop = self.stop or number


def _exit_on_second_sigint(receiver: socket.socket) -> None:
    """Reads the signals as they arrive; Python's own handlers wait for the end of the step."""
    count = 0
    with receiver:
        while numbers := receiver.recv(16):
            count += numbers.count(signal.SIGINT)
            if count > 1:
                os._exit(SIGINT)
