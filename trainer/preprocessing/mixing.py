"""Operations that mix each picture of a batch with its neighbour, and how much of its own label is left.

The neighbour is the picture before it, in the share of the batch that a tower has; that of the first is the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np

from trainer.preprocessing.draws import Draws
from trainer.preprocessing.geometry import as_type_of, size_of
from trainer.settings.fields import above
from trainer.tf1 import tf

Alpha = Annotated[float, above(0, 1)]
ATTEMPTS = 24  # of which at least half fit


def _draw_shares(draws: Draws, alpha: float) -> tf.Tensor:
    """Draws Beta(alpha, alpha), alpha up to 1: float32 [n].

    The first of several pairs that fits (M. D. Joehnk, "Erzeugung von betaverteilten und gammaverteilten
    Zufallszahlen", Metrika 8, 1964); a half where none does.
    """
    first, second = tf.split(tf.pow(draws.uniform(0, 1, 2 * ATTEMPTS), 1 / alpha), 2, 1)
    whole = first + second
    fits = (whole <= 1) & (whole > 0)
    place = tf.argmax(tf.cast(fits, tf.int32), 1)
    found = tf.gather(first / tf.compat.v2.where(fits, whole, tf.ones_like(whole)), place, batch_dims=1)
    return tf.compat.v2.where(tf.reduce_any(fits, 1), found, tf.fill(tf.shape(found), 0.5))


def mixup(images: tf.Tensor, draws: Draws, alpha: Alpha = 0.2) -> tf.Tensor:
    """Adds to each picture its neighbour, by shares of Beta(alpha, alpha) (H. Zhang et al., "mixup", 2018)."""
    shares = _mixup_shares(draws, size_of(images), alpha)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    pixels = tf.cast(images, tf.float32)
    return as_type_of(shares * pixels + (1 - shares) * tf.roll(pixels, 1, 0), images)


def _mixup_shares(draws: Draws, _: tuple[int, int], alpha: float = 0.2) -> tf.Tensor:
    return _draw_shares(draws, alpha)


def cutmix(images: tf.Tensor, draws: Draws, alpha: Alpha = 1.0) -> tf.Tensor:
    """Puts a window of its neighbour into each picture, whose area is a share of Beta(alpha, alpha).

    S. Yun et al., "CutMix", 2019: the window's middle is anywhere in the picture, which it may leave.
    """
    inside, _ = _cutmix_windows(draws, size_of(images), alpha)
    return tf.raw_ops.SelectV2(condition=inside[..., tf.newaxis], t=tf.roll(images, 1, 0), e=images)


def _cutmix_windows(draws: Draws, size: tuple[int, int], alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws which pixels come from the neighbour, bool [n, height, width], and the share of the others, float32 [n]."""
    side = tf.sqrt(1 - _draw_shares(draws, alpha))[:, tf.newaxis]

    def within(length: int) -> tf.Tensor:
        middle = draws.integers(length)[:, tf.newaxis]
        half = tf.cast(side * (length / 2), tf.int32)
        places = np.arange(length, dtype=np.int32)
        return (places >= middle - half) & (places < middle + half)

    inside = within(size[0])[:, :, tf.newaxis] & within(size[1])[:, tf.newaxis, :]
    return inside, 1 - tf.reduce_mean(tf.cast(inside, tf.float32), [1, 2])


def _cutmix_shares(draws: Draws, size: tuple[int, int], alpha: float = 1.0) -> tf.Tensor:
    return _cutmix_windows(draws, size, alpha)[1]


class Mix(NamedTuple):
    """An operation that mixes, and what is left of each label by it."""

    mix: Callable[..., tf.Tensor]
    shares: Callable[..., Any]  # (draws, height and width, **arguments) -> float32 [n]


MIXES = {"cutmix": Mix(cutmix, _cutmix_shares), "mixup": Mix(mixup, _mixup_shares)}
