"""Looks into checkpoints and makes new ones of them: `python -m trainer.checkpoint list runs/mnist_lenet`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from trainer import grammars
from trainer.console import Console, exit_program, run_program
from trainer.errors import ERROR, OK, UsageError, unknown_name
from trainer.rundir import CHECKPOINT_PREFIX, RunDir
from trainer.settings.fields import option
from trainer.settings.verbs import Verb, choose_verb
from trainer.signals import Signals

PROGRAM = "python -m trainer.checkpoint"


@dataclass(frozen=True)
class ListSettings:
    """No flags."""


@dataclass(frozen=True)
class ShowSettings:
    tensor: str = option("", "print the values of this tensor")


@dataclass(frozen=True)
class DiffSettings:
    tolerance: float = option(0.0, "values that differ by at most this count as equal")


@dataclass(frozen=True)
class OutputSettings:
    output: str = option("", "path of the new checkpoint, as DIR/model.ckpt-N", path=True)
    overwrite: bool = option(False, "replace the checkpoint of that path")


@dataclass(frozen=True)
class RenameSettings(OutputSettings):
    rule: tuple[str, ...] = option(
        (), "old=>new: a regular expression and its replacement; may be repeated", repeated=True
    )
    map: str = option("", "file of lines old=>new, each a whole name", path=True)


@dataclass(frozen=True)
class AverageSettings(OutputSettings):
    last: int = option(0, "of a directory: average its newest so many")


@dataclass(frozen=True)
class StripSettings(OutputSettings):
    weights: str = option("both", "raw weights; ema: averages, under the weights' names; or both, as they are")


@dataclass(frozen=True)
class ConvertSettings(OutputSettings):
    to: str = option("v2", "v1: one file, as before TensorFlow 0.12; v2: an index and data")


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_checkpoint, argv)


def _checkpoint(argv: Sequence[str], console: Console, signals: Signals) -> int:
    chosen = choose_verb(PROGRAM, VERBS, argv)
    if isinstance(chosen, int):
        return chosen
    verb, settings, paths, usage = chosen
    paths = [grammars.local_path("checkpoint", path) for path in paths]
    wanted = verb.arguments.split()
    fits = len(paths) >= 1 if wanted[-1].endswith("...") else len(paths) == len(wanted)
    if not fits:
        raise UsageError(f"{argv[1]} takes {verb.arguments}, got {len(paths)} arguments; usage: {usage}")
    if isinstance(settings, OutputSettings) and not settings.output:
        raise UsageError("--output is missing: the path of the new checkpoint, as DIR/model.ckpt-N")
    signals.shield()  # Before TensorFlow's first thread.
    signals.defer()  # What is being written is finished.
    return verb.run(settings, paths, console)


def _list(_: ListSettings, paths: list[str], console: Console) -> int:
    from trainer.saving import surgery
    from trainer.saving.lock import is_locked

    folder = Path(paths[0])
    rows = surgery.list_checkpoints(folder)
    if (folder / "best").is_dir():
        rows += surgery.list_checkpoints(folder / "best")
    newest = max((row.step for row in rows), default=0)
    unfinished = f"{folder}/{CHECKPOINT_PREFIX}-{newest}" if is_locked(RunDir(folder)) else ""
    damaged = [row for row in rows if row.damage and row.path != unfinished]
    table = Table("step", "size", "age", "state", "path")
    for row in rows:
        age = _age(time.time() - row.written)
        table.add_row(str(row.step), f"{row.num_bytes:,}", age, _state(row.damage, row.path == unfinished), row.path)
    console.table(table)
    return ERROR if damaged else OK


def _state(damage: str, unfinished: bool) -> str:
    """Names damage; that of the newest checkpoint of a training at work is that it is being written."""
    return ("being written" if unfinished else damage) if damage else "complete"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _show(settings: ShowSettings, paths: list[str], console: Console) -> int:
    import numpy as np

    from trainer.saving import surgery, tensors

    path = tensors.find_checkpoint(paths[0])
    values = tensors.load_tensors(path)
    if settings.tensor:
        if settings.tensor not in values:
            raise unknown_name("tensor", settings.tensor, values)
        with np.printoptions(threshold=sys.maxsize, linewidth=120):
            console.say(str(values[settings.tensor]))
        return OK
    table = Table("tensor", "shape", "type", "min", "max", "mean", "std", "not finite", title=path)
    for name, value in values.items():
        found = surgery.statistics_of(value)
        figures = ["" if figure is None else f"{figure:.4g}" for figure in found[:4]]
        table.add_row(name, str(list(value.shape)), str(value.dtype), *figures, str(found.not_finite or ""))
    console.table(table)
    total = sum(value.size for value in values.values())
    console.say(f"{len(values)} tensors, {total:,} values, {sum(value.nbytes for value in values.values()):,} bytes")
    return OK


def _diff(settings: DiffSettings, paths: list[str], console: Console) -> int:
    from trainer.saving import surgery, tensors

    one, other = (tensors.load_tensors(tensors.find_checkpoint(path)) for path in paths)
    if not settings.tolerance >= 0:
        raise UsageError(f"tolerance={settings.tolerance} is out of range: 0 or more")
    lines = surgery.differences(one, other, settings.tolerance)
    for line in lines:
        console.say(line)
    console.say(f"{len(lines)} differences" if lines else f"{len(one)} tensors, all equal")
    return ERROR if lines else OK


def _rename(settings: RenameSettings, paths: list[str], console: Console) -> int:
    from trainer.saving import surgery

    if bool(settings.rule) == bool(settings.map):
        raise UsageError("give either --rule=old=>new, as often as needed, or --map=FILE")
    rules = [grammars.parse_rename(f"rule={rule}", rule) for rule in settings.rule]
    names = surgery.load_map(Path(settings.map)) if settings.map else {}

    return _write(settings, paths, console, lambda found: surgery.rename(found, rules, names))


def _average(settings: AverageSettings, paths: list[str], console: Console) -> int:
    from trainer.saving import surgery

    return _write(settings, surgery.newest(paths, settings.last), console, surgery.average)


def _strip(settings: StripSettings, paths: list[str], console: Console) -> int:
    from trainer.saving import surgery

    if settings.weights not in surgery.KEPT:
        raise unknown_name("weights", settings.weights, surgery.KEPT)

    def strip(found: dict[str, Any]) -> dict[str, Any]:
        return _say_left_out(found, surgery.strip(found, settings.weights), console)

    return _write(settings, paths, console, strip)


def _convert(settings: ConvertSettings, paths: list[str], console: Console) -> int:
    from trainer.saving.tensors import FORMATS

    if settings.to not in FORMATS:
        raise unknown_name("to", settings.to, FORMATS)
    return _write(settings, paths, console, lambda found: found, version=settings.to)


def _from_frozen(settings: OutputSettings, paths: list[str], console: Console) -> int:
    from trainer.saving import tensors
    from trainer.saving.frozen import weights_of

    made = weights_of(Path(paths[0]))
    tensors.save_tensors(made, settings.output, overwrite=settings.overwrite)
    console.say(f"wrote {len(made)} constants of {paths[0]} to {settings.output}")
    return OK


def _write(
    settings: OutputSettings, paths: list[str], console: Console, change: Callable[..., Any], version: str = "v2"
) -> int:
    """Writes what `change` makes of the tensors of each path."""
    from trainer.saving import tensors

    found = [tensors.find_checkpoint(path) for path in paths]
    made = change(*(tensors.load_tensors(path) for path in found))
    tensors.save_tensors(made, settings.output, version=version, overwrite=settings.overwrite)
    console.say(f"wrote {len(made)} tensors of {', '.join(found)} to {settings.output}")
    return OK


def _say_left_out(before: dict[str, Any], after: dict[str, Any], console: Console) -> dict[str, Any]:
    for name in sorted(set(before) - set(after)):
        console.say(f"left out  {name}")
    return after


VERBS = {
    "list": Verb(_list, ListSettings, "DIR", "step, size and age of each checkpoint, and what is wrong with it"),
    "show": Verb(_show, ShowSettings, "CHECKPOINT", "name, shape, type and statistics of each tensor"),
    "diff": Verb(
        _diff, DiffSettings, "CHECKPOINT CHECKPOINT", "what differs between two; exit code 1 where anything does"
    ),
    "rename": Verb(_rename, RenameSettings, "CHECKPOINT", "other names for the tensors"),
    "average": Verb(
        _average, AverageSettings, "DIR|CHECKPOINT...", "the mean of several; whole numbers are those of the last"
    ),
    "strip": Verb(_strip, StripSettings, "CHECKPOINT", "weights only, without optimizer and counters"),
    "from_frozen": Verb(_from_frozen, OutputSettings, "GRAPH.pb", "the weights of a frozen graph, as a checkpoint"),
    "convert": Verb(_convert, ConvertSettings, "CHECKPOINT", "to the V1 or V2 format"),
}


if __name__ == "__main__":
    exit_program(main())
