"""One replica of the model on each device, all on the same variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trainer.errors import UsageError
from trainer.placing.devices import Placement, server_of
from trainer.tf1 import tf

T = TypeVar("T")


def for_each_tower(devices: Sequence[str], parameter_device: Placement | None, build: Callable[[int], T]) -> list[T]:
    """Builds a replica on each device; the first makes the variables, the others share them.

    Args:
      devices: of the towers.
      parameter_device: of the variables; None: of those that a tower makes, its own.
      build: makes the replica of the tower with this number.

    Raises:
      UsageError: a tower asked for other variables than the first.
    """
    results, names = [], []
    for index, device in enumerate(devices):
        asked: list[str] = []
        with (
            tf.device(_with_variables_on(parameter_device, device)),
            tf.name_scope(f"tower_{index}"),
            tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=_recorder(asked)),
        ):
            results.append(build(index))
        names.append(asked)
        check_same_variables(names[0], asked, index)
    return results


def _with_variables_on(parameter_device: Placement | None, device: str) -> Callable[[tf.Operation], str]:
    def choose(op: tf.Operation) -> str:
        if op.type == "VarHandleOp" and parameter_device is not None:
            return parameter_device(op) if callable(parameter_device) else parameter_device
        # What is done to a variable itself is done where it lives.
        touches = len(op.inputs) and op.inputs[0].dtype == tf.resource
        return (server_of(op) if touches else "") or device

    return choose


def _recorder(names: list[str]) -> Callable[..., tf.Variable]:
    def record(getter: Callable[..., tf.Variable], name: str, *args: Any, **kwargs: Any) -> tf.Variable:
        names.append(name)
        return getter(name, *args, **kwargs)

    return record


def check_same_variables(first: Sequence[str], other: Sequence[str], index: int) -> None:
    """Compares the names of the variables that tower 0 and another asked for.

    Raises:
      UsageError: they differ; the message names the difference.
    """
    if list(first) == list(other):
        return
    missing, extra = sorted(set(first) - set(other)), sorted(set(other) - set(first))
    detail = f"missing {missing}, extra {extra}" if missing or extra else f"in another order, {list(other)}"
    raise UsageError(f"tower {index} built other variables than tower 0: {detail}; towers must be replicas")
