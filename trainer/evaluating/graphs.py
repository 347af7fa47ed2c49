"""How well a frozen graph or a SavedModel does on a data set, whoever has trained it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from trainer.data.records import read_examples, shards_of
from trainer.data.spec import CLASS, DatasetSpec
from trainer.errors import UsageError
from trainer.evaluating.predicting import Predictor


class GraphScores(NamedTuple):
    """What an evaluation has come to."""

    accuracy: float  # among all classes of the graph
    accuracy_of_classes: float  # among those that the data have
    top_k_accuracy: float  # among all
    num_examples: int


def evaluate_graph(
    predictor: Predictor,
    spec: DatasetSpec,
    split: str,
    *,
    top_k: int,
    batch_size: int,
    reading: Callable[[], AbstractContextManager[None]],
    after_batch: Callable[[int], None] = lambda count: None,
) -> GraphScores:
    """Judges a graph by every example of a split, once.

    Args:
      predictor: the graph.
      spec: of the data set, whose classes are found among the graph's by their names.
      split: train, validation or test.
      top_k: an image also counts where its label is among so many of the largest outputs.
      batch_size: images at a time; 0: as many as suit the graph. The result does not depend on it.
      reading: is entered while a batch is read; what it raises ends the evaluation.
      after_batch: is told after each batch how many examples it had.

    Raises:
      UsageError: the data and the graph do not fit.
      DataError: a record is damaged.
    """
    if spec.label_kind != CLASS or predictor.label_kind != CLASS:
        raise UsageError(f"{spec.data_dir} or the graph has no single class for each picture, which --model wants")
    places = np.array(match_classes(spec.class_names, predictor.class_names))
    if any(wanted not in (None, size) for wanted, size in zip(predictor.image_shape, spec.stored_shape, strict=True)):
        raise UsageError(f"the graph takes pictures {predictor.image_shape}, and the data are {spec.stored_shape}")
    right = right_of_classes = in_top_k = count = 0
    examples = _read(spec, split)
    while True:
        with reading():
            some = list(itertools.islice(examples, batch_size or predictor.at_once))
        if not some:
            break
        outputs = predictor.predict([image for image, _ in some])
        if not np.isfinite(outputs).all():
            raise UsageError("the graph gives numbers that are not finite")
        labels = np.array([label for _, label in some])
        own = outputs[np.arange(len(some)), places[labels]]
        right += int((outputs.argmax(1) == places[labels]).sum())
        right_of_classes += int((outputs[:, places].argmax(1) == labels).sum())
        in_top_k += int(((outputs > own[:, np.newaxis]).sum(1) < top_k).sum())
        count += len(some)
        after_batch(len(some))
    return GraphScores(right / count, right_of_classes / count, in_top_k / count, count)


def _read(spec: DatasetSpec, split: str) -> Iterator[tuple[np.ndarray, int]]:
    for shard in shards_of(spec, split):
        for image, label in read_examples(spec.path_of(shard), spec):
            yield image, int(label)


def match_classes(wanted: Sequence[str], there: Sequence[str]) -> list[int]:
    """Finds classes among those of a graph: by name, or by one of several names, as in `tench, Tinca tinca`.

    Raises:
      UsageError: one is not there, or several are.
    """
    numbered = [str(number) for number in range(len(there))]
    if list(there) == numbered and len(wanted) == len(there):
        return list(range(len(there)))  # Nothing names them: they are in the same order.
    found: dict[str, list[int]] = {}
    for number, text in enumerate(there):
        for name in {text, *(part.strip() for part in text.split(","))}:
            found.setdefault(name.casefold(), []).append(number)
    odd = [name for name in wanted if len(found.get(name.casefold(), [])) != 1]
    if odd:
        named = list(there) != numbered
        how = "--labels=FILE names the graph's, one a line" if not named else "rename them in --labels=FILE"
        raise UsageError(
            f"{len(odd)} of the {len(wanted)} classes of the data are not, or not once, among the {len(there)} of the "
            f"graph: {', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}; {how}"
        )
    return [found[name.casefold()][0] for name in wanted]
