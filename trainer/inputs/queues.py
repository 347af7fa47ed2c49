"""The queue input: shards -> reader threads -> shuffled blocks -> whole batches on a FIFOQueue.

The order of the records is that of `order.py`. Each reader thread reads the same open shards of every block, so the
number of the threads and their speed change nothing. What is shuffled is each record with its number; records that need
a parser are parsed afterwards.
"""

from __future__ import annotations

import itertools
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
    slice_frames,
)
from trainer.inputs.caching import Cache
from trainer.inputs.decoders import build_decoders
from trainer.inputs.order import Plan, Slices, Start, block_order, find_start, make_plan, slices_of
from trainer.inputs.parsing import parse_examples
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf

SKIPPED_AT_ONCE = 256  # records, where a run goes on in the middle of a shard
NO_FILE = "a shard ends before its manifest says"  # in the place of a path
SERIALIZED = "serialized"

__all__ = ["build", "make_plan"]


class Stored(NamedTuple):
    """How records travel from the readers to the batches."""

    read: Callable[[tf.Tensor], Features]  # what a reader has read -> what is shuffled, each [n, ...]
    decode: Callable[[Features], Features] | None  # what is shuffled -> features; None: it is them already
    empty: Mapping[str, tf.Tensor]  # none of what is shuffled, with types and shapes


class Read(NamedTuple):
    """What a reader has read."""

    keys: tf.Tensor  # string [n], the path of its file and where in it each lies
    records: tf.Tensor  # string [n]


