"""How far the chief is: the JSON lines that it appends to the file that TRAINER_STATUS_FILE names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

VARIABLE = "TRAINER_STATUS_FILE"


class Event(NamedTuple):
    """What a chief has told."""

    name: str  # "begun": its run directory is its own from now on; "step": it has reported a step
    step: int
    last_step: int


class StatusFile:
    """Reads the events of one start of the chief as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0  # in the file: the first byte that has not been read
        self._rest = b""  # the beginning of a line whose end has not been written yet

    def read(self) -> list[Event]:
        """Returns the events since the last call, none where there is no file yet."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                data = file.read()
        except OSError:
            return []
        self._place += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [event for line in lines if (event := _parse(line))]


def _parse(line: bytes) -> Event | None:
    """Parses a line; returns None for one that another version of the trainer may have written."""
    try:
        values = json.loads(line)
        return Event(str(values["event"]), int(values["step"]), int(values["last_step"]))
    except (ValueError, TypeError, KeyError):
        return None
