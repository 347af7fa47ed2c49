"""What a user reads: lines, progress bars, and the one line that ends a failed program."""

from __future__ import annotations

import errno
import functools
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trainer.errors import ERROR, SIGINT, TrainerError

# The errors of a file system that a user can mend.
FILE_ERRORS = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.EDQUOT,
}


class Console:
    """Prints lines for a user, and keeps them in a log file once there is one."""

    def __init__(self, stream: TextIO | None = None, terminal: bool | None = None) -> None:
        self.rich = RichConsole(file=stream or sys.stdout, force_terminal=terminal, highlight=False, markup=False)
        self._log: TextIO | None = None

    @property
    def is_terminal(self) -> bool:
        return self.rich.is_terminal

    def open_log(self, path: Path) -> None:
        """Appends all further lines to `path` too."""
        self._log = path.open("a", encoding="utf-8", buffering=1)

    def close(self) -> None:
        if self._log:
            self._log.close()
            self._log = None

    def say(self, line: str) -> None:
        self.rich.print(line, soft_wrap=True)
        self.log_only(line)

    def log_only(self, line: str) -> None:
        if self._log:
            self._log.write(line + "\n")


class StepBar:
    """A progress bar of steps with a text that changes; it shows nothing where there is no terminal."""

    def __init__(self, console: Console, total: int, start: int) -> None:
        self._progress = Progress(
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console.rich,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("starting", total=total, completed=start)

    def start(self) -> None:
        self._progress.start()

    def update(self, step: int, text: str) -> None:
        self._progress.update(self._task, completed=step, description=text)

    def stop(self) -> None:
        self._progress.stop()


@contextmanager
def progress(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal; yields a function that moves it on by so many."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.rich, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def run_program(main: Callable[[Sequence[str], Console], int], argv: Sequence[str] | None) -> int:
    """Runs a program's `main` and turns what ends it into one line and an exit code."""
    console = Console()
    threading.excepthook = functools.partial(_report_thread, console)
    try:
        return main(sys.argv if argv is None else argv, console)
    except TrainerError as error:
        return _fail(console, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(console, "stopped by Ctrl-C", SIGINT)
    except OSError as error:
        if error.errno not in FILE_ERRORS:
            raise
        return _fail(console, f"{error.filename or 'file system'}: {error.strerror}", ERROR)
    except Exception:
        # A bug of ours: the log of the run must hold it too.
        console.log_only(traceback.format_exc())
        raise
    finally:
        console.close()


def _fail(console: Console, message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    console.log_only(f"error: {message}")
    return code


def _report_thread(console: Console, args: threading.ExceptHookArgs) -> None:
    """Reports a thread that failed in one line; the traceback goes to the log."""
    name = args.thread.name if args.thread else "a thread"
    message = str(args.exc_value).strip() or args.exc_type.__name__
    _fail(console, f"{name}: {message.splitlines()[0]}", ERROR)
    console.log_only("".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)))


def bullet_list(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
