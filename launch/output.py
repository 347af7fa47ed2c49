"""What a job prints: the lines of all tasks, each with its task, and one progress bar on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
BEGUN = re.compile(r"moved the earlier run to |to watch: tensorboard")
PROGRESS = re.compile(r"step (\d+)/(\d+)\b")


class Output:
    """Prints; a context manager, because of the bar."""

    def __init__(self, names: Sequence[str]) -> None:
        self._console = Console(highlight=False, markup=False)
        self._styles = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._bar: TaskID | None = None
        self.step = 0  # the last that the chief has named
        self.begun = False  # has the chief its run directory

    def __enter__(self) -> Output:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def line(self, name: str, line: str) -> None:
        """Prints a line of a task."""
        text = Text.assemble((f"[{name}]", self._styles[name]), " ", Text.from_ansi(line))
        self._console.print(text, soft_wrap=True)
        if name == "worker 0" and BEGUN.search(line):
            self.begun = True
        if name == "worker 0" and (found := PROGRESS.search(line)):
            self._move(int(found[1]), int(found[2]))

    def say(self, line: str) -> None:
        """Prints a line of the launcher itself."""
        self._console.print(Text(f"[launch] {line}"), soft_wrap=True)

    def _move(self, step: int, last: int) -> None:
        self.step = step
        if self._bar is None:
            self._bar = self._progress.add_task("training", total=last)
        self._progress.update(self._bar, completed=step, total=last)
