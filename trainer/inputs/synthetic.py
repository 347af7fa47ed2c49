"""The synthetic input: one random batch, the same at every step; what a run costs without its input."""

from __future__ import annotations

import numpy as np

from trainer.inputs.batch import Batch, Input, make_input
from trainer.tf1 import tf


def build(*, image_shape: tuple[int, int, int], num_classes: int, batch_size: int, part: slice, seed: int) -> Input:
    """Builds a part of a batch of noise that lives in two variables."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch_size, *image_shape), np.uint8)
    labels = rng.integers(0, num_classes, batch_size, np.int32)
    # Variables, because a constant would be folded into what depends on it.
    stored = [
        tf.get_local_variable(f"synthetic_{name}", initializer=array[part], use_resource=True)
        for name, array in (("images", images), ("labels", labels))
    ]
    return make_input(lambda: Batch(*(variable.read_value() for variable in stored)))
