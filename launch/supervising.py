"""The processes of a job on this machine, from their start to the end of the last one."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from launch.output import Output
from launch.plan import Task

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
POLL_SECONDS = 0.1
KEPT_LINES = 20
# Exit codes of a trainer: the request cannot be met; it became NaN; another task was lost.
USAGE, NOT_FINITE, PEER_LOST = 2, 3, 200
STOPPED = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


class Ended(NamedTuple):
    """How a task ended."""

    task: Task
    code: int  # as `subprocess` gives it: negative for a signal
    last_lines: list[str]
    forced: bool  # the launcher killed it, because it did not end when it was asked to

    @property
    def exit_code(self) -> int:
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def how(self) -> str:
        return f"was killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with code {self.code}"


class Process:
    """A task that has been started."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        self._forced = False
        self._popen = subprocess.Popen(
            task.command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **task.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # A Ctrl-C of the terminal comes once, through the launcher.
            preexec_fn=_die_with_launcher(os.getpid()),
        )
        assert self._popen.stdout
        self.stdout: IO[bytes] = self._popen.stdout
        os.set_blocking(self.stdout.fileno(), False)

    def read(self) -> list[str]:
        """Reads the lines that have come; at the end of the output also one without an end."""
        data = self.stdout.read()
        if data is None:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines, self._rest = [self._rest], b""
        texts = [line.decode(errors="replace").rstrip("\r") for line in lines]
        self.lines.extend(texts)
        return texts

    def ended(self) -> Ended | None:
        code = self._popen.poll()
        if code is None:
            return None
        return Ended(self.task, code, list(self.lines), self._forced)

    def send(self, number: int) -> None:
        """Sends a signal to the task and all that it has started."""
        if self._popen.poll() is None:
            self._forced = number == signal.SIGKILL
            os.killpg(self._popen.pid, number)


def _die_with_launcher(launcher: int) -> Callable[[], None]:
    def before_exec() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # It died before the line above.
                os.kill(os.getpid(), signal.SIGKILL)

    return before_exec


class Stop:
    """Remembers the signals that ask the launcher to stop."""

    def __init__(self) -> None:
        self.number = 0
        self.count = 0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        self.number = self.number or number
        self.count += 1


def run_once(tasks: Sequence[Task], output: Output, stop: Stop, grace_seconds: float) -> list[Ended]:
    """Runs all tasks until the last has ended; returns how each ended, in that order.

    The first that fails, or a signal, ends the others: by SIGTERM, and `grace_seconds` later by SIGKILL.
    """
    running = [Process(task) for task in tasks]
    ended: list[Ended] = []
    deadline: float | None = None  # after which all are killed
    with selectors.DefaultSelector() as selector:
        for process in running:
            selector.register(process.stdout, selectors.EVENT_READ, process)
        while running:
            _print_lines(selector, output)
            for process in list(running):
                if found := process.ended():
                    running.remove(process)
                    ended.append(found)
            failed = any(each.code and not each.forced for each in ended)
            if running and deadline is None and (failed or stop.number):
                deadline = time.monotonic() + grace_seconds
                _send(running, signal.SIGTERM)
            if deadline is not None and (time.monotonic() > deadline or stop.count > 1):
                _send(running, signal.SIGKILL)
        _print_lines(selector, output)
    return ended


def _print_lines(selector: selectors.BaseSelector, output: Output) -> None:
    if not selector.get_map():
        time.sleep(POLL_SECONDS)
    for key, _ in selector.select(POLL_SECONDS):
        process: Process = key.data
        lines = process.read()
        for line in lines:
            output.line(process.task.name, line)
        if not lines and process.ended():
            selector.unregister(process.stdout)


def _send(running: Sequence[Process], number: int) -> None:
    for process in running:
        process.send(number)


def find_root_cause(ended: Sequence[Ended]) -> Ended | None:
    """Finds the task that ended the others: the first to fail by itself, not for the loss of another."""
    failed = [each for each in ended if each.code and not each.forced]
    own = [each for each in failed if each.code != PEER_LOST and each.code not in STOPPED]
    return next(iter(own or failed), None)
