"""One run at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.errors import TrainerError
from trainer.rundir import RunDir


@contextmanager
def hold_lock(rundir: RunDir) -> Iterator[None]:
    """Locks a run directory; the system releases the lock with the process, so that none is ever stale.

    Raises:
      TrainerError: another process holds it; the message names it.
    """
    with rundir.lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise TrainerError(f"{rundir.path} is in use by {holder}; stop that run or use another --logdir") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
