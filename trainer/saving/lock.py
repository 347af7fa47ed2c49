"""One run at a time in a run directory."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from trainer.errors import TrainerError
from trainer.rundir import RunDir

ATTEMPTS, PAUSE_SECONDS = 4, 0.05
# Of a file system without locks, as some network and user-space ones.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def is_locked(rundir: RunDir) -> bool:
    """Is a run at work in the directory?"""
    try:
        with rundir.lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return False


def wait_for_next(
    rundir: RunDir, *, seconds: float, now: Callable[[], float], sleep: Callable[[float], None], interval: float
) -> None:
    """Waits until a training is at work where an earlier one has ended, so that its end is not taken for the next's.

    Args:
      rundir: of both; where no training has ended, nothing is waited for.
      seconds: to wait for, at most: an evaluator that starts again may have missed all of the training.
      now: gives seconds since 1970.
      sleep: waits for seconds.
      interval: seconds between two looks.
    """
    begin = now()
    while not is_locked(rundir) and now() - begin < seconds:
        try:
            if rundir.result.stat().st_mtime > begin:
                return
        except FileNotFoundError:
            return
        sleep(interval)


def _lock(file: TextIO) -> None:
    """Locks a file, also where `is_locked` looks at it at this very moment."""
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE_SECONDS)


class RunLock:
    """Locks a run directory inside its block; the system releases the lock with the process: none is ever stale."""

    def __init__(
        self, rundir: RunDir, path: Path | None = None, *, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """Names what is locked.

        Args:
          rundir: of the run.
          path: of the file that holds the lock; none: that of the training.
          say: is told where the file system has no locks.
        """
        self._say = say
        self._rundir = rundir
        self._path = path or rundir.lock
        self._file: TextIO | None = None

    def acquire(self) -> None:
        """Takes the lock, also once more after the directory has gone and was made again.

        Raises:
          TrainerError: another process holds it; the message names it.
        """
        file = self._path.open("a+", encoding="utf-8")
        try:
            _lock(file)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            path = self._rundir.path
            raise TrainerError(f"{path} is in use by {holder}; stop that run or use another --logdir") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._say(
                f"{self._path}: this file system has no locks ({error.strerror}): see to it that no second run writes "
                "into this directory"
            )
        self.release()
        self._file = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()

    def release(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()
