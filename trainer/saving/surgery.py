"""Checkpoints compared, renamed, averaged and stripped, as dicts of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.errors import TrainerError, UsageError
from trainer.rundir import CHECKPOINT_PREFIX
from trainer.saving.files import files_by_step
from trainer.saving.restoring import AVERAGE, rename_all
from trainer.saving.tensors import find_checkpoint, load_tensors

KEPT = ("raw", "ema", "both")
# What optimizers of TensorFlow 1 and 2 add to the name of a variable, and variables of their own.
SLOTS = {
    "Momentum", "RMSProp", "RMSProp_1", "RMSProp_2", "Adam", "Adam_1", "AdaMax", "AdaMax_1", "Adagrad", "Adadelta",
    "Adadelta_1", "Ftrl", "Ftrl_1", "GradientDescent", "LARSOptimizer", "LocalAdam",
}  # fmt: skip
COUNTERS = {"global_step", "position", "skipped_steps", "stream", "loss_scale", "loss_scale_steps"}
POWERS = {"beta1_power", "beta2_power"}  # of Adam, in whatever scope

Tensors = Mapping[str, np.ndarray]


class Listed(NamedTuple):
    """A checkpoint of a directory."""

    step: int
    path: str
    num_bytes: int
    written: float  # seconds since 1970
    damage: str  # nothing where it is complete


class Statistics(NamedTuple):
    """Figures of a tensor's finite values; None where there are none."""

    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    not_finite: int


def list_checkpoints(folder: Path) -> list[Listed]:
    """Reads every checkpoint of a directory whole, and says of each whether it is complete.

    Raises:
      UsageError: there is none.
    """
    files = files_by_step(folder)
    if not files:
        raise UsageError(f"{folder} holds no {CHECKPOINT_PREFIX}-N; wanted the directory of a run")
    rows = []
    for step in sorted(files):
        path = str(folder / f"{CHECKPOINT_PREFIX}-{step}")
        try:
            sizes = [file.stat() for file in files[step]]
        except FileNotFoundError:  # Deleted a moment ago.
            continue
        written = max(size.st_mtime for size in sizes)
        rows.append(Listed(step, path, sum(size.st_size for size in sizes), written, _damage(path, files[step])))
    return rows


def _damage(path: str, files: Sequence[Path]) -> str:
    kinds = {file.suffix.partition("-")[0] for file in files}
    lacking = [kind for kind in (".index", ".data") if kind not in kinds]
    if lacking:
        return f"damaged: no {' and no '.join(lacking)} file"
    try:
        load_tensors(path)
    except TrainerError as error:
        return f"damaged: {str(error).partition(': ')[2]}"
    return ""


def statistics_of(value: np.ndarray) -> Statistics:
    """Computes the figures of numbers, in float64."""
    if value.dtype.kind not in "fiub" and not _is_small_float(value):
        return Statistics(None, None, None, None, 0)
    numbers = value.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    lost = int(numbers.size - finite.size)
    if not finite.size:
        return Statistics(None, None, None, None, lost)
    return Statistics(float(finite.min()), float(finite.max()), float(finite.mean()), float(finite.std()), lost)


def _is_small_float(value: np.ndarray) -> bool:
    return value.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def differences(one: Tensors, other: Tensors, tolerance: float) -> list[str]:
    """Lists what differs: names, shapes, types, and values by more than a tolerance; NaN equals NaN."""
    lines = [f"{name} is only in the first" for name in sorted(set(one) - set(other))]
    lines += [f"{name} is only in the second" for name in sorted(set(other) - set(one))]
    for name in sorted(set(one) & set(other)):
        left, right = one[name], other[name]
        if left.shape != right.shape or left.dtype != right.dtype:
            shapes = [f"{value.dtype} {list(value.shape)}" for value in (left, right)]
            lines.append(f"{name} is {shapes[0]} in the first, {shapes[1]} in the second")
        elif line := _value_difference(left, right, tolerance):
            lines.append(f"{name} {line}")
    return lines


def _value_difference(left: np.ndarray, right: np.ndarray, tolerance: float) -> str:
    if left.dtype.kind not in "fiub" and not _is_small_float(left):
        count = int((left != right).sum())
        return f"differs in {count} of {left.size} values" if count else ""
    one, other = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    far = ~(distance <= tolerance)  # A number is far from NaN.
    if left.dtype.kind in "iu" and not tolerance:
        far = left != right  # float64 does not hold every int64.
    count = int(far.sum())
    if not count:
        return ""
    return f"differs in {count} of {left.size} values, by up to {np.nanmax(distance, initial=0.0):.4g}"


