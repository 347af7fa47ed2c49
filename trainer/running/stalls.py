"""A thread that watches over the training: a step that does not end is reported with the stage that keeps it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from trainer.errors import ERROR, TrainerError
from trainer.running import stages
from trainer.running.loop import LoopState
from trainer.running.session import OpenSession

POLL_SECONDS = 0.2
PAUSE_SECONDS = 3.0  # between two looks: this process was stopped itself, and nothing in it stalls
WAKE_SECONDS = 0.5  # a step that waits for its input so long after a stop was asked for is woken
FATAL_SECONDS = 10.0  # for the end of a run whose stall is fatal
PACKAGE = Path(__file__).parents[1]


class StallError(TrainerError):
    """A step did not end, and `--stall_fatal` was given."""


class StallWatcher:
    """Watches from entering to leaving."""

    def __init__(
        self,
        opened: OpenSession,
        *,
        seconds: float,
        fatal: bool,
        say: Callable[[str], None],
        should_stop: Callable[[], bool],
        state: LoopState,
        others: Callable[[], Sequence[str]] | None = None,
        after_pause: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Takes what it watches.

        Args:
          opened: the session, with its input.
          seconds: without a beat after which it reports; 0: never.
          fatal: does a report of a step end the run.
          say: is told.
          should_stop: tells that a step which waits for its input is to be woken.
          state: says whether something has been finished, and whether a step runs at this moment.
          others: says which other tasks of a cluster do not respond, a line each; None: there is no cluster.
          after_pause: is told for how many seconds the process was stopped.
        """
        self._state = state
        self._others = others
        self._after_pause = after_pause
        self._opened = opened
        self._seconds = seconds
        self._fatal = fatal
        self._say = say
        self._should_stop = should_stop
        self._trains = threading.get_ident()  # of the thread that runs the steps
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="stalls")

    def __enter__(self) -> StallWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, since, reported, woken = self._state.beats, time.monotonic(), False, False
        text = ""  # of a stall that is fatal
        looked = time.monotonic()
        while not self._leave.wait(POLL_SECONDS):
            now = time.monotonic()
            paused, looked = now - looked, now
            if paused >= PAUSE_SECONDS:
                since += paused
                self._say(
                    f"this process was stopped for {paused:.0f} s, as by SIGSTOP or with its machine; they do not count"
                )
                self._after_pause(paused)
            waited = now - since
            if self._state.beats != seen:
                if reported:
                    self._say(f"it goes on, after {waited:.1f} s")
                seen, since, reported, text = self._state.beats, now, False, ""
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
        main = frames[self._trains]
        lines = [f"nothing has ended for --stall_seconds={self._seconds:g}: {place(main)}"]
        in_step = self._state.in_step
        if in_step:
            sizes = stages.read_sizes(self._opened.session, self._opened.stages)
            in_cluster = self._others is not None
            told = stages.describe_stages(
                self._opened.stages, sizes, threading.enumerate(), frames, in_cluster=in_cluster
            )
            others = [f"  {line}" for line in self._others()] if self._others else []
            lines = [f"the step has not ended for --stall_seconds={self._seconds:g}: {told[0]}", *others, *told[1:]]
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
