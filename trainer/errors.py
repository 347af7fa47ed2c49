"""What can end a run, and the exit code that it ends with."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

OK, ERROR, USAGE, NOT_FINITE, SIGINT, SIGTERM = 0, 1, 2, 3, 130, 143
FIRST_RETRYABLE = 128  # Kubeflow's operator starts a task again that ended with so much or more, and no other.
PEER_LOST = 200


class TrainerError(Exception):
    """Ends a program with one line on standard error and no traceback."""

    exit_code = ERROR


class UsageError(TrainerError):
    """Something that the user asked for cannot be done as asked."""

    exit_code = USAGE


class NotFiniteError(TrainerError):
    """A loss, a gradient or a weight became NaN or infinite."""

    exit_code = NOT_FINITE


class PeerLostError(TrainerError):
    """Another task of the cluster has gone in the middle of the training."""

    exit_code = PEER_LOST


class Stopped(BaseException):
    """Ends what a signal has asked to end; like KeyboardInterrupt it is no Exception, which others may catch."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def unknown_name(what: str, got: str, known: Iterable[str]) -> UsageError:
    """Makes the error for a name that is not in a registry: all choices, and the nearest one."""
    names = sorted(known)
    nearest = difflib.get_close_matches(got, names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return UsageError(f"{what}={got} is unknown: choose one of {', '.join(names)}{hint}")


def reason(error: BaseException) -> str:
    """Picks the line of an error's text that holds the cause: TensorFlow's begin with where they happened."""
    headers = ("Graph execution error", "Detected at node", "Node:", " ", "\t")
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(headers)]
    return lines[0].strip() if lines else type(error).__name__
