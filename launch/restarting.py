"""Which tasks of a job start again after one has failed, and when."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch.supervising import NOT_FINITE, PEER_LOST, STOPPED, USAGE, Ended

MAX_BACKOFF_SECONDS = 30.0
MAX_FAILURES = 3  # starts in a row that failed without progress between them, each by itself and not by a signal
BACK_SECONDS = 10.0  # after which a lost worker is taken back
PERMANENT = (USAGE, NOT_FINITE)
LONG_SECONDS = 60.0  # of the life of a task: its failure is not one of its start


class Restarts:
    """Counts the starts after the first one, all of them together."""

    def __init__(
        self, largest: int, say: Callable[[str], None], *, may_be_alone: bool, step: Callable[[], int] = lambda: 0
    ) -> None:
        """Makes the counter of a job.

        Args:
          largest: starts, at most.
          say: is told of each.
          may_be_alone: whether a worker that is not the chief can come back while the others go on; an evaluator
            always can.
          step: returns the last one that the chief has reported.
        """
        self.used = 0
        self._largest = largest
        self._say = say
        self._may_be_alone = may_be_alone
        self._step = step
        self._step_before = 0
        self._tries: dict[str, int] = {}  # starts in a row without progress, by what was started
        self._failures: dict[str, int] = {}  # those among them that failed by themselves

    def all(self, root: Ended, *, progress: bool) -> float | None:
        """Returns the seconds to the next start of all tasks, None where there is none.

        Args:
          root: the task that ended the others.
          progress: whether this start has made a step.
        """
        if progress or root.seconds > LONG_SECONDS:
            self._tries["all"] = self._failures["all"] = 0
        return self._decide("all tasks start again", "all", root, ", from the last checkpoint")

    def alone(self, ended: Ended) -> float | None:
        """Returns the seconds to the next start of one task, beside the others, None where there is none."""
        of_no_other = ended.task.job == "evaluator" or (
            self._may_be_alone and ended.task.job == "worker" and ended.task.index > 0
        )
        if not of_no_other or not ended.code:
            return None
        if ended.code in STOPPED or ended.code == PEER_LOST or ended.forced:
            return None
        name, step = ended.task.name, self._step()
        if step != self._step_before:  # It begins anew with all tasks.
            self._tries[name] = 0
        if ended.seconds > LONG_SECONDS:  # The others may go on without it.
            self._failures[name] = 0
        self._step_before = step
        return self._decide("it starts again", name, ended, "")

    def _decide(self, what: str, name: str, ended: Ended, place: str) -> float | None:
        self._tries[name] = self._tries.get(name, 0) + 1
        self._failures[name] = self._failures.get(name, 0) + (0 < ended.code != PEER_LOST)
        if self.used == self._largest or ended.code in PERMANENT or self._failures[name] == MAX_FAILURES:
            return None
        self.used += 1
        wait = min(MAX_BACKOFF_SECONDS, 2.0 ** (self._tries[name] - 1))
        self._say(
            f"{ended.task.name} {ended.how}: {what} in {wait:g} s{place} "
            f"(restart {self.used} of --max_restarts={self._largest})"
        )
        return wait


class Size:
    """How many workers a job has at the moment: fewer after a loss, where it is elastic, and later all of them again.

    With each number the tasks start again from what was saved when the worker was lost, and share the same batches.
    """

    def __init__(
        self, largest: int, say: Callable[[str], None], *, elastic: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = largest
        self._largest = largest
        self._say = say
        self._elastic = elastic
        self._clock = clock
        self._losses = 0
        self._whole_at = 0.0

    def lose(self, root: Ended) -> None:
        """Goes on without a worker that was lost; the chief is always needed."""
        if self._elastic and root.task.job == "worker" and root.task.index and self.now > 1:
            self.now -= 1
            self._whole_at = self._clock() + min(MAX_BACKOFF_SECONDS, BACK_SECONDS * 2.0**self._losses)
            self._losses += 1
            self._say(f"the job goes on with {self.now} of {self._largest} workers")

    def may_grow(self) -> bool:
        """Returns whether it is time to take back the workers that were lost."""
        return self.now < self._largest and self._clock() >= self._whole_at

    def change(self, root: Ended | None, *, progress: bool) -> bool:
        """Changes the number of workers where that is why a start ended; returns whether it was.

        Args:
          root: the task that ended the others; None: they had to be killed.
          progress: whether a step was made.
        """
        if root and self.now < self._largest and root.code == USAGE and not progress and self.now > 1:
            self.now -= 1
            self._say(f"{self.now + 1} workers cannot share a batch: the job goes on with {self.now}")
            return True
        if root is None or (self.may_grow() and root.code in (*STOPPED, PEER_LOST)):
            self.now = self._largest
            self._say(f"all {self.now} workers go on")
            return True
        return False
