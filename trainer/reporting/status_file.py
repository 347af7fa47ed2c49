"""How far a run is, for the program that started it: lines of JSON in the file that TRAINER_STATUS_FILE names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "TRAINER_STATUS_FILE"


class StatusFile:
    """Appends `{"event": "begun" or "step", "step": S, "last_step": L}`; does nothing where nobody asks for it."""

    def __init__(self, environment: Mapping[str, str], last_step: int) -> None:
        name = environment.get(VARIABLE, "")
        self._path = Path(name) if name else None
        self._last_step = last_step

    def write(self, event: str, step: int) -> None:
        """Appends a line: `begun` once the run directory is this run's, `step` after a step."""
        if self._path:
            # Who asked for it may have gone, and the run goes on.
            with contextlib.suppress(OSError), self._path.open("a", encoding="ascii") as file:
                file.write(json.dumps({"event": event, "step": step, "last_step": self._last_step}) + "\n")
