"""The small grammars of flags: periods, decays and clips. No TensorFlow."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from trainer.errors import UsageError, unknown_name

DECAYS = ("constant", "exponential", "piecewise", "cosine", "plateau")
CLIPS = ("none", "norm", "global_norm", "value", "clip_to_zero")
# Beyond these are mistakes, and numbers that float32 and the graph cannot hold.
MAX_COUNT, MAX_STEPS, MAX_RATE = 1_000_000, 10**12, 1e30
MAX_PIXELS = 89_478_485  # of a picture, as pillow's own limit
# Of a file in a run directory, whose names have up to so many bytes more, as .part or .data-00000-of-00001.
MAX_NAME_BYTES, MAX_PATH_BYTES = 200, 3_900
PERIOD_UNITS = {"": "steps", "steps": "steps", "epochs": "epochs", "epoch": "epochs"}
SECONDS = {"s": 1, "m": 60, "h": 3600}


class Period(NamedTuple):
    """How often something happens: `100` (steps), `2epochs`, `60s`, `5m` or `6h`; 0 is never."""

    amount: float
    unit: str  # "steps", "epochs" or "seconds"

    def to_steps(self, steps_per_epoch: float) -> int:
        """Counts the steps of a period of steps or epochs (at least one, or 0 for never)."""
        if self.unit == "seconds":
            raise ValueError("a period in seconds has no fixed number of steps")
        steps = self.amount * (steps_per_epoch if self.unit == "epochs" else 1)
        return max(1, round(steps)) if steps > 0 else 0


class Decay(NamedTuple):
    """A parsed `--decay`."""

    kind: str  # of DECAYS
    rate: float = 1.0
    every: Period = Period(1, "epochs")
    staircase: bool = False
    pieces: tuple[tuple[Period, float], ...] = ()  # (from here on, this rate)
    patience: int = 0  # evaluations, of a plateau


def parse_period(name: str, text: str) -> Period:
    """Reads `100`, `100steps`, `2epochs`, `60s`, `5m` or `6h`.

    Raises:
      UsageError: the text is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(steps|epochs|epoch|[smh]|)", text)
    if not match or (match[2] in ("", "steps") and "." in match[1]):
        raise UsageError(f"{name}={text!r} is no period: write 100 (steps), 2epochs, 60s, 6h or 0 (never)")
    if float(match[1]) > MAX_STEPS:
        raise UsageError(f"{name}={text!r} is out of range: at most {MAX_STEPS:,}")
    if match[2] in SECONDS:
        return Period(float(match[1]) * SECONDS[match[2]], "seconds")
    return Period(float(match[1]), PERIOD_UNITS[match[2]])


