"""Clipping of averaged gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.tf1 import tf

CLIPPERS: dict[str, Callable[[Sequence[tf.Tensor], float], list[tf.Tensor]]] = {
    "none": lambda gradients, maximum: list(gradients),
    "clip_to_zero": lambda gradients, maximum: list(gradients),  # Of a step that is applied.
    "norm": lambda gradients, maximum: [tf.clip_by_norm(gradient, maximum) for gradient in gradients],
    "global_norm": lambda gradients, maximum: list(tf.clip_by_global_norm(gradients, maximum)[0]),
    "value": lambda gradients, maximum: [tf.clip_by_value(gradient, -maximum, maximum) for gradient in gradients],
}


def clip_gradients(gradients: Sequence[tf.Tensor], kind: str, maximum: float) -> list[tf.Tensor]:
    """Clips each gradient's norm, the norm of all together (Pascanu et al. 2013), or each value to `maximum`."""
    return CLIPPERS[kind](gradients, maximum)
