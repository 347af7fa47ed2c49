"""Writes that fail while a run goes on: a full disk, a lost directory, a mount that became read-only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer.errors import NotFiniteError, TrainerError, reason
from trainer.tf1 import tf


class Failures:
    """Counts failed writes by what they were of; the first of each kind is said at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.counts: dict[str, int] = {}

    @contextmanager
    def tolerated(self, what: str) -> Iterator[None]:
        """Lets the run go on where the block cannot write."""
        try:
            yield
        except NotFiniteError:
            raise
        except (OSError, tf.errors.OpError, TrainerError) as error:
            self.counts[what] = self.counts.get(what, 0) + 1
            if self.counts[what] == 1:
                self._say(f"{what} could not be written: {_cause(error)}; the run goes on")


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return reason(error)
