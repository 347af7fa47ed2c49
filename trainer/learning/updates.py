"""What a model makes of variables that no gradient trains, as the means of batch normalization: a part of the update.

In a TF1 program these are assignments that UPDATE_OPS collects, or that run while the model computes, on each tower
again. Here the values that they would write are averaged over towers and workers, as gradients are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trainer.tf1 import tf


def as_floats(
    updates: Mapping[str, tf.Tensor], variables: Mapping[str, tf.Variable], *, as_differences: bool = False
) -> dict[str, tf.Tensor]:
    """Makes what is averaged of new values: float32 of a variable's shape; of a whole number, what is added to it.

    Args:
      updates: new values, by variable.
      variables: by name.
      as_differences: also of floats, where other workers make updates in the meantime.
    """
    return {name: _as_float(value, variables[name], as_differences) for name, value in updates.items()}


def _as_float(value: tf.Tensor, variable: tf.Variable, as_difference: bool) -> tf.Tensor:
    if variable.dtype.is_floating and not as_difference:
        return tf.ensure_shape(tf.cast(value, tf.float32), variable.shape)
    return tf.ensure_shape(tf.cast(value - variable.read_value(), tf.float32), variable.shape)


def build_updates(
    means: Mapping[str, tf.Tensor],
    variables: Mapping[str, tf.Variable],
    everywhere: Callable[[tf.Variable], Sequence[tf.Variable]],
    *,
    as_differences: bool = False,
) -> list[tf.Operation]:
    """Builds the assignments of means of `as_floats`.

    Args:
      means: over towers and workers, by variable.
      variables: by name.
      everywhere: finds a variable of all towers that have their own.
      as_differences: as `as_floats`.
    """
    pairs = [(mean, copy) for name, mean in means.items() for copy in everywhere(variables[name])]
    return [_build_update(mean, copy, as_differences) for mean, copy in pairs]


def _build_update(mean: tf.Tensor, variable: tf.Variable, as_difference: bool) -> tf.Operation:
    dtype = variable.dtype.base_dtype
    if not dtype.is_floating:
        return variable.assign_add(tf.cast(tf.round(mean), dtype), read_value=False)
    if as_difference:
        return variable.assign_add(tf.cast(mean, dtype), read_value=False)
    return variable.assign(tf.cast(mean, dtype), read_value=False)
