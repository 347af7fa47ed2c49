"""The queue input: shards -> reader threads -> shuffled blocks -> whole batches on a FIFOQueue.

The order of the records is that of `order.py`. What is shuffled is each record with its number, or the number alone,
see `reading.py`; records that need a parser are parsed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.layout import Layout
from trainer.data.spec import DatasetSpec
from trainer.inputs.batch import (
    RECORD,
    Features,
    Input,
    batch_feature_shapes,
    make_input,
)
from trainer.inputs.caching import Cache
from trainer.inputs.decoders import build_decoders
from trainer.inputs.order import Plan, Start, block_order, find_start, make_plan
from trainer.inputs.reading import Stored, build_parts, counter, make_stored
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf

__all__ = ["build", "make_plan"]


def build(
    plan: Plan,
    spec: DatasetSpec,
    *,
    batch_size: int,
    position: int,
    num_readers: int,
    capacity: int,
    side: Side,
    shard: slice = slice(None),
    layout: Layout | None = None,
    decode_threads: int = 1,
    cache: Cache | None = None,
    operation: Any = None,
) -> Input:
    """Builds the pipeline from `position` (records already consumed) on, with its queue runners.

    Args:
      plan: shards and order.
      spec: of the data set.
      batch_size: of the batches that come out.
      position: records of the stream that earlier steps have consumed.
      num_readers: threads that read.
      capacity: whole batches that the queue holds.
      side: of the preprocessing, which decodes pictures.
      shard: of each batch, that comes out.
      layout: of all records, which are then sliced instead of parsed; None: they differ.
      decode_threads: that decode pictures, where they are encoded.
      cache: of decoded pictures, which are then not decoded again.
      operation: module of `ops.records`, which reads the records of a layout; None: TensorFlow's readers do.
    """
    start, stored = find_start(plan, position), make_stored(spec, layout, side, plan, operation)
    parts = build_parts(plan, start, num_readers, layout, stored)
    variables = _remainder_variables(stored.empty)
    remainder = {name: variable.read_value() for name, variable in variables.items()}
    block = _join(parts, remainder)
    batches = _split_into_batches(block, _shuffle(block, remainder, plan, start), variables, batch_size, shard)
    features = batch_feature_shapes(spec, len(range(batch_size)[shard]), side.batch_shape, side.batch_dtype)
    queue = tf.FIFOQueue(capacity, *zip(*features.values(), strict=True), name="batches")
    start_decoders = None
    if spec.is_encoded and stored.decode:
        decode, before = (cache.decode, cache.fill) if cache else (stored.decode, None)
        names = list(features)
        start_decoders = build_decoders(batches, decode, queue, names, num_threads=decode_threads, before=before)
    else:
        decoded = _decode(batches, stored, features)
        put = queue.enqueue_many([decoded[name] for name in features])
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [put]))
    fill = tf.cast(queue.size(), tf.float32) / capacity
    return make_input(lambda: dict(zip(features, queue.dequeue(name="dequeue"), strict=True)), fill, start_decoders)


def _join(parts: Sequence[Features], remainder: Features) -> Features:
    """Joins the parts of a block, in the order of the open shards, behind the remainder of the block before."""
    return {name: tf.concat([values, *(part[name] for part in parts)], 0) for name, values in remainder.items()}


def _shuffle(block: Features, remainder: Features, plan: Plan, start: Start) -> tf.Tensor:
    """Shuffles a block by its position in the stream, behind the remainder of the one before it: indices, int32 [n].

    What was consumed before the start is dropped.
    """
    num_before = tf.size(remainder[RECORD])
    size = tf.size(block[RECORD]) - num_before
    position = counter("block_position", start.position)
    skip = counter("examples_to_skip", start.skip)
    old_position, old_skip = position.read_value(), skip.read_value()
    order = block_order(plan, size, old_position)[old_skip:]
    with tf.control_dependencies([old_position, old_skip, order]):
        updates = [position.assign_add(tf.cast(size, tf.int64)), skip.assign(0)]
    with tf.control_dependencies(updates):
        return tf.concat([tf.range(num_before), num_before + order], 0)


def _remainder_variables(empty: Mapping[str, tf.Tensor]) -> dict[str, tf.Variable]:
    """Makes the variables of what is left over of a block, less than a batch."""
    return {
        name: tf.get_local_variable(
            f"remainder_of_{name}",
            # With its number of records known, nobody would ask for it again.
            initializer=lambda value=value: tf.placeholder_with_default(value, [None, *value.shape[1:]]),
            shape=None,
            validate_shape=False,
            use_resource=True,
        )
        for name, value in empty.items()
    }


def _split_into_batches(
    block: Features, order: tf.Tensor, remainder: Mapping[str, tf.Variable], batch_size: int, shard: slice
) -> Features:
    """Splits a block into whole batches, of which one shard is taken: [n, shard, ...]; what is left begins the next."""
    whole = tf.size(order) // batch_size * batch_size
    left = {name: tf.gather(values, order[whole:]) for name, values in block.items()}
    with tf.control_dependencies([remainder[name].assign(values) for name, values in left.items()]):
        chosen = tf.reshape(order[:whole], [-1, batch_size])[:, shard]
        chosen.set_shape([None, len(range(batch_size)[shard])])
    return {name: tf.gather(values, chosen) for name, values in block.items()}


def _decode(batches: Features, stored: Stored, features: Mapping[str, tuple[tf.DType, Sequence[int]]]) -> Features:
    """Makes features of batches of what was shuffled, [n, batch, ...]."""
    if stored.decode is None:
        return batches
    found = stored.decode({name: tf.reshape(values, [-1]) for name, values in batches.items()})
    return {name: tf.reshape(values, [-1, *features[name][1]]) for name, values in found.items()}
