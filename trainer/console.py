"""What a user reads: lines, progress bars, and the one line that ends a failed program."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from trainer import notebook
from trainer.errors import ERROR, Stopped, TrainerError, TrainerWarning, reason
from trainer.signals import Signals

MAX_WIDTH = 1000  # of a table in a file
NAMES = "surrogateescape"  # of files may be no UTF-8, and are written as they are
_of_program: list[Console] = []  # one at most
OWNER_ONLY, WITH_GROUP = 0o077, 0o027  # umasks


class PatientConsole(RichConsole):
    """Goes on silently when nobody reads any more, as behind `| head` or a closed terminal: the log has every line."""

    def print(self, *objects: Any, **settings: Any) -> None:
        try:
            super().print(*objects, **settings)
        except OSError as error:
            if error.errno != errno.EIO:  # Of a terminal that has gone.
                raise
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


class Console:
    """Prints lines for a user, and keeps them in a log file once there is one."""

    def __init__(self) -> None:
        self.rich = PatientConsole(highlight=False, markup=False, emoji=False)
        self.umask: int | None = None  # the user's, where the program has one of its own
        self._log: TextIO | None = None
        self._log_failed = False

    @property
    def is_terminal(self) -> bool:
        return self.rich.is_terminal

    @property
    def shows_bar(self) -> bool:
        """Does a bar tell how far the work is? Where lines are wanted by nobody, it does not."""
        return not self.rich.quiet and (self.is_terminal or notebook.is_notebook())

    @contextmanager
    def user_umask(self) -> Iterator[None]:
        """Lets the user's umask decide who may read what the block writes, as data that others share."""
        if self.umask is None:
            yield
            return
        own = os.umask(self.umask)
        try:
            yield
        finally:
            os.umask(own)

    def open_log(self, path: Path) -> None:
        """Appends all further lines to `path` too."""
        self._log = path.open("a", encoding="utf-8", errors=NAMES, buffering=1)

    def close(self) -> None:
        if self._log:
            with contextlib.suppress(OSError):  # It was said when it was written.
                self._log.close()
            self._log = None

    def say(self, line: str) -> None:
        self.rich.print(line, soft_wrap=True)
        self.log_only(line)

    def table(self, table: Table) -> None:
        """Prints a table; where there is no terminal, as wide as it is."""
        if not self.is_terminal:
            options = self.rich.options.update(width=MAX_WIDTH)
            self.rich.width = Measurement.get(self.rich, options, table).maximum
        self.rich.print(table)

    def error(self, line: str) -> None:
        """Prints a line on standard error."""
        print(f"error: {line}", file=sys.stderr)
        self.log_only(f"error: {line}")

    def log_only(self, line: str) -> None:
        if self._log is None:
            return
        try:
            path = Path(self._log.name)
            if not path.exists():  # Its directory has gone, and may be there again.
                self._log = path.open("a", encoding="utf-8", errors=NAMES, buffering=1)
            self._log.write(line + "\n")
        except OSError as error:
            if not self._log_failed:
                self._log_failed = True
                print(f"{self._log.name} could not be written: {error.strerror}", file=sys.stderr)


class StepBar:
    """A progress bar of steps with a text that changes; it shows nothing where there is no terminal, or notebook."""

    def __init__(self, console: Console, total: int, start: int) -> None:
        shows = console.shows_bar and notebook.is_notebook()
        self._of_notebook = notebook.Bar(total, start) if shows else None
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
        (self._of_notebook or self._progress).start()

    def update(self, step: int, text: str) -> None:
        if self._of_notebook:
            self._of_notebook.update(step, text)
        else:
            self._progress.update(self._task, completed=step, description=text)

    def stop(self) -> None:
        (self._of_notebook or self._progress).stop()


