"""The synthetic input: one random batch, the same at every step; what a run costs without its input."""

from __future__ import annotations

import numpy as np

from trainer.data.spec import CLASS, IMAGE, LABEL, SEVERAL, DatasetSpec
from trainer.inputs.batch import RECORD, Input, make_input
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf


def build(spec: DatasetSpec, side: Side, *, batch_size: int, shard: slice, seed: int) -> Input:
    """Builds a worker's shard of a batch of noise that lives in variables."""
    rng = np.random.default_rng(seed)
    arrays = {
        IMAGE: rng.integers(0, 256, (batch_size, *side.batch_shape), np.uint8).astype(side.batch_dtype.as_numpy_dtype),
        LABEL: _labels(spec, batch_size, rng),
        RECORD: np.arange(batch_size, dtype=np.int64),
    }
    # Variables, because a constant would be folded into what depends on it.
    stored = {
        name: tf.get_local_variable(f"synthetic_{name}", initializer=array[shard], use_resource=True)
        for name, array in arrays.items()
    }
    return make_input(lambda: {name: variable.read_value() for name, variable in stored.items()})


def _labels(spec: DatasetSpec, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    if spec.label_kind == CLASS:
        return rng.integers(0, spec.num_classes, batch_size, np.int32)
    if spec.label_kind == SEVERAL:
        return rng.integers(0, 2, (batch_size, spec.num_classes)).astype(np.float32)
    return rng.standard_normal((batch_size, spec.num_classes), np.float32)
