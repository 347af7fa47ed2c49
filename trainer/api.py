"""The trainer from Python: `from trainer import api; result = api.train(num_gpus=2, epochs=5)`.

TensorFlow stays as the caller has it: eager mode goes on outside of these functions. They may be called again and
again, and in any thread; signals are the caller's own.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cluster.roles import choose_strategy, cluster_of
from trainer.console import Console, describe_os_error
from trainer.errors import TrainerError, UsageError
from trainer.grammars import local_path
from trainer.settings.config import Config, validate
from trainer.settings.flags import nearest
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.reporting.result import RunResult


# Settings that only mean something to a program, and what stands for them here.
OF_COMMANDS = {
    "dry_run": "make_config(...) checks settings",
    "group_readable": "os.umask decides who may read what this process writes",
}


def train(*, quiet: bool = False, **settings: Any) -> RunResult:
    """Trains, as `python -m trainer` does with flags of the same names; returns what `result.json` holds.

    Files are written as the process's umask says. Ctrl-C, a KeyboardInterrupt, saves what has been trained first.

    Args:
      quiet: print nothing; the run directory holds all lines.
      settings: fields of `Config`; paths may be `Path`s, lists stand for comma-separated flags.

    Raises:
      UsageError: a setting is unknown or illegal, or the data do not fit.
      NotFiniteError: a loss, a gradient or a weight became NaN or infinite.
      TrainerError: anything else that ends a run.
    """
    config = make_config(**settings)
    cluster = cluster_of(config, os.environ)
    if cluster and not cluster.is_chief:
        raise UsageError(
            f"api.train is of a process that is alone, or the chief; {cluster.source} makes this {cluster.task}"
        )
    config = choose_strategy(config, cluster)

    from trainer.training.run import train_to_result  # TensorFlow is imported after the checks.

    console = Console()
    console.rich.quiet = quiet
    try:
        result = train_to_result(config, console, Signals(), cluster)
    except OSError as error:
        raise TrainerError(describe_os_error(error)) from error
    finally:
        console.close()
    assert result
    return result


def make_config(**settings: Any) -> Config:
    """Makes a checked `Config`.

    Raises:
      UsageError: a setting is unknown or illegal.
    """
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for name in settings:
        if name not in fields:
            hint = nearest(name, list(fields), dashes="") or "; `python -m trainer --help` lists all"
            raise UsageError(f"{name} is no setting{hint}")
        if name in OF_COMMANDS:
            raise UsageError(f"{name} is of the command line: {OF_COMMANDS[name]}")
    return validate(Config(**{name: _value(fields[name], value) for name, value in settings.items()}))


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    """Makes a value what its flag would make of it.

    Raises:
      UsageError: it is of another type.
    """
    if isinstance(value, os.PathLike):
        value = str(Path(value))
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # Of numpy.
    if isinstance(field.default, tuple):
        if isinstance(value, str):
            value = [value] if field.metadata["repeated"] else value.split(",")
        if not isinstance(value, list | tuple):
            raise UsageError(f"{field.name}={value!r} is a {type(value).__name__}, wanted a list of texts")
        for item in value:
            if not isinstance(item, str):
                raise UsageError(f"{field.name} holds {item!r}, a {type(item).__name__}; wanted str")
        return tuple(value)
    kind = type(field.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # As summary_every=100.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{field.name}={value!r} is a {type(value).__name__}, wanted {kind.__name__}")
    return local_path(field.name, str(value)) if field.metadata["path"] else value
