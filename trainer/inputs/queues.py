"""The queue input: shards -> reader threads -> shuffled blocks -> whole batches on a FIFOQueue.

The order of the records is a function of the seed and the position alone: each epoch permutes the shards, joins
their chunks into blocks, shuffles each block, and cuts the stream into batches. Blocks end with the epoch, so every
epoch holds each record once; a batch may hold the end of one epoch and the start of the next. Reader threads are
lanes that take turns, shard by shard, so their number and their speed change nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.layout import Layout
from trainer.data.manifest import Manifest
from trainer.inputs.batch import Batch, Input, make_input, parse_examples, slice_frames
from trainer.tf1 import tf

BLOCK_RECORDS = 8192  # shuffled together, where their images take no more than BLOCK_BYTES
BLOCK_BYTES = 64 << 20
CHUNKS_PER_BLOCK = 4
LANE_CHUNKS = 4  # chunks that a reader thread may be ahead


class Plan(NamedTuple):
    """The constants that fix the order of the records."""

    paths: list[str]
    counts: np.ndarray  # int64 [shards], records of each
    chunk: int  # records of one shard that are read at once
    block: int  # a block ends with the chunk that fills it
    seed: int


class Start(NamedTuple):
    """Where in the stream to begin; shards are numbered on over the epochs, in the order in which they are read."""

    shard: int
    record: int  # in that shard, at a chunk's edge
    position: int  # records of the stream before that one
    skip: int  # records of the first shuffled block to drop


def make_plan(folder: Path, manifest: Manifest, seed: int, block_records: int = BLOCK_RECORDS) -> Plan:
    shards = manifest.splits["train"]
    block = max(CHUNKS_PER_BLOCK, min(block_records, BLOCK_BYTES // manifest.image_bytes))
    counts = np.array([shard.num_examples for shard in shards], np.int64)
    return Plan([str(folder / shard.file) for shard in shards], counts, block // CHUNKS_PER_BLOCK, block, seed)


def build(
    plan: Plan,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    position: int,
    num_readers: int,
    capacity: int,
    part: slice = slice(None),
    layout: Layout | None = None,
) -> Input:
    """Builds the pipeline from `position` (records already consumed) on, with its queue runners.

    Args:
      plan: shards and order.
      image_shape: height, width, depth.
      num_classes: labels are 0 <= label < num_classes.
      batch_size: of the batches that come out.
      position: records of the stream that earlier steps have consumed.
      num_readers: threads that read and parse.
      capacity: whole batches that the queue holds.
      part: of each batch, that comes out.
      layout: of all records, which are then cut instead of parsed; None: they differ.
    """
    start = find_start(plan, position)
    lanes = []
    for lane in range(num_readers):
        names = _lane_names(plan, start, lane, num_readers)
        records = _read_records(names, plan, layout)
        if lane == start.shard % num_readers and start.record:
            records = _drop_first(records, start.record)
        if layout is None:
            chunk = parse_examples(records, image_shape=image_shape, num_classes=num_classes)
        else:
            chunk = slice_frames(records, layout, image_shape=image_shape)
        queue = tf.FIFOQueue(LANE_CHUNKS, [tf.uint8, tf.int32], name=f"lane_{lane}")
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(chunk)]))
        lanes.append(queue)
    variables = _rest_variables(image_shape)
    rest = Batch(*(variable.read_value() for variable in variables))
    block = _next_block(lanes, plan, start, rest)
    order = _shuffle(block, rest, plan, start)
    size = len(range(batch_size)[part])
    shapes = [[size, *image_shape], [size]]
    cut = _cut(block, order, variables, batch_size, part)
    batches = tf.FIFOQueue(capacity, [tf.uint8, tf.int32], shapes, name="batches")
    tf.train.add_queue_runner(tf.train.QueueRunner(batches, [batches.enqueue_many(cut)]))
    fill = tf.cast(batches.size(), tf.float32) / capacity
    return make_input(lambda: Batch(*batches.dequeue(name="dequeue")), fill)


def shard_order(plan: Plan, epoch: tf.Tensor) -> tf.Tensor:
    """Permutes the shards for an epoch (int64 []): int32 [shards]."""
    shards = tf.range(len(plan.paths))
    return tf.random.experimental.stateless_shuffle(shards, seed=tf.stack([np.int64(plan.seed), epoch]))


def find_start(plan: Plan, position: int) -> Start:
    """Finds the block that holds record `position` of the stream, so that no earlier one has to be read."""
    epoch, wanted = divmod(position, int(plan.counts.sum()))
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        order = session.run(shard_order(plan, tf.constant(epoch, tf.int64)))
    first_shard = epoch * len(order)
    begin = passed = 0
    where = (first_shard, 0)
    for number, shard in enumerate(order, first_shard):
        for record in range(0, plan.counts[shard], plan.chunk):
            if passed - begin >= plan.block:  # Here a block ends and the next one begins.
                if passed > wanted:
                    return Start(*where, position - wanted + begin, wanted - begin)
                begin, where = passed, (number, record)
            passed += int(min(plan.chunk, plan.counts[shard] - record))
    return Start(*where, position - wanted + begin, wanted - begin)


def _counter(name: str, value: int) -> tf.Variable:
    return tf.get_local_variable(name, initializer=np.int64(value), use_resource=True)


def _shard_at(plan: Plan, number: tf.Tensor) -> tf.Tensor:
    return tf.gather(shard_order(plan, number // len(plan.paths)), number % len(plan.paths))


def _lane_names(plan: Plan, start: Start, lane: int, num_lanes: int) -> tf.FIFOQueue:
    """Puts the names of every `num_lanes`-th shard on a queue, without end."""
    first = start.shard + (lane - start.shard) % num_lanes
    number = _counter(f"lane_{lane}_shard", first - num_lanes).assign_add(num_lanes)
    name = tf.gather(tf.constant(plan.paths), _shard_at(plan, number))
    return tf.train.string_input_producer([name], shuffle=False, capacity=2, name=f"lane_{lane}_files")


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


def _next_block(lanes: list[tf.FIFOQueue], plan: Plan, start: Start, rest: Batch) -> Batch:
    """Takes chunks from the lanes in the order of their shards until the block is full or the epoch ends.

    The rest of the block before it comes first.
    """
    counts = tf.constant(plan.counts)
    shard = _counter("next_shard", start.shard)
    seen = _counter("next_record", start.record)

    def unfinished(number: tf.Tensor, record: tf.Tensor, size: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        at_edge = tf.equal(number % len(plan.paths), 0) & tf.equal(record, 0)
        return tf.equal(size, 0) | ((size < plan.block) & ~at_edge)

    def take(
        number: tf.Tensor, record: tf.Tensor, size: tf.Tensor, chunks: tf.Tensor, *arrays: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        lane = tf.QueueBase.from_list(tf.cast(number % len(lanes), tf.int32), lanes) if len(lanes) > 1 else lanes[0]
        images, labels = lane.dequeue()
        total = tf.gather(counts, _shard_at(plan, number))
        length = tf.size(labels, out_type=tf.int64)
        done = tf.equal(record + length, total)
        # Chunks are whole up to a shard's last one; those before the start come empty.
        legal = done | tf.equal(length, 0) | (tf.equal(length, plan.chunk) & (record + length < total))
        message = "a shard holds another number of records than its manifest says"
        with tf.control_dependencies([tf.Assert(legal, [message, number, record, length, total])]):
            length = tf.identity(length)
        return (
            number + tf.cast(done, tf.int64),
            tf.where(done, tf.zeros_like(record), record + length),
            size + length,
            chunks + 1,
            arrays[0].write(chunks, images),
            arrays[1].write(chunks, labels),
        )

    arrays = [
        tf.TensorArray(
            part.dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None, *part.shape[1:]]
        ).write(0, part)
        for part in rest
    ]
    begin = (shard.read_value(), seen.read_value(), tf.zeros([], tf.int64), 1, *arrays)
    # One iteration at a time: the chunks must leave their lanes in order.
    number, record, _, _, images, labels = tf.while_loop(unfinished, take, begin, parallel_iterations=1)
    with tf.control_dependencies([shard.assign(number), seen.assign(record)]):
        return Batch(images.concat(), labels.concat())


def _shuffle(block: Batch, rest: Batch, plan: Plan, start: Start) -> tf.Tensor:
    """Shuffles a block by its position in the stream, behind the rest of the one before it: indices, int32 [n].

    What was consumed before the start is dropped.
    """
    num_rest = tf.size(rest.labels)
    size = tf.size(block.labels) - num_rest
    position = _counter("block_position", start.position)
    skip = _counter("examples_to_skip", start.skip)
    old_position, old_skip = position.read_value(), skip.read_value()
    seed = tf.stack([np.int64(plan.seed), old_position + 1])  # Another stream than that of the shards.
    order = tf.random.experimental.stateless_shuffle(tf.range(size), seed=seed)[old_skip:]
    with tf.control_dependencies([old_position, old_skip, order]):
        updates = [position.assign_add(tf.cast(size, tf.int64)), skip.assign(0)]
    with tf.control_dependencies(updates):
        return tf.concat([tf.range(num_rest), num_rest + order], 0)


def _rest_variables(image_shape: tuple[int, int, int]) -> Batch:
    """Makes the variables of what is left over of a block, less than a batch."""
    values = {"images": tf.zeros([0, *image_shape], tf.uint8), "labels": tf.zeros([0], tf.int32)}
    return Batch(
        *(
            tf.get_local_variable(
                f"rest_of_{name}",
                # With its number of records known, nobody would ask for it again.
                initializer=lambda value=value: tf.placeholder_with_default(value, [None, *value.shape[1:]]),
                shape=None,
                validate_shape=False,
                use_resource=True,
            )
            for name, value in values.items()
        )
    )


def _cut(block: Batch, order: tf.Tensor, rest: Batch, batch_size: int, part: slice) -> list[tf.Tensor]:
    """Cuts a block into parts of whole batches [n, part, ...]; what is left begins the next block's first batch."""
    whole = tf.size(order) // batch_size * batch_size
    left = [tf.gather(tensor, order[whole:]) for tensor in block]
    with tf.control_dependencies([variable.assign(value) for variable, value in zip(rest, left, strict=True)]):
        chosen = tf.reshape(order[:whole], [-1, batch_size])[:, part]
    return [tf.gather(tensor, chosen) for tensor in block]
