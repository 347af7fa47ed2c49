"""Exact evaluation: every example of a split once, whatever the batch size."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from trainer.data.manifest import DataError, Manifest
from trainer.data.records import explain_input_error, record_batches
from trainer.errors import NotFiniteError
from trainer.graph import EvalGraph
from trainer.tf1 import tf

BATCH_SIZE = 500


class EvalResult(NamedTuple):
    num_examples: int
    accuracy: float
    loss: float  # mean cross entropy


def evaluate(
    session: tf.Session,
    *,
    graph: EvalGraph,
    folder: Path,
    manifest: Manifest,
    split: str,
    reading: Callable[[], AbstractContextManager[None]],
    after_batch: Callable[[], None],
    batch_size: int = BATCH_SIZE,
) -> EvalResult:
    """Evaluates the session's weights on one split.

    Args:
      session: with weights.
      graph: of the evaluation.
      folder: of the shards.
      manifest: of the shards.
      split: train, validation or test.
      reading: is entered while a batch is read; what it raises ends the evaluation.
      after_batch: is called after each batch.
      batch_size: of the evaluation; the result does not depend on it.

    Raises:
      NotFiniteError: the loss is NaN or infinite.
      DataError: a record of the split is damaged or wrong.
    """
    run = session.make_callable(list(graph.sums), feed_list=[graph.serialized])
    count = correct = 0
    loss = 0.0

    def add(records: list[bytes]) -> None:
        nonlocal count, correct, loss
        count_v, correct_v, loss_v = run(records)
        count, correct, loss = count + int(count_v), correct + int(correct_v), loss + float(loss_v)
        after_batch()

    for_each_batch(add, folder=folder, manifest=manifest, split=split, reading=reading, batch_size=batch_size)
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss on the {split} set is {loss}; a lower --learning_rate or --clip may help")
    return EvalResult(count, correct / count, loss / count)


def for_each_batch(
    take: Callable[[list[bytes]], None],
    *,
    folder: Path,
    manifest: Manifest,
    split: str,
    reading: Callable[[], AbstractContextManager[None]],
    batch_size: int,
) -> None:
    """Gives `take` every record of a split once.

    Args:
      take: gets lists of serialized records.
      folder: of the shards.
      manifest: of the shards.
      split: train, validation or test.
      reading: is entered while a batch is read; what it raises ends the loop.
      batch_size: of the lists; the last may be shorter.

    Raises:
      DataError: a record of the split is damaged or wrong.
    """
    batches = record_batches(folder, manifest, split, batch_size)
    try:
        while True:
            with reading():
                records = next(batches, None)
            if records is None:
                return
            take(records)
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:  # A message may quote the record.
        raise explain_input_error(folder, manifest, split) or DataError(f"{folder}, {split}: {error}") from error
