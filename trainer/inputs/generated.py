"""The input of a function of the user's: a thread shuffles what it yields, pass after pass, and queues batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from trainer.data.given.examples import Examples
from trainer.data.given.labels import label_of
from trainer.data.spec import CLASS, IMAGE, LABEL, SEVERAL, DataError, DatasetSpec, Label
from trainer.inputs.batch import RECORD

OBJECT_BYTES = 256  # of Python's objects around an example
T = TypeVar("T")


def batches(
    examples: Examples, spec: DatasetSpec, *, batch_size: int, position: int, seed: int, shuffle_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields one batch after another, without end: each pass is an epoch, in an order of its own.

    Args:
      examples: the function.
      spec: of the data set, as the first pass has found it.
      batch_size: examples of a batch.
      position: examples that earlier steps have consumed; those of its epoch are read again, and passed over.
      seed: of the order.
      shuffle_bytes: of examples that wait to be drawn.

    Raises:
      DataError: a pass gives more or fewer examples than the first, or others.
    """
    epoch, offset = divmod(position, spec.num_examples("train"))
    label_bytes = 4 * (1 if spec.label_kind == CLASS else spec.num_classes)
    waiting = max(1, shuffle_bytes // (spec.image_bytes + label_bytes + OBJECT_BYTES))
    passes = (_pass(examples, spec, number, waiting, seed) for number in itertools.count(epoch))
    stream = itertools.islice(itertools.chain.from_iterable(passes), offset, None)
    while True:
        some = list(itertools.islice(stream, batch_size))
        keys, images, labels = zip(*some, strict=True)
        yield {
            IMAGE: np.stack(images),
            LABEL: np.array(labels, spec.features[LABEL].dtype),
            RECORD: np.array(keys, np.int64),
        }


def _pass(
    examples: Examples, spec: DatasetSpec, epoch: int, waiting: int, seed: int
) -> Iterator[tuple[int, np.ndarray, Label | np.ndarray]]:
    """Yields the examples of an epoch with their RECORD, shuffled."""
    numbered = _numbered(examples, spec, epoch)
    return shuffled(numbered, waiting, np.random.default_rng([seed, epoch]))


def _numbered(
    examples: Examples, spec: DatasetSpec, epoch: int
) -> Iterator[tuple[int, np.ndarray, Label | np.ndarray]]:
    count, wanted = 0, spec.num_examples("train")
    for image, label in examples.read("train", epoch):
        if image.shape != spec.image_shape:
            raise DataError(
                f"--input={examples.reference}: example {count} of epoch {epoch} is {list(image.shape)}, and those "
                f"before it are {list(spec.image_shape)}"
            )
        try:
            found = label_of(label, spec)
        except DataError as error:
            raise DataError(f"--input={examples.reference}: example {count} of epoch {epoch}: {error}") from error
        count += 1
        if count > wanted:
            break
        yield epoch * wanted + count - 1, image, _as_in_batches(found, spec)
    if count != wanted:
        more = " or more" if count > wanted else ""
        raise DataError(
            f"--input={examples.reference} gives {count:,}{more} training examples in epoch {epoch}, and gave "
            f"{wanted:,} when the run began: each pass has to give as many"
        )


def _as_in_batches(label: Label, spec: DatasetSpec) -> Label | np.ndarray:
    if spec.label_kind == CLASS:
        assert isinstance(label, int)
        return label - spec.fields.label_offset
    if spec.label_kind == SEVERAL:
        assert isinstance(label, tuple)
        ones = np.zeros(spec.num_classes, np.float32)
        ones[[int(each) - spec.fields.label_offset for each in label]] = 1
        return ones
    return label


def shuffled(items: Iterable[T], waiting: int, rng: np.random.Generator) -> Iterator[T]:
    """Yields items in another order: each is drawn from so many that wait.

    Where all of them fit, every order is as likely as any other.
    """
    there: list[T] = []
    for item in items:
        if len(there) < waiting:
            there.append(item)
            continue
        place = int(rng.integers(waiting))
        drawn, there[place] = there[place], item
        yield drawn
    for place in rng.permutation(len(there)):
        yield there[place]
