"""`metrics.jsonl`: one JSON object a line, for programs."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.reporting.failures import Failures
from trainer.rundir import replace_text

WHAT = "metrics.jsonl"


class MetricsFile:
    """Appends lines; lines of steps that an earlier run took after its last checkpoint are dropped at the start.

    `kept` are the values of the lines that stay.
    """

    def __init__(self, path: Path, first_step: int, failures: Failures) -> None:
        self.kept: list[dict[str, Any]] = []
        self._failures = failures
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            self.kept = [values for values in map(_parse, lines) if values and values["step"] <= first_step]
            replace_text(path, "".join(f"{json.dumps(values)}\n" for values in self.kept))
        self._path = path
        self._file = path.open("a+", encoding="utf-8", buffering=1)

    def write(self, **values: float | int | str) -> None:
        with self._failures.tolerated(WHAT):
            if not self._path.exists():
                self._reopen()
            # What does not fit on the disk stays in the buffer, and is written with the next line.
            self._file.write(json.dumps(values, allow_nan=False) + "\n")

    def _reopen(self) -> None:
        """Writes all lines once more, where the directory has gone; the system keeps a file that is open."""
        self._file.seek(0)
        text = self._file.read()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._path, text)
        self._file.close()
        self._file = self._path.open("a+", encoding="utf-8", buffering=1)

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._failures.tolerated(WHAT):
            self._file.close()


def _parse(line: str) -> dict[str, Any] | None:
    """Reads a line; None for one that a crash cut off."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    is_row = isinstance(values, dict) and isinstance(values.get("step"), int)
    of_evaluations = [value for name, value in values.items() if name.startswith("validation_")] if is_row else []
    return values if is_row and all(isinstance(value, float | int) for value in of_evaluations) else None
