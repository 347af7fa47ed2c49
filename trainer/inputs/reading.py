"""Where the records of a block come from: readers of TensorFlow's, each its part of the open shards, or their numbers.

Each reader thread reads the same open shards of every block, so the number of the threads, and their speed, change
nothing.
Numbers alone are shuffled where an operation of the trainer's own reads records by them, once they are in their batch.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.data.layout import Layout
from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.inputs.batch import RECORD, Features, batch_feature_shapes, slice_frames
from trainer.inputs.order import Plan, Slices, Start, slices_of
from trainer.inputs.parsing import parse_examples
from trainer.ops.records import RecordFiles, build_records
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf

SKIPPED_AT_ONCE = 256  # records, where a run goes on in the middle of a shard
NO_FILE = "a shard ends before its manifest says"  # in the place of a path
SERIALIZED = "serialized"


class Stored(NamedTuple):
    """How records travel from the readers to the batches."""

    read: Callable[[tf.Tensor], Features] | None  # what a reader has read -> what is shuffled; None: nothing is read
    decode: Callable[[Features], Features] | None  # what is shuffled -> features; None: it is them already
    empty: Mapping[str, tf.Tensor]  # none of what is shuffled, with types and shapes


class Read(NamedTuple):
    """What a reader has read."""

    keys: tf.Tensor  # string [n], the path of its file and where in it each lies
    records: tf.Tensor  # string [n]


def make_stored(spec: DatasetSpec, layout: Layout | None, side: Side, plan: Plan, operation: Any = None) -> Stored:
    """Chooses how records travel.

    Args:
      spec: of the data set.
      layout: of all records; None: they differ, and are parsed.
      side: of the preprocessing, which decodes pictures.
      plan: shards and order.
      operation: module of `ops.records`, which reads the records of a layout; None: TensorFlow's readers do.
    """
    if operation is not None and layout is not None:
        return _make_numbered(spec, layout, plan, operation)
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


def _make_numbered(spec: DatasetSpec, layout: Layout, plan: Plan, operation: Any) -> Stored:
    """Lets numbers travel, and reads their records at the end."""

    files = RecordFiles(
        paths=plan.paths,
        counts=plan.counts.tolist(),
        frame_bytes=layout.frame_bytes,
        shape=spec.image_shape,
        image=layout.image,
        label=layout.label,
        classes=spec.num_classes,
        constant=layout.constant,
    )

    def decode(found: Features) -> Features:
        images, labels = build_records(operation, found[RECORD] % plan.num_records, files)
        return {IMAGE: images, LABEL: labels, RECORD: found[RECORD]}

    return Stored(None, decode, {RECORD: tf.zeros([0], tf.int64)})


class Block(NamedTuple):
    """The block whose turn it is for a reader, or for all of them."""

    slices: Slices
    opens: tf.Tensor  # bool [], are shards opened for it
    numbers: Callable[[Slices], tf.Tensor]  # of the records in some of its slices: int64 [n]
    go_on: Callable[[], list[tf.Operation]]  # adds what makes the next one of it


def _build_block(plan: Plan, start: Start, name: str) -> Block:
    epoch, block = counter(f"{name}_epoch", start.epoch), counter(f"{name}_block", start.block)
    open_group = counter(f"{name}_group", -1)
    old_epoch, old_block = epoch.read_value(), block.read_value()
    slices = slices_of(plan, old_epoch, old_block)

    def numbers(some: Slices) -> tf.Tensor:
        firsts = old_epoch * plan.num_records + tf.gather(tf.constant(np.append(plan.first_records, 0)), some.shard)
        return tf.ragged.range(firsts + some.begin, firsts + some.begin + some.count).flat_values

    def go_on() -> list[tf.Operation]:
        return [
            epoch.assign(old_epoch + tf.cast(slices.is_last, tf.int64)),
            block.assign(tf.where(slices.is_last, tf.zeros_like(old_block), old_block + 1)),
            open_group.assign(slices.group),
        ]

    return Block(slices, tf.not_equal(slices.group, open_group.read_value()), numbers, go_on)


def _build_numbers(plan: Plan, start: Start) -> list[Features]:
    """Builds the numbers of the records of the next block."""
    block = _build_block(plan, start, "numbers")
    numbers = block.numbers(block.slices)
    with tf.control_dependencies([numbers]):
        updates = block.go_on()
    with tf.control_dependencies(updates):
        return [{RECORD: tf.identity(numbers)}]


def build_parts(plan: Plan, start: Start, num_readers: int, layout: Layout | None, stored: Stored) -> list[Features]:
    """Builds the threads that read, each its part of the open shards, and what takes the next part of each.

    Where nothing is read before it is shuffled, that is the numbers of the records of the next block.
    """
    if stored.read is None:
        return _build_numbers(plan, start)
    return [reader.dequeue() for reader in _build_readers(plan, start, num_readers, layout, stored.read)]


def _build_readers(
    plan: Plan, start: Start, num_readers: int, layout: Layout | None, read: Callable[[tf.Tensor], Features]
) -> list[tf.FIFOQueue]:
    """Builds the threads that read, each its part of the open shards."""
    count = min(num_readers, plan.open_shards)
    edges = [reader * plan.open_shards // count for reader in range(count + 1)]
    return [
        _build_reader(plan, start, reader, range(*places), layout, read)
        for reader, places in enumerate(itertools.pairwise(edges))
    ]


def _build_reader(
    plan: Plan, start: Start, reader: int, places: range, layout: Layout | None, read: Callable[[tf.Tensor], Features]
) -> tf.FIFOQueue:
    """Builds a thread that reads its part of each block, of the open shards in `places`, into a queue."""
    block = _build_block(plan, start, f"reader_{reader}")
    mine = block.slices._replace(
        **{name: getattr(block.slices, name)[places.start : places.stop] for name in ("shard", "begin", "count")}
    )
    records, numbers = _read_slices(plan, mine, block.opens, len(places), layout), block.numbers(mine)
    with tf.control_dependencies([records, numbers]):
        updates = block.go_on()
    with tf.control_dependencies(updates):
        part = {**read(tf.identity(records)), RECORD: tf.identity(numbers)}
    queue = tf.FIFOQueue(1, [tensor.dtype for tensor in part.values()], names=list(part), name=f"reader_{reader}")
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(part)]))
    return queue


def counter(name: str, value: int) -> tf.Variable:
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
