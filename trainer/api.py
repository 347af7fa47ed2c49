"""The trainer from Python: `from trainer import api; result = api.train(num_gpus=2, epochs=5)`.

TensorFlow stays as the caller has it: eager mode goes on outside of these functions. They may be called again and
again, and in any thread; signals are the caller's own.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cluster.roles import choose_strategy
from trainer.cluster.spec import find_cluster
from trainer.console import Console
from trainer.errors import UsageError, unknown_name
from trainer.grammars import local_path
from trainer.settings.config import Config, validate
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.reporting.result import RunResult


def train(*, quiet: bool = False, **settings: Any) -> RunResult:
    """Trains, as `python -m trainer` does with flags of the same names; returns what `result.json` holds.

    Files are written as the process's umask says.

    Args:
      quiet: print nothing; the run directory holds all lines.
      settings: fields of `Config`; paths may be `Path`s, lists stand for comma-separated flags.

    Raises:
      UsageError: a setting is unknown or illegal, or the data do not fit.
      NotFiniteError: a loss, a gradient or a weight became NaN or infinite.
      TrainerError: anything else that ends a run.
    """
    config = make_config(**settings)
    cluster = find_cluster(
        job_name=config.job_name,
        task_index=config.task_index,
        worker_hosts=config.worker_hosts,
        ps_hosts=config.ps_hosts,
        environment=os.environ,
    )
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
            raise unknown_name("setting", name, fields)
    return validate(Config(**{name: _value(fields[name], value) for name, value in settings.items()}))


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    """Makes a value what its flag would make of it.

    Raises:
      UsageError: it is of another type.
    """
    if isinstance(value, os.PathLike):
        value = str(Path(value))
    if isinstance(field.default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    kind = type(field.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # As summary_every=100.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{field.name}={value!r} is a {type(value).__name__}, wanted {kind.__name__}")
    return local_path(field.name, str(value)) if field.metadata["path"] else value
