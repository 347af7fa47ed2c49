"""`best/` of a run directory: the checkpoint that an evaluation liked most, apart from the newest few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from trainer.errors import TrainerError
from trainer.learning.metrics import Goal
from trainer.rundir import RunDir, replace_text
from trainer.saving.files import FILE_PATTERN, link_checkpoint, name_newest, sync

FILE = "best.json"


class Best(NamedTuple):
    """What makes a checkpoint the best."""

    step: int
    split: str
    weights: str
    metric: str  # the name of the goal
    value: float  # of it
    loss: float


def load_best(rundir: RunDir) -> Best | None:
    """Reads which checkpoint is the best; None where none is kept.

    Raises:
      TrainerError: its file is damaged.
    """
    path = rundir.best / FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        found = Best(**values)
        names = (str(found.split), str(found.weights), str(found.metric))
        return Best(int(found.step), *names, float(found.value), float(found.loss))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OverflowError) as error:
        raise TrainerError(f"{path} is damaged ({error}); move {rundir.best} aside to begin anew") from error


def is_better(found: Best, best: Best | None, goal: Goal) -> bool:
    """Is its value better, or as good at a smaller loss? Never where the two cannot be compared."""
    if best is None:
        return True
    if not is_comparable(found, best):
        return False
    return goal.is_better(found.value, best.value) or (found.value == best.value and found.loss < best.loss)


def is_comparable(found: Best, best: Best) -> bool:
    """Are both of one split, one kind of weights and one metric?"""
    return (found.split, found.weights, found.metric) == (best.split, best.weights, best.metric)


def keep_best(rundir: RunDir, path: str, found: Best) -> None:
    """Keeps a checkpoint as the best: its files are linked, so that deleting the original leaves them.

    Raises:
      OSError: it cannot be written, or the checkpoint has gone; the best before it stays.
    """
    link_checkpoint(path, rundir.best)
    sync(rundir.best)
    replace_text(rundir.best / FILE, json.dumps(found._asdict()) + "\n")
    name_newest(rundir.best, [found.step])
    for file in rundir.best.iterdir():
        if FILE_PATTERN.fullmatch(file.name) and not file.name.startswith(f"{Path(path).name}."):
            file.unlink()


def put_best_aside(rundir: RunDir, *, after: int) -> Path | None:
    """Renames `best/` where it holds a checkpoint of a later step; returns its new path.

    Raises:
      TrainerError: its file is damaged.
    """
    best = load_best(rundir)
    if best is None or best.step <= after:
        return None
    number = 1
    while (target := rundir.best.with_name(f"abandoned{number}.{rundir.best.name}")).exists():
        number += 1
    return rundir.best.rename(target)
