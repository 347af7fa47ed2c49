"""The learning rate as a function of the step."""

from __future__ import annotations

from trainer.grammars import Decay
from trainer.tf1 import tf


def build_learning_rate(
    step: tf.Tensor, *, base: float, decay: Decay, warmup_steps: int, train_steps: int, steps_per_epoch: float
) -> tf.Tensor:
    """Computes the rate of the update that follows `step` finished ones: float32 [].

    Args:
      step: int64 [].
      base: rate before decay and warm-up.
      decay: constant; exponential, base * rate^(step / every), with whole exponents where it is a staircase;
        piecewise, another rate from each boundary on; cosine, base * (1 + cos(pi * step / train_steps)) / 2
        (Loshchilov and Hutter 2017, without restarts).
      warmup_steps: the rate is multiplied with (step + 1) / warmup_steps before that step (Goyal et al. 2017).
      train_steps: where the cosine reaches zero.
      steps_per_epoch: turns epochs of `decay` into steps.
    """
    rate = _decayed(step, base, decay, train_steps, steps_per_epoch)
    if not warmup_steps:
        return rate
    return rate * tf.minimum(1.0, (tf.cast(step, tf.float32) + 1) / warmup_steps)


def _decayed(step: tf.Tensor, base: float, decay: Decay, train_steps: int, steps_per_epoch: float) -> tf.Tensor:
    if decay.kind == "exponential":
        every = decay.every.to_steps(steps_per_epoch)
        return tf.train.exponential_decay(base, step, every, decay.rate, staircase=decay.staircase)
    if decay.kind == "piecewise":
        # TensorFlow's boundaries belong to the rate before them: one less makes ours begin the next.
        boundaries = [start.to_steps(steps_per_epoch) - 1 for start, _ in decay.pieces]
        return tf.train.piecewise_constant(step, boundaries, [base, *(rate for _, rate in decay.pieces)])
    if decay.kind == "cosine":
        return tf.train.cosine_decay(base, step, train_steps)
    return tf.constant(base, tf.float32)
