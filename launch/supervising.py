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
CHIEF = "worker 0"
LATE_SECONDS = 5.0  # from the end of the chief's work to that of a worker that started again, and may not know of it
# Exit codes of a trainer: the request cannot be met; it became NaN; another task was lost.
USAGE, NOT_FINITE, PEER_LOST = 2, 3, 200
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = tuple(code for number in STOP_SIGNALS for code in (-number, 128 + number))


class Ended(NamedTuple):
    """How a task ended."""

    task: Task
    code: int  # as `subprocess` gives it: negative for a signal
    last_lines: Sequence[str]  # grows while the rest of the output is read
    forced: bool  # its end says nothing: the launcher killed it, or all that it worked for was done
    seconds: float = 0.0  # from its start to its end

    @property
    def exit_code(self) -> int:
        """Returns the exit code as a shell gives it."""
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def how(self) -> str:
        """Returns the end of a sentence that begins with the task's name."""
        return f"was killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with code {self.code}"


class Process:
    """A task that has been started."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        self.at_end = False  # of its output
        self._forced = False
        self._begin = time.monotonic()
        self._popen = subprocess.Popen(
            task.command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **task.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # A Ctrl-C of the terminal comes once, through the launcher.
            preexec_fn=_make_before_exec(os.getpid(), task.cpus),
        )
        assert self._popen.stdout
        self.stdout: IO[bytes] = self._popen.stdout
        self.pid = self._popen.pid
        os.set_blocking(self.stdout.fileno(), False)

    def read(self) -> list[str]:
        """Reads the lines that have come; at the end of the output also one without an end."""
        data = self.stdout.read()
        if data is None:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.at_end = not data
        if not data and self._rest:
            lines, self._rest = [self._rest], b""
        texts = [line.decode(errors="replace").rstrip("\r") for line in lines]
        self.lines.extend(texts)
        return texts

    def ended(self) -> Ended | None:
        """Returns how the task ended, None where it has not."""
        code = self._popen.poll()
        if code is None:
            return None
        return Ended(self.task, code, self.lines, self._forced, time.monotonic() - self._begin)

    def send(self, number: int) -> None:
        """Sends a signal to the task and all that it has started."""
        if self._popen.poll() is None:
            self._forced = number == signal.SIGKILL
            os.killpg(self._popen.pid, number)


def _make_before_exec(launcher: int, cpus: Sequence[int]) -> Callable[[], None]:
    """Makes what binds a process to its cores, and its life to the launcher's."""

    def before_exec() -> None:
        if sys.platform == "linux":
            if cpus:
                os.sched_setaffinity(0, cpus)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # It died before the line above.
                os.kill(os.getpid(), signal.SIGKILL)

    return before_exec


class Stop:
    """Remembers the signals that ask the launcher to stop."""

    def __init__(self) -> None:
        self.number = 0  # the first of them
        self.count = 0  # with the second, the tasks are killed

    def install(self) -> None:
        """Handles the signals from now on; one that `nohup` has made the launcher ignore stays ignored."""
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        self.number = self.number or number
        # The system, the shell and the session's manager each send a SIGHUP when a terminal is closed.
        self.count += number != signal.SIGHUP


def run_once(
    tasks: Sequence[Task],
    output: Output,
    stop: Stop,
    grace_seconds: float,
    alone: Callable[[Ended], float | None] = lambda ended: None,
    is_over: Callable[[], bool] = lambda: False,
    look: Callable[[], None] = lambda: None,
) -> list[Ended]:
    """Runs all tasks until the last has ended; returns how each ended, in that order.

    The first that fails, or a signal, ends the others: by SIGTERM, and `grace_seconds` later by SIGKILL. A task that
    `alone` gives some seconds starts again after them instead, while the others go on. `is_over` too ends all. `look`
    is called again and again, and after the last end.
    """
    job = _Running(tasks, output)
    deadline: float | None = None  # after which all are killed
    while job.processes or job.waiting:
        job.print_lines()
        look()
        job.collect(alone if deadline is None and not stop.number else lambda ended: None)
        failed = any(each.code and not each.forced for each in job.ended)
        ends = failed or stop.number or (job.chief_done is None and is_over())
        if ends:
            job.waiting.clear()
        if job.processes and deadline is None and ends:
            deadline = time.monotonic() + grace_seconds
            job.stop()
        if deadline is not None and (time.monotonic() > deadline or stop.count > 1):
            job.send(signal.SIGKILL)
        job.start_again()
        job.end_late(grace_seconds)
    for _ in range(2):  # What is left, and a last line without an end.
        job.print_lines()
    look()
    return job.ended


class _Running:
    """The processes that are there, and those that are to start again."""

    def __init__(self, tasks: Sequence[Task], output: Output) -> None:
        self._output = output
        self.ended: list[Ended] = []
        self.waiting: list[tuple[float, Task]] = []  # when, and what
        self.processes: list[Process] = []
        self._late: list[Process] = []  # those that started again
        self.chief_done: float | None = None
        self._selector = selectors.DefaultSelector()
        self._start(tasks)

    def _start(self, tasks: Sequence[Task]) -> None:
        started = [Process(task) for task in tasks]
        for process in started:
            self._selector.register(process.stdout, selectors.EVENT_READ, process)
        self.processes += started
        self._output.say(", ".join(f"{process.task.name} is process {process.pid}" for process in started))

    def start_again(self) -> None:
        """Starts what is due; nothing that would find the work done."""
        now = time.monotonic()
        if self.chief_done is not None:
            self.waiting = [(when, task) for when, task in self.waiting if task.job == "evaluator"]
        for when, task in list(self.waiting):
            if now >= when:
                self.waiting.remove((when, task))
                self._start([task])
                self._late.append(self.processes[-1])

    def end_late(self, grace_seconds: float) -> None:
        """Kills what goes on long after the chief has done its work; an evaluator has work of its own."""
        if self.chief_done is None:
            return
        waited = time.monotonic() - self.chief_done
        for process in self.processes:
            limit = LATE_SECONDS if process in self._late else grace_seconds
            if process.task.job != "evaluator" and waited > limit:
                process.send(signal.SIGKILL)

    def collect(self, alone: Callable[[Ended], float | None]) -> None:
        """Takes note of what has ended."""
        for process in list(self.processes):
            found = process.ended()
            if not found:
                continue
            self.processes.remove(process)
            wait = alone(found)
            if wait is not None:
                self.waiting.append((time.monotonic() + wait, found.task))
                continue
            if self.chief_done is not None and found.code == PEER_LOST:
                found = found._replace(forced=True)  # It lost who had done all the work.
            self.ended.append(found)
            if found.task.name == CHIEF and not found.code:
                self.chief_done = time.monotonic()

    def stop(self) -> None:
        """Asks all to save and end."""
        self.send(signal.SIGTERM)

    def send(self, number: int) -> None:
        """Sends a signal to all."""
        for process in self.processes:
            process.send(number)

    def print_lines(self) -> None:
        """Prints what has been written, or waits a moment for more."""
        if not self._selector.get_map():
            time.sleep(POLL_SECONDS)
        for key, _ in self._selector.select(POLL_SECONDS):
            process: Process = key.data
            for line in process.read():
                self._output.line(process.task.name, line)
            if process.at_end:
                self._selector.unregister(process.stdout)


def find_root_cause(ended: Sequence[Ended]) -> Ended | None:
    """Finds the task that ended the others: the first to fail by itself, not for the loss of another."""
    failed = [each for each in ended if each.code and not each.forced]
    own = [each for each in failed if each.code != PEER_LOST and each.code not in STOPPED]
    return next(iter(own or failed), None)
