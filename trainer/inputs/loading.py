"""A training set in memory, for the inputs that keep it there."""

from __future__ import annotations

import math

import numpy as np
import psutil

from trainer.data.records import load_split, record_batches
from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.errors import UsageError
from trainer.inputs.parsing import parse_examples
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf

AT_ONCE = 256  # records


def load_training(spec: DatasetSpec, side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Reads the training set: images [n, *batch_shape] of batch_dtype, and labels as batches have them.

    What is done to each encoded picture alone is done once.

    Raises:
      UsageError: that is random, and another thing in each epoch.
      DataError: a record is damaged.
    """
    if not spec.is_encoded:
        return load_split(spec, "train")
    if side.is_random_alone:
        raise UsageError(
            f"--preprocess={side.pipeline.text} cuts pictures of several sizes anew in each epoch, and only "
            "--input=queue does that, without --cache=memory: the others keep pictures of one size in memory (put a "
            "resize first for these)"
        )
    _check_memory(spec, side)
    images, labels, done = np.zeros(0), np.zeros(0), 0
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        serialized = tf.placeholder(tf.string, [None])
        features = parse_examples(serialized, spec, side)
        read = session.make_callable([features[IMAGE], features[LABEL]], feed_list=[serialized])
        for records in record_batches(spec, "train", AT_ONCE):
            found = read(np.array(records, object))
            if not done:  # At once, and not in parts that are put together: that would take twice the memory.
                images, labels = (np.empty([spec.num_examples("train"), *part.shape[1:]], part.dtype) for part in found)
            for whole, part in zip((images, labels), found, strict=True):
                whole[done : done + len(part)] = part
            done += len(found[1])
    return images, labels


def _check_memory(spec: DatasetSpec, side: Side) -> None:
    """Refuses what would not fit.

    Raises:
      UsageError: the decoded pictures are larger than the memory that is free.
    """
    # Twice, because TensorFlow's variables get copies.
    size = 2 * spec.num_examples("train") * math.prod(side.batch_shape) * int(side.batch_dtype.size)
    free = psutil.virtual_memory().available
    if size > free:
        shape = "x".join(map(str, side.batch_shape))
        raise UsageError(
            f"{spec.num_examples('train'):,} pictures of {shape} {side.batch_dtype.name} take {size / 2**30:,.1f} GiB "
            f"of memory, and {free / 2**30:,.1f} GiB are free: resize to less, or let --input=queue decode them in "
            "each epoch, without --cache=memory"
        )
