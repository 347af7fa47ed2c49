"""Dynamic loss scaling (Micikevicius et al. 2018, Mixed Precision Training), for float16.

Gradients below 6e-8 are zero in float16. The loss is multiplied before its gradients are computed, they are divided
afterwards, in float32; a step whose scaled gradients overflow is not applied, and halves the scale.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.tf1 import tf

FIRST_SCALE = 2.0**15
LARGEST_SCALE = 2.0**24
GROWTH_STEPS = 2000  # finite steps in a row, after which the scale doubles


class LossScale:
    """The scale, always a power of two, so that it changes no bit of a gradient that neither overflows nor vanishes."""

    def __init__(self) -> None:
        """Makes the two variables, on the device that is asked for around it."""
        self.scale, self._steps = (
            tf.get_variable(name, initializer=value, trainable=False)
            for name, value in (("loss_scale", FIRST_SCALE), ("loss_scale_steps", 0))
        )

    def multiply(self, loss: tf.Tensor) -> tf.Tensor:
        """Scales a loss, float32 []."""
        return loss * self.scale.read_value()

    def divide(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Takes the scale out of float32 gradients."""
        inverse = 1 / self.scale.read_value()
        return [gradient * inverse for gradient in gradients]

    def is_overflow(self, not_finite: tf.Tensor, first_gradient: int = 1) -> tf.Tensor:
        """Can a smaller scale help: bool []. It can where gradients alone (columns of int64 [n, 2]) are not finite."""
        return tf.reduce_all(not_finite[:, 1] >= first_gradient) & (self.scale.read_value() > 1)

    def after_update(self) -> list[tf.Operation]:
        """Adds what follows an update: after GROWTH_STEPS in a row the scale doubles."""
        grows = self._steps.read_value() >= GROWTH_STEPS - 1
        old = self.scale.read_value()
        with tf.control_dependencies([grows, old]):
            scale = self.scale.assign(tf.where(grows, tf.minimum(old * 2, LARGEST_SCALE), old), read_value=False)
            steps = self._steps.assign(tf.where(grows, 0, self._steps.read_value() + 1), read_value=False)
        return [scale, steps]

    def after_overflow(self) -> list[tf.Operation]:
        """Adds what follows a step whose gradients overflowed."""
        return [
            self.scale.assign(tf.maximum(self.scale.read_value() / 2, 1), read_value=False),
            self._steps.assign(0, read_value=False),
        ]