def parse_number(name: str, text: str) -> float:
    """Reads a positive number.

    Raises:
      UsageError: the text is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MAX_RATE:
        raise UsageError(f"{name}: {text!r} is no positive number up to {MAX_RATE:g}")
    return value


def parse_rename(name: str, text: str) -> tuple[str, str]:
    """Reads `old=>new`: a regular expression and its replacement, as `re.sub` takes them.

    Raises:
      UsageError: it is none.
    """
    old, arrow, new = text.partition("=>")
    check_pattern(name, old if arrow else "")
    return old, new


def local_path(name: str, text: str) -> str:
    """Reads a path of this machine: `~` becomes the home directory, which a shell does not do behind `--name=`.

    Raises:
      UsageError: it is an address, as gs://bucket/run, or longer than the file system allows.
    """
    if "\0" in text:
        raise UsageError(f"{name}={text!r} is no path: it holds a zero byte")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme:
        raise UsageError(
            f"{name}={text}: {scheme[1]}:// is no path of this machine, and only such are read and written; mount it "
            "(by gcsfuse, mountpoint-s3, rclone mount or an NFS gateway, say) and give the path of the mount"
        )
    path = os.path.expanduser(text)  # noqa: PTH111  (Path would drop a trailing slash and `./`)
    too_long = [part for part in path.split("/") if len(os.fsencode(part)) > MAX_NAME_BYTES]
    if too_long or len(os.fsencode(path)) > MAX_PATH_BYTES:
        what = f"the name {too_long[0][:40]}..." if too_long else "it"
        limit = MAX_NAME_BYTES if too_long else MAX_PATH_BYTES
        raise UsageError(f"{name}={text[:60]}...: {what} is too long for a file system: at most {limit:,} bytes")
    return path


def check_path(name: str, text: str) -> None:
    """Refuses a path of checkpoints that TensorFlow would take for a pattern.

    Raises:
      UsageError: it is one.
    """
    if re.search(r"[*?\[\]\\]", text):
        raise UsageError(f"{name}={text}: TensorFlow takes * ? [ ] and \\ in a path of checkpoints for a pattern")


def check_pattern(name: str, text: str) -> None:
    """Checks a regular expression.

    Raises:
      UsageError: it is none, or empty.
    """
    try:
        if text:
            re.compile(text)
            return
    except re.error as error:
        raise UsageError(f"{name}: {text!r} is no regular expression: {error}") from error
    raise UsageError(f"{name}: nothing to match; write a regular expression, and for a renaming old=>new")


def parse_clip(text: str) -> tuple[str, float]:
    """Reads `none`, or `norm`, `global_norm`, `value` or `clip_to_zero` with `:MAX`, into the kind and the maximum."""
    kind, _, maximum = text.partition(":")
    if kind not in CLIPS:
        raise unknown_name("clip", kind, CLIPS)
    if kind == "none":
        return kind, 0.0
    return kind, parse_number(f"clip={text}", maximum)


def parse_decay(text: str) -> Decay:
    """Reads `--decay`; its grammar stands in the flag's help."""
    kind, _, rest = text.partition(":")
    if kind not in DECAYS:
        raise unknown_name("decay", kind, DECAYS)
    name = f"decay={text}"
    if kind == "exponential":
        parts = rest.split(":")
        if len(parts) not in (2, 3) or parts[2:] not in ([], ["staircase"]):
            raise UsageError(f"{name}: write exponential:RATE:PERIOD[:staircase], as exponential:0.99:1epochs")
        every = parse_period(name, parts[1])
        if every.amount == 0 or every.unit == "seconds":
            raise UsageError(f"{name}: the period must be in steps or epochs, and not 0")
        return Decay(kind, parse_number(name, parts[0]), every, len(parts) == 3)
    if kind == "piecewise":
        return Decay(kind, pieces=_parse_pieces(name, rest))
    if kind == "plateau":
        return _parse_plateau(name, rest)
    if rest:
        raise UsageError(f"{name}: {kind} takes no arguments")
    return Decay(kind)


def _parse_plateau(name: str, text: str) -> Decay:
    rate, _, patience = text.partition(":")
    if not re.fullmatch(r"[1-9]\d{0,5}", patience or "1") or not 0 < parse_number(name, rate) < 1:
        raise UsageError(f"{name}: write plateau:RATE[:EVALUATIONS], as plateau:0.1:3, with a rate below 1")
    return Decay("plateau", float(rate), patience=int(patience or 1))


def _parse_pieces(name: str, text: str) -> tuple[tuple[Period, float], ...]:
    pieces = []
    for piece in text.split(","):
        start, _, rate = piece.partition("=")
        pieces.append((parse_period(name, start), parse_number(name, rate)))
    if any(start.unit == "seconds" or start.amount == 0 for start, _ in pieces):
        raise UsageError(f"{name}: the boundaries must be in steps or epochs, and not 0")
    if len({start.unit for start, _ in pieces}) > 1 or [s for s, _ in pieces] != sorted({s for s, _ in pieces}):
        raise UsageError(f"{name}: the boundaries must rise, all in one unit")
    return tuple(pieces)
