"""TowerUpdate: the end of a step as one operation, whose twin is the graph that `graph.update` builds without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from trainer.tf1 import tf

# The optimizers that it knows, with the names of their slots in TensorFlow's, and their epsilon there.
SLOTS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "rmsprop": ("rms", "momentum"),
    "adam": ("m", "v"),
}
EPSILON = {"rmsprop": 1e-10, "adam": 1e-8}
POWERS = {"adam": ("beta1_power", "beta2_power")}


class Parameters(NamedTuple):
    """Variables, what belongs to each, and their gradients; all float32 on one CPU."""

    gradients: Sequence[tf.Tensor]  # without L2, before clipping
    variables: Sequence[tf.Variable]
    averages: Sequence[tf.Variable]  # of each variable; empty: there are none
    decays: Sequence[float]  # L2 of each variable: its gradient + decay * variable


class Rule(NamedTuple):
    """How a step is applied."""

    optimizer: str  # of SLOTS
    momentum: float
    rho: float  # of rmsprop
    clip: str  # none | norm | global_norm | value | clip_to_zero
    maximum: float  # of --clip
    average_decay: float
    batch_size: int  # that is added to the position
    skips: bool  # are steps that are not finite counted and passed over


def knows(optimizer: str) -> bool:
    return optimizer in SLOTS


def build_update(
    module: Any,
    *,
    first: Sequence[tf.Tensor],
    parameters: Parameters,
    optimizer: tf.train.Optimizer,
    counters: Sequence[tf.Variable],
    rate: tf.Tensor,
    rule: Rule,
) -> tf.Tensor:
    """Adds the operation, on the device of the variables.

    It looks at `first` and all gradients, and changes no variable where one holds NaN or infinity. Else it makes one
    pass over the parameters, in parallel, in parts of one size: the number of threads changes no bit. Memory: none, but
    of variables that somebody still reads, which get new one.

    Args:
      module: of the library.
      first: what has to be finite besides the gradients, as the loss: float32.
      parameters: what is updated.
      optimizer: TensorFlow's of the same rule, which has made the slots.
      counters: int64 [] each: step, position, skipped steps.
      rate: float32 [], the learning rate.
      rule: see there.

    Returns:
      int64 [n, 2], 0 and the place, in `first` and the gradients, of what forbade the update; empty where it was made.
      The place behind these says that the norm of all gradients is above `maximum` (clip_to_zero).
    """
    variables = parameters.variables
    return module.tower_update(
        checked=list(first),
        gradients=list(parameters.gradients),
        variables=_handles(variables),
        slots=_handles(optimizer.get_slot(variable, name) for name in SLOTS[rule.optimizer] for variable in variables),
        averages=_handles(parameters.averages),
        powers=_handles(_named(optimizer, name) for name in POWERS.get(rule.optimizer, ())),
        **dict(zip(("step", "position", "skipped"), _handles(counters), strict=True)),
        rate=rate,
        optimizer=rule.optimizer,
        momentum=rule.momentum,
        rho=rule.rho,
        epsilon=EPSILON.get(rule.optimizer, 0.0),
        decays=list(parameters.decays) if any(parameters.decays) else [],
        average_decay=rule.average_decay,
        clip=rule.clip,
        maximum=rule.maximum,
        batch_size=rule.batch_size,
        skips=rule.skips,
    )


def _handles(variables: Iterable[tf.Variable]) -> list[tf.Tensor]:
    return [variable.handle for variable in variables]


def _named(optimizer: tf.train.Optimizer, name: str) -> tf.Variable:
    """Finds a variable of an optimizer that belongs to none of the model's."""
    return next(variable for variable in optimizer.variables() if variable.op.name.rpartition("/")[2] == name)
