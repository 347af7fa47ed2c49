"""The synthetic input: one random batch, the same at every step; what a run costs without its input."""

from __future__ import annotations

import numpy as np

from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.inputs.batch import RECORD, Input, make_input
from trainer.tf1 import tf


def build(spec: DatasetSpec, image_shape: tuple[int, int, int], *, batch_size: int, shard: slice, seed: int) -> Input:
    """Builds a worker's shard of a batch of noise that lives in variables."""
    rng = np.random.default_rng(seed)
    arrays = {
        IMAGE: rng.integers(0, 256, (batch_size, *image_shape), np.uint8),
        LABEL: rng.integers(0, spec.num_classes, batch_size, np.int32),
        RECORD: np.arange(batch_size, dtype=np.int64),
    }
    # Variables, because a constant would be folded into what depends on it.
    stored = {
        name: tf.get_local_variable(f"synthetic_{name}", initializer=array[shard], use_resource=True)
        for name, array in arrays.items()
    }
    return make_input(lambda: {name: variable.read_value() for name, variable in stored.items()})