def _make_stored(spec: DatasetSpec, layout: Layout | None, side: Side) -> Stored:
    record = tf.zeros([0], tf.int64)
    if layout is None:
        empty = {SERIALIZED: tf.zeros([0], tf.string), RECORD: record}

        def decode(found: Features) -> Features:
            return {**parse_examples(found[SERIALIZED], spec, side, found[RECORD]), RECORD: found[RECORD]}

        return Stored(lambda records: {SERIALIZED: records}, decode, empty)
    shapes = batch_feature_shapes(spec, 0, spec.image_shape)
    sliced = {name: tf.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()}
    # Slicing takes no time, and what is left is smaller.
    return Stored(lambda frames: slice_frames(frames, layout, spec), None, sliced)


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
    """
    start, stored = find_start(plan, position), _make_stored(spec, layout, side)
    readers = _build_readers(plan, start, num_readers, layout, stored)
    variables = _remainder_variables(stored.empty)
    remainder = {name: variable.read_value() for name, variable in variables.items()}
    block = _next_block(readers, remainder)
    order = _shuffle(block, remainder, plan, start)
    batches = _split_into_batches(block, order, variables, batch_size, shard)
    features = batch_feature_shapes(spec, len(range(batch_size)[shard]), side.batch_shape, side.batch_dtype)
    types, shapes = zip(*features.values(), strict=True)
    queue = tf.FIFOQueue(capacity, types, shapes, name="batches")
    start_decoders = None
    if spec.is_encoded and stored.decode:
        decode, fill_cache = (cache.decode, cache.fill) if cache else (stored.decode, None)
        names = list(features)
        start_decoders = build_decoders(batches, decode, queue, names, num_threads=decode_threads, before=fill_cache)
    else:
        decoded = _decode(batches, stored, features)
        put = queue.enqueue_many([decoded[name] for name in features])
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [put]))
    fill = tf.cast(queue.size(), tf.float32) / capacity
    return make_input(lambda: dict(zip(features, queue.dequeue(name="dequeue"), strict=True)), fill, start_decoders)


def _build_readers(
    plan: Plan, start: Start, num_readers: int, layout: Layout | None, stored: Stored
) -> list[tf.FIFOQueue]:
    """Builds the threads that read, each its part of the open shards."""
    count = min(num_readers, plan.open_shards)
    edges = [reader * plan.open_shards // count for reader in range(count + 1)]
    return [
        _build_reader(plan, start, reader, range(*places), layout, stored)
        for reader, places in enumerate(itertools.pairwise(edges))
    ]


def _build_reader(
    plan: Plan, start: Start, reader: int, places: range, layout: Layout | None, stored: Stored
) -> tf.FIFOQueue:
    """Builds a thread that reads its part of each block, of the open shards in `places`, into a queue."""
    epoch, block = _counter(f"reader_{reader}_epoch", start.epoch), _counter(f"reader_{reader}_block", start.block)
    open_group = _counter(f"reader_{reader}_group", -1)
    old_epoch, old_block = epoch.read_value(), block.read_value()
    slices = slices_of(plan, old_epoch, old_block)
    opens = tf.not_equal(slices.group, open_group.read_value())
    mine = slices._replace(
        **{name: getattr(slices, name)[places.start : places.stop] for name in ("shard", "begin", "count")}
    )
    records = _read_slices(plan, mine, opens, len(places), layout)
    base = old_epoch * plan.num_records + tf.gather(tf.constant(np.append(plan.first_records, 0)), mine.shard)
    numbers = tf.ragged.range(base + mine.begin, base + mine.begin + mine.count).flat_values
    with tf.control_dependencies([records, numbers]):
        updates = [
            epoch.assign(old_epoch + tf.cast(slices.is_last, tf.int64)),
            block.assign(tf.where(slices.is_last, tf.zeros_like(old_block), old_block + 1)),
            open_group.assign(slices.group),
        ]
    with tf.control_dependencies(updates):
        part = {**stored.read(tf.identity(records)), RECORD: tf.identity(numbers)}
    queue = tf.FIFOQueue(1, [tensor.dtype for tensor in part.values()], names=list(part), name=f"reader_{reader}")
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(part)]))
    return queue


def _counter(name: str, value: int) -> tf.Variable:
    return tf.get_local_variable(name, initializer=np.int64(value), use_resource=True)


def _read_slices(plan: Plan, slices: Slices, opens: tf.Tensor, count: int, layout: Layout | None) -> tf.Tensor:
    """Reads what a block takes of some open shards: string [n], or frames, uint8 [n, frame_bytes].

    Few operations a shard, because the graph has them for each: what can be done for all of them at once is.

    Args:
      plan: shards and order.
      slices: of the block.
      opens: bool [], are the shards opened now; what lies before the slices is then skipped.
      count: of the shards.
      layout: of all records.
    """
    unit = 1 if layout is None else plan.unit
    files = [tf.FIFOQueue(2, [tf.string], [[]], name="open_file") for _ in range(count)]
    readers = [_make_reader(plan, layout) for _ in range(count)]
    paths = tf.gather(tf.constant([*map(os.fsencode, plan.paths), b""]), slices.shard)

    def read(numbers: tf.Tensor) -> list[Read]:
        each = zip(readers, files, tf.unstack(numbers // unit, count), strict=True)
        return [Read(*reader.read_up_to(names, number)) for reader, names, number in each]

    with tf.control_dependencies(_open(paths, files, opens)):
        before = tf.where(opens, slices.begin, tf.zeros_like(slices.begin))
        skipped = _skip(read, before, plan.unit * max(1, SKIPPED_AT_ONCE // plan.unit))
    with tf.control_dependencies([skipped]):
        found = read(slices.count)
    # The key of a record is the path of its file and where in it the record lies.
    starts = tf.strings.join([paths, ":0"])
    firsts = tf.stack(
        [tf.concat([each.keys, [start]], 0)[0] for each, start in zip(found, tf.unstack(starts, count), strict=True)]
    )
    sizes = tf.stack([tf.size(each.keys, out_type=tf.int64) for each in found]) * unit
    at_start = tf.equal(slices.begin, 0) | tf.equal(slices.count, 0)
    legal = tf.equal(sizes, slices.count) & tf.equal(tf.equal(firsts, starts), at_start)
    wrong = tf.argmin(tf.cast(legal, tf.int32))
    message = "a shard holds another number of records than its manifest says"
    told = [message, paths[wrong], slices.begin[wrong], sizes[wrong], slices.count[wrong]]
    with tf.control_dependencies([tf.Assert(tf.reduce_all(legal), told)]):
        records = tf.concat([each.records for each in found], 0)
    return records if layout is None else tf.reshape(tf.decode_raw(records, tf.uint8), [-1, layout.frame_bytes])


def _open(paths: tf.Tensor, files: Sequence[tf.FIFOQueue], opens: tf.Tensor) -> list[tf.Operation]:
    """Lets the readers go on with other files, where they are opened now.

    Behind each file comes a name that is an error: without it a reader of a file that is too short would wait.
    """
    opened = []
    for path, names in zip(tf.unstack(paths, len(files)), files, strict=True):
        old = names.dequeue_many(tf.where(opens, names.size(), 0))
        with tf.control_dependencies([old]):
            opened.append(names.enqueue_many([tf.stack([path, NO_FILE])[: tf.where(opens, 2, 0)]]))
    return opened


def _make_reader(plan: Plan, layout: Layout | None) -> tf.ReaderBase:
    if plan.record_bytes:
        return tf.FixedLengthRecordReader(plan.record_bytes)
    if layout is None:
        kinds = tf.io.TFRecordCompressionType
        options = {"": kinds.NONE, "GZIP": kinds.GZIP, "ZLIB": kinds.ZLIB}[plan.compression]
        return tf.TFRecordReader(options=tf.python_io.TFRecordOptions(options))
    # TFRecordReader makes two system calls a record; here a unit is one string, for fewer allocations too.
    return tf.FixedLengthRecordReader(plan.unit * layout.frame_bytes)


def _skip(read: Callable[[tf.Tensor], list[Read]], counts: tf.Tensor, at_once: int) -> tf.Tensor:
    """Reads so many records of each shard and drops them, `at_once` of each at a time."""

    def body(left: tf.Tensor) -> tf.Tensor:
        sizes = tf.minimum(left, np.int64(at_once))
        with tf.control_dependencies([each.records for each in read(sizes)]):
            return left - sizes

    return tf.while_loop(lambda left: tf.reduce_any(left > 0), body, [counts], parallel_iterations=1)


def _next_block(readers: Sequence[tf.FIFOQueue], remainder: Features) -> Features:
    """Takes a part from each reader, in the order of the open shards, behind the remainder of the block before."""
    parts = [reader.dequeue() for reader in readers]
    return {name: tf.concat([values, *(part[name] for part in parts)], 0) for name, values in remainder.items()}


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
        chosen.set_shape([None, len(range(batch_size)[shard])])
    return {name: tf.gather(values, chosen) for name, values in block.items()}


def _decode(batches: Features, stored: Stored, features: Mapping[str, tuple[tf.DType, Sequence[int]]]) -> Features:
    """Makes features of batches of what was shuffled, [n, batch, ...]."""
    if stored.decode is None:
        return batches
    found = stored.decode({name: tf.reshape(values, [-1]) for name, values in batches.items()})
    return {name: tf.reshape(values, [-1, *features[name][1]]) for name, values in found.items()}