def load_map(path: Path) -> dict[str, str]:
    """Reads a file of lines `old=>new`; empty lines and those that begin with # do not count.

    Raises:
      UsageError: a line is none, or a name stands there twice.
    """
    names: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        old, new = (text.strip() for text in line.partition("=>")[::2])
        if not old or not new or old in names:
            raise UsageError(f"{path}, line {number}: {line!r} " + ("is there twice" if new else "is no old=>new"))
        names[old] = new
    return names


def rename(tensors: Tensors, rules: Sequence[tuple[str, str]], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Gives tensors other names, by rules or by a map of whole names; the others keep theirs.

    Raises:
      UsageError: a rule or a name matches nothing, or two tensors get one name.
    """
    unknown = sorted(set(names) - set(tensors))
    if unknown:
        raise UsageError(f"the checkpoint holds no {', '.join(unknown)}; it holds {', '.join(sorted(tensors))}")
    renamed = {name: tensors[old] for name, old in rename_all(tensors, rules).items()} if rules else dict(tensors)
    result: dict[str, np.ndarray] = {}
    for name, value in renamed.items():
        new = names.get(name, name)
        if new in result:
            raise UsageError(f"two tensors would get the name {new}")
        result[new] = value
    return result


def newest(paths: Sequence[str], last: int) -> list[str]:
    """Finds what to average: the given checkpoints, or the newest of a directory.

    Raises:
      UsageError: there are fewer, or the arguments do not fit.
    """
    if len(paths) == 1 and Path(paths[0]).is_dir():
        rows = list_checkpoints(Path(paths[0]))
        if not 2 <= last <= len(rows):
            raise UsageError(f"last={last} is out of range: {paths[0]} holds {len(rows)} checkpoints, and it takes two")
        return [row.path for row in rows[-last:]]
    if last or len(paths) < 2:
        raise UsageError("average takes a directory with --last=N, or two checkpoints and more")
    return [find_checkpoint(path) for path in paths]


def average(*checkpoints: Tensors) -> dict[str, np.ndarray]:
    """Means each tensor, in float64; those that are no floating-point numbers are taken from the last checkpoint.

    Raises:
      UsageError: the checkpoints are not of one model.
    """
    *others, last = checkpoints
    for other in others:
        for name in set(other) ^ set(last):
            raise UsageError(f"{name} is not in each of the checkpoints: they are not of one model")
        for name, value in last.items():
            if other[name].shape != value.shape:
                raise UsageError(f"{name} is {list(other[name].shape)} in one and {list(value.shape)} in another")
    return {
        name: np.mean([found[name].astype(np.float64) for found in checkpoints], axis=0).astype(value.dtype)
        if value.dtype.kind == "f" or _is_small_float(value)
        else value
        for name, value in last.items()
    }


def strip(tensors: Tensors, weights: str) -> dict[str, np.ndarray]:
    """Keeps weights, and leaves out optimizer slots and counters.

    Args:
      tensors: of a checkpoint.
      weights: raw: without averages; ema: averages under the names of their weights, and weights that have none;
        both: as they are.

    Raises:
      UsageError: there are no averages.
    """
    kept = {name: value for name, value in tensors.items() if not _is_of_training(name, tensors)}
    averages = {name.removesuffix(AVERAGE): value for name, value in kept.items() if name.endswith(AVERAGE)}
    if weights == "both":
        return kept
    raw = {name: value for name, value in kept.items() if not name.endswith(AVERAGE)}
    if weights == "raw":
        return raw
    if not averages:
        raise UsageError("the checkpoint holds no averages; use --weights=raw")
    return {**raw, **averages}


def _is_of_training(name: str, tensors: Tensors) -> bool:
    """Is it a counter, or a slot of another tensor, also one that lies in a scope of the optimizer's?"""
    last = name.rpartition("/")[2]
    if name in COUNTERS or (last in POWERS and not tensors[name].shape):
        return True
    owner = name.rpartition("/")[0]
    scopes = owner.split("/")
    owners = ["/".join(scopes[start:]) for start in range(len(scopes))]
    return last in SLOTS and any(candidate in tensors for candidate in owners)
