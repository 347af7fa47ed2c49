"""Pictures of a data set as they are stored, and as a model sees them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from trainer.data.records import parse_boxes, read_examples, read_records
from trainer.data.spec import CLASS, NUMBERS, SEVERAL, DatasetSpec
from trainer.preprocessing.preprocessing import Preprocessing
from trainer.tf1 import tf

DECODED = 10  # times as large as its JPEG is a picture, about
TOGETHER = 32  # pictures of a batch, in which neighbours may be mixed
LINE = 300  # pixels of a picture for each pixel of a line, and one more
COUNTED, COUNTED_BYTES = 1000, 128 << 20  # pictures whose pixels are counted, and what they take at most


class Stored(NamedTuple):
    """A picture of a split."""

    number: int  # of the record, in the order of the manifest
    image: np.ndarray  # uint8 [height, width, depth]
    label: int | np.ndarray  # a class; float32 [width] of several classes, or of numbers
    boxes: np.ndarray  # float32 [objects, 4], as `parse_boxes`


class Views(NamedTuple):
    """What a model sees of pictures: uint8 or float32, [height, width, depth] each."""

    evaluated: list[np.ndarray]
    trained: list[list[np.ndarray]]  # in one epoch after the other


def num_counted(spec: DatasetSpec, preprocessing: Preprocessing) -> int:
    """Returns of how many pictures the pixels are counted."""
    stored = DECODED * spec.bytes_in_memory if spec.is_encoded else spec.image_bytes
    seen = math.prod(preprocessing.shape) * int(preprocessing.dtype.size)
    return max(1, min(COUNTED, COUNTED_BYTES // max(stored, seen)))


def choose_pictures(spec: DatasetSpec, split: str, count: int) -> list[Stored]:
    """Takes pictures from the beginnings of all shards in turn, so that sorted shards are all seen.

    Raises:
      DataError: a shard is damaged.
    """
    firsts = itertools.accumulate((shard.num_examples for shard in spec.splits[split]), initial=0)
    turns = [_read(spec, split, place, first) for place, first in enumerate(firsts) if place < len(spec.splits[split])]
    chosen: list[Stored] = []
    while turns and len(chosen) < count:
        found = next(turns[0], None)
        turns = [*turns[1:], turns[0]] if found else turns[1:]
        chosen += [found] if found else []
    return chosen


def _read(spec: DatasetSpec, split: str, place: int, first: int) -> Iterator[Stored]:
    path = spec.path_of(spec.splits[split][place])
    both = zip(read_examples(path, spec), read_records(path, spec), strict=True)
    for number, ((image, label), record) in enumerate(both, first):
        yield Stored(number, image, label, parse_boxes(record, spec))


def name_label(label: int | np.ndarray, spec: DatasetSpec) -> str:
    """Says the class of an example, its classes, or its numbers."""
    if spec.label_kind == CLASS:
        return spec.class_names[int(label)]
    pairs = list(zip(spec.class_names, np.asarray(label), strict=True))
    if spec.label_kind == SEVERAL:
        return "; ".join(name for name, there in pairs if there) or "none"
    return ", ".join(f"{name} {number:.4g}" for name, number in pairs)


def count_labels(pictures: Sequence[Stored], spec: DatasetSpec) -> str:
    """Says how many pictures there are of each class, or the means of the numbers."""
    labels = np.array([picture.label for picture in pictures])
    if spec.label_kind == NUMBERS:
        named = zip(spec.class_names, labels.mean(0), strict=True)
        return "targets, means: " + ", ".join(f"{name} {mean:.4g}" for name, mean in named)
    counts = np.bincount(labels, minlength=spec.num_classes) if spec.label_kind == CLASS else labels.sum(0)
    return "classes: " + ", ".join(f"{name} {int(n):,}" for name, n in zip(spec.class_names, counts, strict=True))


def draw_boxes(pictures: Sequence[Stored]) -> list[np.ndarray]:
    """Draws the boxes of each picture's objects (`tf.image.draw_bounding_boxes`): uint8, [height, width, 1 or 3]."""
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        image, boxes = tf.placeholder(tf.float32, [1, None, None, 3]), tf.placeholder(tf.float32, [1, None, 4])
        yellow = [[255.0, 255.0, 0.0, 255.0]]
        framed = tf.cast(tf.image.draw_bounding_boxes(image, boxes, colors=yellow), tf.uint8)
        draw = session.make_callable(framed, feed_list=[image, boxes])

        def drawn(picture: Stored) -> np.ndarray:
            if not len(picture.boxes) or picture.image.shape[2] not in (1, 3):
                return picture.image
            height, width = picture.image.shape[:2]
            colours = np.broadcast_to(picture.image, (height, width, 3)).astype(np.float32)
            # The operation draws lines of one pixel, which nobody would see of a large picture.
            steps = np.arange(1 + max(height, width) // LINE)[:, np.newaxis, np.newaxis]
            inward = np.array([1, 1, -1, -1]) / [height, width, height, width]
            lines = (picture.boxes + steps * inward).reshape(1, -1, 4)
            return np.asarray(draw(colours[np.newaxis], lines.astype(np.float32))[0])

        return [drawn(picture) for picture in pictures]


def see(preprocessing: Preprocessing, pictures: list[Stored], *, epochs: int, num_records: int) -> Views:
    """Preprocesses pictures as an evaluation does, and as a training does in its first epochs.

    Args:
      preprocessing: of the run.
      pictures: of the training set.
      epochs: how many.
      num_records: of the training set.
    """
    training, elsewhere = preprocessing.training, preprocessing.elsewhere
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        image, key = tf.placeholder(tf.uint8, [1, *training.stored_shape]), tf.placeholder(tf.int64, [1])
        boxes = tf.placeholder(tf.float32, [1, None, 4])
        evaluated = session.make_callable(elsewhere.in_batches(elsewhere.alone(image))[0], feed_list=[image])
        alone = session.make_callable(training.alone(image, key, boxes)[0], feed_list=[image, key, boxes])
        batch, keys = (
            tf.placeholder(training.batch_dtype, [None, *training.batch_shape]),
            tf.placeholder(tf.int64, [None]),
        )
        trained = session.make_callable(training.in_batches(batch, keys), feed_list=[batch, keys])
        seen = [evaluated(picture.image[np.newaxis]) for picture in pictures]

        def see_epoch(epoch: int) -> list[np.ndarray]:
            found: list[np.ndarray] = []
            for begin in range(0, len(pictures), TOGETHER):
                some = pictures[begin : begin + TOGETHER]
                numbers = [epoch * num_records + each.number for each in some]
                images = [
                    alone(each.image[np.newaxis], [number], each.boxes[np.newaxis])
                    for each, number in zip(some, numbers, strict=True)
                ]
                found += list(trained(np.stack(images), numbers))
            return found

        epochs_seen = [see_epoch(epoch) for epoch in range(epochs)]
    return Views(seen, epochs_seen)


def describe_pixels(name: str, images: Sequence[np.ndarray]) -> str:
    """Says range, mean and deviation of the pixels, [height, width, depth] each, by channel."""
    values = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images]).astype(np.float64)

    def by_channel(numbers: np.ndarray) -> str:
        return " ".join(f"{number:.4g}" for number in numbers)

    shapes = sorted({image.shape for image in images})
    shape = "x".join(map(str, shapes[0])) if len(shapes) == 1 else f"of {len(shapes):,} sizes"
    return (
        f"{name}: {images[0].dtype} {shape}, {values.min():.4g} to {values.max():.4g}, mean "
        f"{by_channel(values.mean(0))}, deviation {by_channel(values.std(0))}"
    )
