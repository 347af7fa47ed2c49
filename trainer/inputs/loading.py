"""A training set in memory, for the inputs that keep it there."""

from __future__ import annotations

import numpy as np

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
            "--input=queue does that: the others keep pictures of one size in memory (put a resize first for these)"
        )
    parts = []
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        serialized = tf.placeholder(tf.string, [None])
        features = parse_examples(serialized, spec, side)
        read = session.make_callable([features[IMAGE], features[LABEL]], feed_list=[serialized])
        for records in record_batches(spec, "train", AT_ONCE):
            parts.append(read(np.array(records, object)))
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)
