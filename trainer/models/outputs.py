"""What a model's function returns, as TF1 programs do, and what its building comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainer.errors import UsageError
from trainer.tf1 import tf

AUXILIARY = "AuxLogits"  # among the end points of slim's nets


class ModelOutput(NamedTuple):
    """What a model has built."""

    logits: tf.Tensor  # float32 [batch, classes]
    aux_logits: Sequence[tf.Tensor] = ()  # the same, in training
    losses: Sequence[tf.Tensor] = ()  # float32 [] each, of this batch: what the model has collected
    regularization: Sequence[tf.Tensor] = ()  # float32 [] each, of variables alone: the same in every building
    updates: Mapping[str, tf.Tensor] = {}  # by variable: its value after this step, as batch normalization's means
    idle: Sequence[str] = ()  # variables whose updates nobody runs
    draws: Sequence[str] = ()  # operations that draw random numbers by themselves
    own_statistics: Sequence[str] = ()  # operations that normalize by the statistics of one tower


def read_logits(model: str, built: Any) -> tuple[Any, list[Any]]:
    """Reads what a model returned: its logits, and auxiliary ones."""
    if isinstance(built, Mapping):
        if "logits" not in built:
            raise UsageError(f"{model} returned a dict of {', '.join(map(str, built)) or 'nothing'}; wanted `logits`")
        auxiliary = built.get("aux_logits")
    elif isinstance(built, tuple | list) and len(built) == 2 and isinstance(built[1], Mapping):
        auxiliary, built = built[1].get(AUXILIARY), {"logits": built[0]}
    else:
        auxiliary, built = None, {"logits": built}
    several = auxiliary if isinstance(auxiliary, tuple | list) else [auxiliary]
    return built["logits"], [each for each in several if each is not None]


def check_logits(model: str, logits: Any, images: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Looks at logits; returns them as float32.

    Raises:
      UsageError: they are something else.
    """
    wanted = f"wanted logits, float32 [batch, {num_classes}], or (logits, end_points), or a dict with `logits`"
    if not isinstance(logits, tf.Tensor) or not logits.dtype.is_floating:
        got = f"a tensor of {logits.dtype.name}" if isinstance(logits, tf.Tensor) else f"a {type(logits).__name__}"
        raise UsageError(f"{model} returned {got}; {wanted}")
    if not logits.shape.is_compatible_with([images.shape[0], num_classes]):
        raise UsageError(f"{model} returned a tensor of shape {logits.shape} for images {images.shape}; {wanted}")
    logits.set_shape([images.shape[0], num_classes])
    return tf.cast(logits, tf.float32)
