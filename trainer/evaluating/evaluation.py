"""Exact evaluation: every example of a split once, whatever the batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from trainer.data.records import explain_input_error, record_batches
from trainer.data.spec import IMAGE, DataError, DatasetSpec
from trainer.errors import NotFiniteError, UsageError
from trainer.graph.evaluation import EvalGraph
from trainer.learning.metrics import Metrics, add_sums
from trainer.tf1 import tf

AT_ONCE, AT_ONCE_BYTES = 500, 24 << 20  # pictures of a batch of an evaluation, and what they take as float32, at most
LOSS = "loss"  # among the metrics of every task

# What a record may fail with, or a file that it names; a message may quote the record.
READING_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    UnicodeDecodeError,
)


def evaluate(
    session: tf.Session,
    *,
    graph: EvalGraph,
    metrics: Metrics,
    spec: DatasetSpec,
    split: str,
    reading: Callable[[], AbstractContextManager[None]],
    after_batch: Callable[[int], None] = lambda count: None,
    observe: Callable[..., None] | None = None,
    batch_size: int = 0,
) -> dict[str, float]:
    """Evaluates the session's weights on one split; returns its metrics by name.

    Args:
      session: with weights.
      graph: of the evaluation.
      metrics: of the task.
      spec: of the data set.
      split: train, validation or test.
      reading: is entered while a batch is read; what it raises ends the evaluation.
      after_batch: is told after each batch how many examples it had.
      observe: gets logits and features of each batch.
      batch_size: of the evaluation; 0: as `images_at_once` chooses. The result does not depend on it.

    Raises:
      NotFiniteError: the loss is NaN or infinite.
      DataError: a record of the split is damaged or wrong.
    """
    fetches: dict[str, Any] = {"sums": dict(graph.sums)}
    if observe:
        fetches |= {"logits": graph.logits, "features": dict(graph.features)}
    run = session.make_callable(fetches, feed_list=[graph.serialized])
    totals: dict[str, Any] = {}
    size = batch_size or images_at_once(graph.features[IMAGE].shape.as_list()[1:])
    try:
        for records in _read(record_batches(spec, split, size), reading):
            found = run(records)
            totals = add_sums(totals, found["sums"])
            if observe:
                observe(found["logits"], found["features"])
            after_batch(len(records))
    except READING_ERRORS as error:
        raise explain_input_error(spec, split) or DataError(f"{spec.data_dir}, {split}: {error}") from error
    return _finish(metrics, totals, split)


def images_at_once(shape: Sequence[int]) -> int:
    """Chooses how many pictures of a shape a network takes at once: what it computes of them is many times as large."""
    return max(1, min(AT_ONCE, AT_ONCE_BYTES // (4 * math.prod(shape))))


def _finish(metrics: Metrics, totals: Mapping[str, Any], split: str) -> dict[str, float]:
    """Makes numbers of the sums over a split.

    Raises:
      NotFiniteError: the loss is NaN or infinite.
      UsageError: another metric is.
    """
    result = metrics.finish(totals)
    if not math.isfinite(result[LOSS]):
        raise NotFiniteError(
            f"the loss on the {split} set is {result[LOSS]}; a lower --learning_rate or --clip may help"
        )
    odd = sorted(name for name, value in result.items() if not math.isfinite(value))
    if odd:
        raise UsageError(f"the metric {odd[0]} is {result[odd[0]]} on the {split} set: wanted a number of each example")
    return result


def _read(batches: Iterator[list[bytes]], reading: Callable[[], AbstractContextManager[None]]) -> Iterator[list[bytes]]:
    while True:
        with reading():
            records = next(batches, None)
        if records is None:
            return
        yield records