@contextmanager
def progress(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal; yields a function that moves it on by so many."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.rich, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def run_program(
    main: Callable[[Sequence[str], Console, Signals], int],
    argv: Sequence[str] | None,
    *,
    at_stop: str = "",
    umask: int | None = None,
) -> int:
    """Runs a program's `main` and turns what ends it into one line and an exit code.

    Args:
      main: of the program.
      argv: its command line; None: that of the process.
      at_stop: what a signal that ends it has cost.
      umask: of the files that are written; None: the user's.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NAMES)
    console, signals = Console(), Signals()
    _of_program[:] = [console]
    if umask is not None:
        console.umask = os.umask(umask)
    warnings.showwarning = functools.partial(_show_warning, console, warnings.showwarning)
    threading.excepthook = functools.partial(_report_thread, console)
    sys.unraisablehook = functools.partial(_report_ignored, sys.unraisablehook)
    try:
        try:
            signals.install()
            return main(sys.argv if argv is None else argv, console, signals)
        finally:
            signals.defer()  # A signal changes nothing any more; one before this line is caught below.
    except (Stopped, Exception) as error:
        return _say_end(console, error, at_stop)
    finally:
        _of_program.clear()
        console.close()


def _say_end(console: Console, error: BaseException, at_stop: str) -> int:
    """Says in one line what has ended a program; returns the exit code. Raises a bug of ours again."""
    if isinstance(error, TrainerError) and not isinstance(error, Stopped):
        return _fail(console, str(error), error.exit_code)
    if behind := _stop_behind(error):
        return _say_stop(console, behind, at_stop)
    console.log_only(traceback.format_exc())
    if isinstance(error, OSError) and error.strerror:
        return _fail(console, describe_os_error(error), ERROR)
    if _is_tensorflow_error(error):
        return _fail(console, f"{reason(error)}{_own_operation(error)}", ERROR)
    raise error


def _show_warning(
    console: Console, show: Callable[..., None], message: Warning | str, category: type[Warning], *where: object
) -> None:
    if issubclass(category, TrainerWarning):
        console.say(f"warning: {message}")
    else:
        show(message, category, *where)


def _report_ignored(report: Callable[[Any], object], args: Any) -> None:
    """Reports an exception where none can be raised, but no stop: whoever asks `Signals` finds that."""
    if not isinstance(args.exc_value, Stopped):
        report(args)


def say_note(line: str) -> None:
    """Says a line for what is called from far below a program, and also where there is none: then on standard error."""
    if _of_program:
        _of_program[0].say(line)
    else:
        print(line, file=sys.stderr)


def describe_os_error(error: OSError) -> str:
    """Says what the system has refused, and what to do about it where that is known."""
    advice = {
        errno.EROFS: "; give a directory that can be written (--logdir, --data_dir, --output)",
        errno.EACCES: "; give a directory that can be written (--logdir, --data_dir, --output), or other permissions",
        errno.ENOSPC: "; make room, or give a directory elsewhere",
        errno.EDQUOT: "; make room, or give a directory elsewhere",
    }.get(error.errno or 0, "")
    return f"{error.filename or 'file system'}: {error.strerror}{advice}"


def _stop_behind(error: BaseException) -> Stopped | None:
    """Finds the stop that an extension module, interrupted while it loaded, has made another error of."""
    seen: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and behind not in seen:  # The chains of TensorFlow's errors may be circles.
        if isinstance(behind, Stopped):
            return behind
        seen.append(behind)
        behind = behind.__cause__ or behind.__context__
    return None


def exit_program(code: int) -> NoReturn:
    """Ends the process, also where a thread is still in a read that never returns."""
    with contextlib.suppress(OSError):  # Nobody reads any more.
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _is_tensorflow_error(error: BaseException) -> bool:
    """Is it one of `tf.errors`, as for a file that cannot be written? TensorFlow itself is not imported here."""
    return any(kind.__name__ == "OpError" for kind in type(error).__mro__)


def _own_operation(error: BaseException) -> str:
    """Names the operation that has failed, where TensorFlow does not have it: its text may be of one word."""
    op = getattr(error, "op", None)
    known = getattr(sys.modules.get("tensorflow"), "raw_ops", None)
    return "" if op is None or known is None or hasattr(known, op.type) else f" ({op.type}, at {op.name})"


def _say_stop(console: Console, stop: Stopped, at_stop: str) -> int:
    """Says that a signal has ended the program, which is no error; returns the exit code."""
    with contextlib.suppress(OSError):  # Of a terminal that has gone.
        print(f"{stop}{at_stop}", file=sys.stderr)
    console.log_only(f"{stop}{at_stop}")
    return stop.exit_code


def _fail(console: Console, message: str, code: int) -> int:
    console.error(message)
    return code


def _report_thread(console: Console, args: threading.ExceptHookArgs) -> None:
    """Reports a thread that failed in one line; the traceback goes to the log."""
    name = args.thread.name if args.thread else "a thread"
    _fail(console, f"{name}: {reason(args.exc_value) if args.exc_value else args.exc_type.__name__}", ERROR)
    console.log_only("".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)))


def bullet_list(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
