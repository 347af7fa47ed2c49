"""What a job prints: the lines of all tasks, each with its task, and one progress bar on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from launch.status import Event

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")


class PatientFile:
    """Writes to a file until it cannot be written: the terminal was closed, or nobody reads any more; then in silence.

    rich would end the process, and with it the job's tasks before they could save.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        """Writes a text."""
        self._try(lambda: self._file.write(text))

    def flush(self) -> None:
        """Writes what is still in memory."""
        self._try(self._file.flush)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._file.fileno())
            os.close(devnull)
            with contextlib.suppress(OSError):  # It may be the same terminal.
                print(f"the launcher's output cannot be written any more: {error.strerror}", file=sys.stderr)


class Output:
    """Prints; a context manager, because of the bar."""

    def __init__(self, names: Sequence[str]) -> None:
        self._console = Console(file=cast(IO[str], PatientFile(sys.stdout)), highlight=False, markup=False)
        self._styles = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._bar: TaskID | None = None
        self.begun = False  # whether the run directory has been the chief's own in any start
        self.step = 0  # the last that the chief has named in this start
        self._first_step = 0  # from which it goes on

    def __enter__(self) -> Output:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def has_progress(self) -> bool:
        """Returns whether this start has made a step."""
        return self.step > self._first_step

    def line(self, name: str, line: str) -> None:
        """Prints a line of a task."""
        text = Text.assemble((f"[{name}]", self._styles[name]), " ", Text.from_ansi(line))
        self._console.print(text, soft_wrap=True)

    def say(self, line: str) -> None:
        """Prints a line of the launcher itself."""
        self._console.print(Text(f"[launch] {line}"), soft_wrap=True)

    def forget_steps(self) -> None:
        """Forgets the steps of the start before."""
        self.step = self._first_step = 0

    def follow(self, event: Event) -> None:
        """Takes note of what the chief has told, and moves the bar."""
        if event.name == "begun":
            self.begun = True
            self._first_step = event.step
        if event.name in ("begun", "step"):
            self.step = event.step
            if self._bar is None:
                self._bar = self._progress.add_task("training", total=event.last_step)
            self._progress.update(self._bar, completed=self.step)
