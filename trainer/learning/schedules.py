"""The learning rate as a function of the step."""

from __future__ import annotations

from trainer.grammars import Decay, Period
from trainer.tf1 import tf


def build_learning_rate(
    step: tf.Tensor,
    *,
    base: float,
    decay: Decay,
    warmup: Period,
    train_steps: int,
    ends_by_epochs: bool,
    steps_per_epoch: float,
    steps_ahead: int = 0,
    factor: tf.Tensor | None = None,
) -> tf.Tensor:
    """Computes the rate of the update that follows `step` finished ones: float32 [].

    Args:
      step: int64 [].
      base: rate before decay and warm-up.
      decay: constant; exponential, base * rate^(step / every), with whole exponents where it is a staircase;
        piecewise, another rate from each boundary on; cosine, base * (1 + cos(pi * step / train_steps)) / 2
        (Loshchilov and Hutter 2017, without restarts); plateau, base * factor.
      warmup: the rate is multiplied with (step + 1) / warmup before that step (Goyal et al. 2017).
      train_steps: where the cosine reaches zero.
      ends_by_epochs: does that follow from a number of epochs.
      steps_per_epoch: turns epochs into steps.
      steps_ahead: where earlier steps had batches of another size, by how many more of today's size the epochs are
        farther; what is measured in epochs goes on from there.
      factor: float32 [], of a plateau.
    """

    def counted(by_epochs: bool) -> tf.Tensor:
        return step + steps_ahead if by_epochs else step

    rate = tf.constant(base, tf.float32)
    if decay.kind == "exponential":
        every, now = decay.every.to_steps(steps_per_epoch), counted(decay.every.unit == "epochs")
        rate = tf.train.exponential_decay(base, now, every, decay.rate, staircase=decay.staircase)
    elif decay.kind == "piecewise":
        # TensorFlow's boundaries belong to the rate before them: one less makes ours begin the next.
        boundaries = [start.to_steps(steps_per_epoch) - 1 for start, _ in decay.pieces]
        now = counted(decay.pieces[0][0].unit == "epochs")
        rate = tf.train.piecewise_constant(now, boundaries, [base, *(rate for _, rate in decay.pieces)])
    elif decay.kind == "cosine":
        ahead = steps_ahead if ends_by_epochs else 0
        rate = tf.train.cosine_decay(base, counted(ends_by_epochs), train_steps + ahead)
    elif factor is not None:
        rate *= factor
    if warmup_steps := warmup.to_steps(steps_per_epoch):
        now = counted(warmup.unit == "epochs")
        rate *= tf.minimum(1.0, (tf.cast(now, tf.float32) + 1) / warmup_steps)
    return rate
