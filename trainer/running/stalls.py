"""A thread that watches over the training: a step that does not end is reported with the stage that keeps it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from trainer.errors import ERROR, TrainerError
from trainer.running import stages
from trainer.running.session import OpenSession

POLL_SECONDS = 0.2
WAKE_SECONDS = 0.5  # a step that waits for its input so long after a stop was asked for is woken
FATAL_SECONDS = 10.0  # for the end of a run whose stall is fatal
PACKAGE = Path(__file__).parents[1]


class StallError(TrainerError):
    """A step did not end, and `--stall_fatal` was given."""


class StallWatcher:
    """Watches from entering to leaving; `beat` tells it that something has been finished."""

    def __init__(
        self,
        opened: OpenSession,
        *,
        seconds: float,
        fatal: bool,
        say: Callable[[str], None],
        should_stop: Callable[[], bool],
        in_cluster: bool = False,
    ) -> None:
        """Takes what it watches.

        Args:
          opened: the session, with its input.
          seconds: without a beat after which it reports; 0: never.
          fatal: does a report of a step end the run.
          say: is told.
          should_stop: tells that a step which waits for its input is to be woken.
          in_cluster: may the step wait for other workers.
        """
        self._in_cluster = in_cluster
        self._opened = opened
        self._seconds = seconds
        self._fatal = fatal
        self._say = say
        self._should_stop = should_stop
        self._beats = 0
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="stalls")

    def beat(self) -> None:
        """Is called after each step, and after each batch of an evaluation."""
        self._beats += 1

    def __enter__(self) -> StallWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, since, reported, woken = self._beats, time.monotonic(), False, False
        text = ""  # of a stall that is fatal
        while not self._leave.wait(POLL_SECONDS):
            waited = time.monotonic() - since
            if self._beats != seen:
                if reported:
                    self._say(f"it goes on, after {waited:.1f} s")
                seen, since, reported, text = self._beats, time.monotonic(), False, ""
            elif self._should_stop() and waited >= WAKE_SECONDS and not woken:
                woken = True
                self._wake(None)
            elif self._seconds and waited >= self._seconds and not reported:
                reported = True
                text = self._report()
            elif text and waited >= self._seconds + FATAL_SECONDS:
                lost = "it cannot be woken: the steps since the last checkpoint are lost"
                os.write(2, f"error: {text}\n{lost}\n".encode())
                os._exit(ERROR)

    def _report(self) -> str:
        """Says what stalls; returns it where it ends the run."""
        frames = sys._current_frames()
        main = frames[threading.main_thread().ident or 0]
        lines = [f"nothing has ended for --stall_seconds={self._seconds:g}: {place(main)}"]
        in_step = "loop.py" in place(main)
        if in_step:
            sizes = stages.read_sizes(self._opened.session, self._opened.stages)
            told = stages.describe_stages(self._opened.stages, sizes, threading.enumerate(), frames)
            if self._in_cluster:
                told[0] = told[0].replace("itself hangs", "hangs, or waits for another task: see their logs")
            lines = [f"the step has not ended for --stall_seconds={self._seconds:g}: {told[0]}", *told[1:]]
        lines += [*stages.other_python_stacks(frames), f"  the main thread: {stages.stack(main)}"]
        text = "\n".join(lines)
        if self._fatal and in_step:
            self._wake(StallError(text))
            return text
        self._say(text)
        return ""

    def _wake(self, error: StallError | None) -> None:
        """Ends the input: a step that waits for it fails, and the run ends with the error, if any."""
        self._opened.coord.request_stop((StallError, error, None) if error else None)
        stages.close_queues(self._opened.session, self._opened.stages, self._opened.wake)


def place(frame: FrameType | None) -> str:
    """Finds the innermost line of this package in a stack: `running/loop.py:33 run_steps`."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside the trainer"
