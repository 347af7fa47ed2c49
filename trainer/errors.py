"""What can end a run, and the exit code that it ends with."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable

OK, ERROR, USAGE, NOT_FINITE, SIGINT, SIGTERM = 0, 1, 2, 3, 130, 143
FIRST_RETRYABLE = 128  # Kubeflow's operator starts a task again that ended with so much or more, and no other.
PEER_LOST = 200
ROOT_ERRORS = re.compile(r"\d+ root error\(s\) found\.")


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


class TrainerWarning(UserWarning):
    """What a user should know, and nothing fails for; a program prints it as one line."""


class Stopped(BaseException):
    """Ends what a signal has asked to end; like KeyboardInterrupt it is no Exception, which others may catch."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def unknown_name(what: str, got: str, known: Iterable[str]) -> UsageError:
    """Makes the error for a name that is not in a registry: all choices, and the nearest one."""
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    nearest = [by_lower[match] for match in difflib.get_close_matches(got.lower(), by_lower, n=1)]
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return UsageError(f"{what}={got} is unknown: choose one of {', '.join(names)}{hint}")


def reason(error: BaseException) -> str:
    """Picks the line of an error's text that holds the cause: TensorFlow's begin with where they happened."""
    headers = ("Graph execution error", "Detected at node", "Node:", " ", "\t")
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Of several errors each is a line of its own: `  (0) INTERNAL: the cause`.
    numbered = [match[1] for line in lines if (match := re.fullmatch(r"\s*\(\d+\) (.+)", line))]
    plain = [line.strip() for line in lines if not line.startswith(headers) and not ROOT_ERRORS.fullmatch(line)]
    return next(iter(numbered or plain), type(error).__name__)
