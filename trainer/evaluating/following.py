"""The checkpoints of a training that goes on meanwhile, each given once, until the training is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from trainer.errors import TrainerError
from trainer.rundir import CHECKPOINT_PREFIX, RunDir
from trainer.saving.files import find_steps
from trainer.saving.lock import is_locked

ATTEMPTS = 3  # to read a checkpoint whose files do not change


class Candidate(NamedTuple):
    """A checkpoint as it was when it was found."""

    step: int
    path: str
    written: int  # nanoseconds since 1970, of its index


def index_time(path: str) -> int:
    """Tells when a checkpoint's index was written, nanoseconds since 1970; 0 where it has gone."""
    try:
        return Path(f"{path}.index").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


class Follower:
    """Gives checkpoints as they come."""

    def __init__(
        self,
        rundir: RunDir,
        *,
        is_known: Callable[[Candidate], bool],
        interval: float,
        timeout: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        """Begins to follow.

        Args:
          rundir: of the run, which may not exist yet.
          is_known: has a checkpoint been evaluated already.
          interval: seconds between two looks.
          timeout: seconds without a training at work and without a new checkpoint after which it gives up.
          clock: gives seconds.
          sleep: waits for seconds.
          say: is told what it waits for.
        """
        self._rundir = rundir
        self._is_known = is_known
        self._interval, self._timeout = interval, timeout
        self._clock, self._sleep, self._say = clock, sleep, say
        self._failures: dict[Candidate, int] = {}
        self.left_out = 0  # checkpoints that stay, and cannot be read

    def failed(self, candidate: Candidate, why: str) -> None:
        """Takes note that a checkpoint could not be read: it may be half written, or have been deleted."""
        count = self._failures[candidate] = self._failures.get(candidate, 0) + 1
        if count == ATTEMPTS:
            self.left_out += 1
            self._say(f"step {candidate.step} is left out: {why}")

    def checkpoints(self) -> Iterator[Candidate]:
        """Yields each checkpoint that is not known, oldest first; ends when the training is finished.

        Raises:
          TrainerError: nothing has happened for `timeout` seconds.
        """
        quiet_since, waiting = self._clock(), ""
        while True:
            finished = self._is_finished()  # Looked at before the checkpoints, of which none must be missed.
            fresh = self._fresh()
            yield from fresh
            if finished and not fresh:
                return
            reason = self._wait_reason()
            if fresh or not reason:
                quiet_since = self._clock()
            elif self._clock() - quiet_since > self._timeout:
                raise TrainerError(f"{reason} for {self._timeout:g} s; --timeout waits longer")
            elif reason != waiting:
                self._say(f"{reason}; waiting up to {self._timeout:g} s for it")
            waiting = reason
            if not finished:
                self._sleep(self._interval)

    def _fresh(self) -> list[Candidate]:
        found = []
        for step in find_steps(self._rundir.path):
            path = f"{self._rundir.path / CHECKPOINT_PREFIX}-{step}"
            candidate = Candidate(step, path, index_time(path))
            if not self._is_known(candidate) and self._failures.get(candidate, 0) < ATTEMPTS:
                found.append(candidate)
        return found

    def _is_finished(self) -> bool:
        """Has the training come to its end? One that begins again holds the lock."""
        if is_locked(self._rundir):
            return False
        try:
            return bool(json.loads(self._rundir.result.read_text())["status"] == "done")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _wait_reason(self) -> str:
        """Says why nothing may come; nothing where a training is at work."""
        if is_locked(self._rundir):
            return ""
        if not self._rundir.path.exists():
            return f"{self._rundir.path} has not been there"
        return f"no training has been at work in {self._rundir.path}"
