"""A training set in memory, for the inputs that keep it there."""

from __future__ import annotations

import itertools
import math

import numpy as np
import psutil

from trainer.data.given.examples import Examples
from trainer.data.records import load_split, read_records, record_batches
from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.errors import UsageError
from trainer.inputs.parsing import parse_examples
from trainer.preprocessing.preprocessing import Preprocessing, Side
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


def load_sample(spec: DatasetSpec, preprocessing: Preprocessing, examples: Examples | None, count: int) -> np.ndarray:
    """Reads some pictures of the training set as a model sees them: float32 [n, height, width, depth].

    Args:
      spec: of the data set.
      preprocessing: of which nothing random is done.
      examples: the function that gives the training set; None: it lies in shards, of each of which some are taken.
      count: most pictures.

    Raises:
      DataError: a record is damaged.
    """
    side = preprocessing.elsewhere
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        if examples:
            value = np.stack([image for image, _ in itertools.islice(examples.read("train"), count)])
            stored = pictures = tf.placeholder(tf.uint8, [None, *spec.image_shape])
        else:
            paths = [spec.path_of(shard) for shard in spec.splits["train"]]
            some = [itertools.islice(read_records(path, spec), math.ceil(count / len(paths))) for path in paths]
            value = np.array(list(itertools.chain(*some))[:count], object)
            stored = tf.placeholder(tf.string, [None])
            pictures = parse_examples(stored, spec, side)[IMAGE]
        seen = side.in_batches(pictures)
        floats = tf.cast(seen, tf.float32) * (1 / 255 if seen.dtype == tf.uint8 else 1)
        sample: np.ndarray = session.run(floats, {stored: value})
    return sample


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
