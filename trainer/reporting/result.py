"""`result.json`, and the verdict on what bounded the speed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.rundir import replace_text

# A queue that is on average emptier than this makes the towers wait.
INPUT_BOUND_FILL = 0.25
MIN_SAMPLES = 5
SPLITS_WITH_METRICS, BEST = ("validation", "test"), "best_validation"  # fields of a result


@dataclass
class RunResult:
    """What a run came to; written at its end, however it ends."""

    step: int = 0
    epochs: float = 0.0
    train_loss: float | None = None
    goal: str = "accuracy"  # the metric by which the best step is chosen
    validation: dict[str, float] = field(default_factory=dict)  # metrics by name, of the last evaluation
    best_validation: float | None = None  # of the goal
    best_step: int | None = None
    test: dict[str, float] = field(default_factory=dict)  # metrics by name, at the end
    images_per_second: float | None = None  # none where too few steps were made
    input_bound: bool | None = None
    seconds: float = 0.0
    devices: list[str] = field(default_factory=list)
    skipped_steps: int = 0  # not finite and not applied, since step 0
    overflowed_steps: int = 0  # of float16, not applied, in this run
    skipped_records: int = 0  # damaged, of all splits
    failed_writes: dict[str, int] = field(default_factory=dict)  # what could not be written, how often
    status: str = "error"

    def values(self) -> dict[str, Any]:
        """Returns what `result.json` holds: the metrics are keys of their own, as `validation_accuracy`."""
        values: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            if name in SPLITS_WITH_METRICS:
                values |= {f"{name}_{metric}": number for metric, number in {self.goal: None, **value}.items()}
            else:
                values[f"{name}_{self.goal}" if name == BEST else name] = value
        if values["train_loss"] is not None and not math.isfinite(values["train_loss"]):
            values["train_loss"] = None  # JSON knows no NaN; the status tells.
        return values

    def save(self, path: Path) -> None:
        replace_text(path, json.dumps(self.values(), indent=2, allow_nan=False) + "\n")


def load_result(path: Path) -> RunResult | None:
    """Reads the result of a run that came to its end; None where there is none, or it is of another version."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        if values["status"] != "done":
            return None
        values[BEST] = values.pop(f"{BEST}_{values['goal']}")
        for split in SPLITS_WITH_METRICS:
            names = [name for name in values if name.startswith(f"{split}_")]
            values[split] = {name.removeprefix(f"{split}_"): values.pop(name) for name in names}
        return RunResult(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def input_verdict(input_name: str, fills: Sequence[float]) -> tuple[bool | None, str]:
    """Says whether the input or the computation bounded the speed, and on which figure that rests.

    Args:
      input_name: of the input.
      fills: samples of the queue's fill, 0..1, taken with training steps.
    """
    if input_name in ("preloaded", "synthetic"):
        return False, f"compute-bound: {input_name} input has no queue to wait for"
    if len(fills) < MIN_SAMPLES:
        return None, "input-bound or compute-bound: unknown, the run was too short to sample the input queue"
    mean = sum(fills) / len(fills)
    bound = mean < INPUT_BOUND_FILL
    figure = f"the input queue was {mean:.0%} full on average, over {len(fills)} samples"
    return bound, f"{'input' if bound else 'compute'}-bound: {figure}"
