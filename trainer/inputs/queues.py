"""The queue input: shards -> reader threads -> shuffled blocks -> whole batches on a FIFOQueue.

The order of the records is that of `order.py`. Reader threads take turns, shard by shard, so their number and their
speed change nothing. What is shuffled is each record with its number; records that need a parser are parsed
afterwards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trainer.data.layout import Layout
from trainer.data.spec import DatasetSpec
from trainer.inputs.batch import (
    RECORD,
    Features,
    Input,
    batch_feature_shapes,
    make_input,
    parse_examples,
    slice_frames,
)
from trainer.inputs.order import Plan, Start, block_order, find_start, make_plan, shard_at
from trainer.tf1 import tf

READER_CHUNKS = 4  # chunks that a reader thread may be ahead
SERIALIZED = "serialized"

__all__ = ["build", "make_plan"]


class Stored(NamedTuple):
    """How records travel from the readers to the batches."""

    read: Callable[[tf.Tensor], Features]  # what a reader has read -> what is shuffled, each [n, ...]
    decode: Callable[[Features], Features]  # what is shuffled -> features
    empty: Mapping[str, tf.Tensor]  # none of what is shuffled, with types and shapes


def _make_stored(spec: DatasetSpec, layout: Layout | None) -> Stored:
    record = tf.zeros([0], tf.int64)
    if layout is None:
        empty = {SERIALIZED: tf.zeros([0], tf.string), RECORD: record}
        return Stored(
            lambda records: {SERIALIZED: records}, lambda found: parse_examples(found[SERIALIZED], spec), empty
        )
    shapes = batch_feature_shapes(spec, 0)
    sliced = {name: tf.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()}
    # Slicing takes no time, and what is left is smaller.
    return Stored(lambda frames: slice_frames(frames, layout, spec), lambda found: found, sliced)


def build(
    plan: Plan,
    spec: DatasetSpec,
    *,
    batch_size: int,
    position: int,
    num_readers: int,
    capacity: int,
    shard: slice = slice(None),
    layout: Layout | None = None,
) -> Input:
    """Builds the pipeline from `position` (records already consumed) on, with its queue runners.

    Args:
      plan: shards and order.
      spec: of the data set.
      batch_size: of the batches that come out.
      position: records of the stream that earlier steps have consumed.
      num_readers: threads that read.
      capacity: whole batches that the queue holds.
      shard: of each batch, that comes out.
      layout: of all records, which are then sliced instead of parsed; None: they differ.
    """
    start, stored = find_start(plan, position), _make_stored(spec, layout)
    readers = [_build_reader(plan, start, reader, num_readers, layout, stored) for reader in range(num_readers)]
    variables = _remainder_variables(stored.empty)
    remainder = {name: variable.read_value() for name, variable in variables.items()}
    block = _next_block(readers, plan, start, remainder)
    order = _shuffle(block, remainder, plan, start)
    batches = _split_into_batches(block, order, variables, batch_size, shard)
    features = batch_feature_shapes(spec, len(range(batch_size)[shard]))
    decoded = _decode(batches, stored, features)
    types, shapes = zip(*features.values(), strict=True)
    queue = tf.FIFOQueue(capacity, types, shapes, name="batches")
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue_many([decoded[name] for name in features])]))
    fill = tf.cast(queue.size(), tf.float32) / capacity
    return make_input(lambda: dict(zip(features, queue.dequeue(name="dequeue"), strict=True)), fill)


def _build_reader(
    plan: Plan, start: Start, reader: int, num_readers: int, layout: Layout | None, stored: Stored
) -> tf.FIFOQueue:
    """Builds a thread that reads every `num_readers`-th shard into a queue of chunks."""
    records = _read_records(_shard_names(plan, start, reader, num_readers), plan, layout)
    if reader == start.shard % num_readers:
        records = _drop_first(records, start.record)
    chunk = stored.read(records)
    queue = tf.FIFOQueue(
        READER_CHUNKS, [tensor.dtype for tensor in chunk.values()], names=list(chunk), name=f"reader_{reader}"
    )
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(dict(chunk))]))
    return queue


def _counter(name: str, value: int) -> tf.Variable:
    return tf.get_local_variable(name, initializer=np.int64(value), use_resource=True)


def _shard_names(plan: Plan, start: Start, reader: int, num_readers: int) -> tf.FIFOQueue:
    """Puts the names of every `num_readers`-th shard on a queue, without end."""
    first = start.shard + (reader - start.shard) % num_readers
    number = _counter(f"reader_{reader}_shard", first - num_readers).assign_add(num_readers)
    name = tf.gather(tf.constant([os.fsencode(path) for path in plan.paths]), shard_at(plan, number))
    return tf.train.string_input_producer([name], shuffle=False, capacity=2, name=f"reader_{reader}_files")


def _read_records(names: tf.FIFOQueue, plan: Plan, layout: Layout | None) -> tf.Tensor:
    """Reads the next records of one shard, at most a chunk of them: string [n], or frames, uint8 [n, frame_bytes]."""
    if layout is None:
        return tf.TFRecordReader().read_up_to(names, plan.chunk)[1]
    # TFRecordReader makes two system calls a record; here several are one string, for fewer allocations.
    together = math.gcd(plan.chunk, *(int(count) for count in plan.counts))
    reader = tf.FixedLengthRecordReader(together * layout.frame_bytes)
    _, strings = reader.read_up_to(names, plan.chunk // together)
    return tf.reshape(tf.decode_raw(strings, tf.uint8), [-1, layout.frame_bytes])


def _drop_first(records: tf.Tensor, count: int) -> tf.Tensor:
    """Drops the first `count` records of the stream."""
    before = _counter("records_to_drop", count)
    dropped = tf.minimum(before, tf.shape(records, out_type=tf.int64)[0])
    with tf.control_dependencies([before.assign_sub(dropped)]):
        return records[dropped:]


def _next_block(readers: list[tf.FIFOQueue], plan: Plan, start: Start, remainder: Features) -> Features:
    """Takes chunks from the readers in the order of their shards until the block is full or the epoch ends.

    The remainder of the block before it comes first.
    """
    counts, first_records = tf.constant(plan.counts), tf.constant(plan.first_records)
    shard = _counter("next_shard", start.shard)
    seen = _counter("next_record", start.record)

    def unfinished(number: tf.Tensor, record: tf.Tensor, size: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        at_edge = tf.equal(number % len(plan.paths), 0) & tf.equal(record, 0)
        return tf.equal(size, 0) | ((size < plan.block) & ~at_edge)

    def take(
        number: tf.Tensor, record: tf.Tensor, size: tf.Tensor, chunks: tf.Tensor, *arrays: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        turn = tf.cast(number % len(readers), tf.int32)
        chunk = (tf.QueueBase.from_list(turn, readers) if len(readers) > 1 else readers[0]).dequeue()
        of_shard = shard_at(plan, number)
        total = tf.gather(counts, of_shard)
        length = tf.shape(next(iter(chunk.values())), out_type=tf.int64)[0]
        done = tf.equal(record + length, total)
        # Chunks are whole up to a shard's last one; those before the start come empty.
        legal = done | tf.equal(length, 0) | (tf.equal(length, plan.chunk) & (record + length < total))
        message = "a shard holds another number of records than its manifest says"
        with tf.control_dependencies([tf.Assert(legal, [message, number, record, length, total])]):
            length = tf.identity(length)
        epoch = number // len(plan.paths)
        records = epoch * plan.num_records + tf.gather(first_records, of_shard) + record + tf.range(length)
        values = {**chunk, RECORD: records}
        return (
            number + tf.cast(done, tf.int64),
            tf.where(done, tf.zeros_like(record), record + length),
            size + length,
            chunks + 1,
            *(array.write(chunks, values[name]) for name, array in zip(remainder, arrays, strict=True)),
        )

    arrays = [_chunk_array(values) for values in remainder.values()]
    begin = (shard.read_value(), seen.read_value(), tf.zeros([], tf.int64), 1, *arrays)
    # One iteration at a time: the chunks must leave their readers in order.
    number, record, _, _, *arrays = tf.while_loop(unfinished, take, begin, parallel_iterations=1)
    with tf.control_dependencies([shard.assign(number), seen.assign(record)]):
        return {name: array.concat() for name, array in zip(remainder, arrays, strict=True)}


def _chunk_array(first: tf.Tensor) -> tf.TensorArray:
    array = tf.TensorArray(first.dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None, *first.shape[1:]])
    return array.write(0, first)


def _shuffle(block: Features, remainder: Features, plan: Plan, start: Start) -> tf.Tensor:
    """Shuffles a block by its position in the stream, behind the remainder of the one before it: indices, int32 [n].

    What was consumed before the start is dropped.
    """
    num_before = tf.size(remainder[RECORD])
    size = tf.size(block[RECORD]) - num_before
    position = _counter("block_position", start.position)
    skip = _counter("examples_to_skip", start.skip)
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
    return {name: tf.gather(values, chosen) for name, values in block.items()}


def _decode(batches: Features, stored: Stored, features: Mapping[str, tuple[tf.DType, Sequence[int]]]) -> Features:
    """Makes features of batches of what was shuffled, [n, batch, ...]."""
    if SERIALIZED not in batches:
        return batches
    found = stored.decode({SERIALIZED: tf.reshape(batches[SERIALIZED], [-1])})
    reshaped = {name: tf.reshape(values, [-1, *features[name][1]]) for name, values in found.items()}
    return {**reshaped, RECORD: batches[RECORD]}
