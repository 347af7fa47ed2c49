"""`metrics.jsonl`: one JSON object a line, for programs."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from trainer.rundir import replace_text


class MetricsFile:
    """Appends lines; lines of steps that an earlier run took after its last checkpoint are dropped at the start."""

    def __init__(self, path: Path, first_step: int) -> None:
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= first_step]
            replace_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, **values: float | int | str) -> None:
        self._file.write(json.dumps(values, allow_nan=False) + "\n")

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """Reads a line's step; infinite for a line that a crash cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
