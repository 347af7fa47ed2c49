"""How a setting is declared: its default, help, legal values, and who may have another value of it.

All that is known of a setting stands in the metadata of its field: flags, `--help`, checks, the comparison of a run
with the one before it and of a worker with the chief read it from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.errors import UsageError, unknown_name
from trainer.grammars import parse_period

# Who may have another value of a setting:
TASK = "task"  # each task of a cluster, and each start of a run: of its place, of its speed, or read by the chief alone
JOB = "job"  # each start of a run, but not one worker of a cluster
IDENTITY = "identity"  # only another log directory
# How a setting may name functions of the user's:
REFERENCE = "reference"  # it is a name that is known, or `file.py:function`
WITHIN = "within"  # somewhere in it
OWN = "file.py:function"  # in `Use`: any function of the user's


class Legal(NamedTuple):
    """Which values are legal."""

    holds: Callable[[Any], bool]
    text: str  # for a message: `0 <= value < 1`


class Use(NamedTuple):
    """Which values of another setting a setting is for."""

    name: str
    values: tuple[str, ...]


def between(low: float, high: float) -> Legal:
    """Makes the range of numbers from `low` to `high`, both included."""
    return Legal(lambda value: low <= value <= high, f"{low:,} to {_number(high)}")


def above(low: float, high: float) -> Legal:
    """Makes the range of numbers above `low`, up to `high`."""
    return Legal(lambda value: low < value <= high, f"above {low:,}, to {_number(high)}")


FRACTION = Legal(lambda value: 0 <= value < 1, "0 <= value < 1")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def option(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    *,
    scope: str = JOB,
    legal: Legal | None = None,
    period: bool = False,
    path: bool = False,
    repeated: bool = False,
    code: str = "",
    used_by: Use | None = None,
    once: bool = False,
) -> Any:
    """Declares a field of a dataclass of settings.

    Args:
      default: of the field; its type is that of the flag.
      text: of `--help`.
      choices: all legal words.
      scope: TASK, JOB or IDENTITY.
      legal: of numbers and lists of numbers.
      period: is it written as `100`, `2epochs` or `60s`.
      path: is it a path of this machine, where `~` is the home directory.
      repeated: may the flag be given several times; its default is the empty tuple.
      code: may it name functions of the user's: REFERENCE, or WITHIN a text of other things too.
      used_by: where no other value of that setting reads it.
      once: is it of one start alone, and kept by no run.
    """
    metadata: dict[str, Any] = {
        "help": text,
        "choices": choices,
        "scope": scope,
        "legal": legal,
        "period": period,
        "path": path,
        "repeated": repeated,
        "code": code,
        "used_by": used_by,
        "once": once,
    }
    return dataclasses.field(default=default, metadata=metadata)


def is_reference(text: str) -> bool:
    """Does a text name a function of the user's, not a built-in one?"""
    return ":" in text or text.endswith(".py")


def flag_text(value: Any) -> str:
    """Writes a value as it stands behind `--name=`."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_fields(settings: Any) -> None:
    """Checks each field of a dataclass of settings by its metadata.

    Raises:
      UsageError: a value is illegal, or given where nothing reads it.
    """
    for field in dataclasses.fields(settings):
        value, metadata = getattr(settings, field.name), field.metadata
        is_own = metadata["code"] == REFERENCE and is_reference(value)
        if metadata["choices"] and value not in metadata["choices"] and not is_own:
            raise unknown_name(field.name, value, metadata["choices"])
        legal: Legal | None = metadata["legal"]
        if legal and not legal.holds(value):
            raise UsageError(f"{field.name}={flag_text(value)} is out of range: {legal.text}")
        if metadata["period"]:
            parse_period(field.name, value)
        _check_use(settings, field, value)


def _check_use(settings: Any, field: dataclasses.Field[Any], value: Any) -> None:
    use: Use | None = field.metadata["used_by"]
    if use is None or value == field.default:
        return
    other = getattr(settings, use.name)
    if other in use.values or (OWN in use.values and is_reference(other)):
        return
    owners = " or ".join(f"--{use.name}={name}" for name in use.values)
    raise UsageError(
        f"--{field.name}={flag_text(value)} is of {owners}, and --{use.name}={getattr(settings, use.name)} does not "
        f"use it: leave it out, or undo it with --{field.name}={flag_text(field.default)}"
    )


def differences(old: Any, new: Any, scope: str) -> list[tuple[str, Any, Any]]:
    """Lists the fields of a scope in which two dataclasses of settings differ: name, old value, new value."""
    fields = [field for field in dataclasses.fields(new) if field.metadata["scope"] == scope]
    pairs = [(field.name, getattr(old, field.name), getattr(new, field.name)) for field in fields]
    return [(name, a, b) for name, a, b in pairs if a != b]
