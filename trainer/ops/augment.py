"""TowerAugment: pad, crop, flip, cut out and normalize in one pass; its twin are the same operations of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from trainer.tf1 import tf


class Step(NamedTuple):
    """What is done to values."""

    name: str  # multiply | add (numbers: one, or one for each channel) | brightness | contrast | standardize
    numbers: tuple[float, ...] = ()  # of brightness and contrast: the range of what is drawn
    place: int = -1  # in the pipeline, of what is random


class Plan(NamedTuple):
    """What is done to each picture, in this order; -1 is the place of an operation that is left out."""

    pad: int = 0
    crop: int = -1  # place in the pipeline, from which its random numbers follow
    size: tuple[int, int] | None = None  # of the crop
    flip: int = -1
    cutout: int = -1
    hole: int = 0  # its side
    floats: bool = False  # is float32 made, also by no step
    steps: tuple[Step, ...] = ()


def build_augment(
    module: Any, images: tf.Tensor, keys: tf.Tensor, *, seed: int, plan: Plan, dtype: tf.DType | None = None
) -> tf.Tensor:
    """Does it to a batch, in parallel over its pictures; what is drawn follows from seed and key (SplitMix64).

    Means of contrast and standardize are summed in an order of their own, always the same. Memory: what comes out, and
    a row of a picture for each thread; for bfloat16 a picture.

    Args:
      module: of the library.
      images: uint8 [n, height, width, depth], of a known shape but n.
      keys: int64 [n], of the records, as `preprocessing.draws` takes them.
      seed: of the run.
      plan: what is done.
      dtype: of what comes out; None: uint8, or float32 where the plan makes floats.

    Raises:
      tf.errors.InvalidArgumentError: the pictures have another shape than the graph says.
    """
    height, width, depth = images.shape.as_list()[1:]
    crop = plan.size or (height + 2 * plan.pad, width + 2 * plan.pad)
    return module.tower_augment(
        images=images,
        keys=keys,
        dtype=dtype or (tf.float32 if plan.floats else tf.uint8),
        height=height,
        width=width,
        depth=depth,
        pad=plan.pad,
        crop_height=crop[0],
        crop_width=crop[1],
        crop=plan.crop,
        flip=plan.flip,
        cutout=plan.cutout,
        hole=plan.hole,
        seed=seed,
        steps=[step.name for step in plan.steps],
        numbers=[number for step in plan.steps for number in _numbers(step, depth)],
        places=[step.place for step in plan.steps],
    )


def _numbers(step: Step, depth: int) -> Sequence[float]:
    if step.place >= 0:
        low, high = step.numbers
        return low, high - low
    return step.numbers * depth if len(step.numbers) == 1 else step.numbers
