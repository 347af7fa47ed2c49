"""A session from its start to its orderly end: variables, input threads, and whose error the user sees."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from trainer.errors import PeerLostError
from trainer.inputs.batch import Input
from trainer.running import lifecycle
from trainer.running.stages import Stage, build_stages
from trainer.tf1 import tf

STOP_GRACE_SECONDS = 5.0
INPUT_NICENESS = 10

# Sessions whose input threads do not end, or a task of whose cluster has gone: closing one may wait without end.
_abandoned: list[tf.Session] = []


class OpenSession(NamedTuple):
    session: tf.Session
    coord: tf.train.Coordinator  # its `request_stop` ends the input, and wakes a step that waits for it
    stages: list[Stage]
    wake: Sequence[tf.Operation] = ()  # makes a step fail that waits for other workers


@contextmanager
def open_session(
    source: Input,
    settings: tf.ConfigProto,
    restore: Callable[[tf.Session], None] | None,
    grace_seconds: float = STOP_GRACE_SECONDS,
    *,
    target: str = "",
    verify: Callable[[tf.Session], None] | None = None,
    hooks: Sequence[tf.train.SessionRunHook] = (),
    wake: Sequence[tf.Operation] = (),
) -> Iterator[OpenSession]:
    """Opens a session on the default graph with its variables set and its input threads running; ends them all.

    Where an input thread fails, its error is raised instead of the closed queue that the step then meets.

    Args:
      source: of the batches; `start` is called before the queue runners.
      settings: of the session.
      restore: sets all global variables; None: they are initialized.
      grace_seconds: for the end of the input threads, at most STOP_GRACE_SECONDS.
      target: of this process's server, in a cluster.
      verify: is called once the variables are set.
      hooks: are told that the session is there.
      wake: makes a step fail that waits for other workers.
    """
    initializers = [*_begin(hooks), tf.local_variables_initializer()]
    initializers += [] if restore else [tf.global_variables_initializer()]
    stages, session = build_stages(source.queues), tf.Session(target, config=settings)
    coord = tf.train.Coordinator(clean_stop_exception_types=())  # No error is a clean end: inputs go on for ever.
    threads: list[threading.Thread] = []
    try:
        session.run(initializers)
        for prepare in (restore, verify):
            if prepare is not None:
                prepare(session)
        tf.get_default_graph().finalize()
        with _input_running(source, session, coord, threads, min(grace_seconds, STOP_GRACE_SECONDS)):
            lifecycle.after_create_session(hooks, session, coord)
            yield OpenSession(session, coord, stages, wake)
    except (PeerLostError, tf.errors.UnavailableError):
        _abandoned.append(session)
        raise
    finally:
        _close(session, threads)


@contextmanager
def _input_running(
    source: Input, session: tf.Session, coord: tf.train.Coordinator, threads: list[threading.Thread], seconds: float
) -> Iterator[None]:
    """Starts the input threads, of which `threads` then holds all, and ends them with the block."""
    try:
        with coord.stop_on_exception():
            if source.start:
                threads += source.start(session, coord)
            threads += tf.train.start_queue_runners(session, coord)
            _yield_to_training(threads)
            yield
    finally:
        _end_threads(coord, threads, seconds)


def _begin(hooks: Sequence[tf.train.SessionRunHook]) -> list[tf.Operation]:
    """Lets the hooks add to the graph; returns what initializes variables of theirs, which are in no checkpoint."""
    before = {variable.op.name for variable in tf.global_variables()}
    lifecycle.begin(hooks)
    return [variable.initializer for variable in tf.global_variables() if variable.op.name not in before]


def _close(session: tf.Session, threads: Iterable[threading.Thread]) -> None:
    if any(thread.is_alive() for thread in threads):
        _abandoned.append(session)
    if session not in _abandoned:
        session.close()


def _end_threads(coord: tf.train.Coordinator, threads: list[threading.Thread], seconds: float) -> None:
    """Ends the input threads; raises the first error that any of them, or who used the session, has reported."""
    coord.request_stop()
    # Not left to the coordinator, which looks once in a second.
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    coord.join(threads, stop_grace_period_secs=0, ignore_live_threads=True)


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
