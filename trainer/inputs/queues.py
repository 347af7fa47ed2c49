"""The queue input: shards -> reader threads -> shuffled blocks -> whole batches on a FIFOQueue.

The order of the records is a function of the seed and the position alone: each epoch permutes the shards, joins
their chunks into blocks, shuffles each block, and cuts the stream into batches. Blocks end with the epoch, so every
epoch holds each record once; a batch may hold the end of one epoch and the start of the next. Reader threads are
lanes that take turns, shard by shard, so their number and their speed change nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.manifest import Manifest
from trainer.inputs.batch import Batch, Input, parse_examples
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
    """
    start = find_start(plan, position)
    lanes = []
    for lane in range(num_readers):
        names = _lane_names(plan, start, lane, num_readers)
        chunk = _read_chunk(names, plan, start, lane == start.shard % num_readers, image_shape, num_classes)
        queue = tf.FIFOQueue(LANE_CHUNKS, [tf.uint8, tf.int32], name=f"lane_{lane}")
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(chunk)]))
        lanes.append(queue)
    block = _shuffle(_next_block(lanes, plan, start, image_shape), plan, start)
    shapes = [[batch_size, *image_shape], [batch_size]]
    batches = tf.FIFOQueue(capacity, [tf.uint8, tf.int32], shapes, name="batches")
    tf.train.add_queue_runner(tf.train.QueueRunner(batches, [batches.enqueue_many(_cut(block, batch_size))]))
    fill = tf.cast(batches.size(), tf.float32) / capacity
    return Input(Batch(*batches.dequeue(name="dequeue")), fill)


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


def _read_chunk(
    names: tf.FIFOQueue, plan: Plan, start: Start, has_start: bool, image_shape: tuple[int, int, int], num_classes: int
) -> Batch:
    """Reads the next records of one shard, at most a chunk of them."""
    _, serialized = tf.TFRecordReader().read_up_to(names, plan.chunk)
    if has_start and start.record:
        before = _counter("records_to_drop", start.record)
        dropped = tf.minimum(before, tf.size(serialized, out_type=tf.int64))
        with tf.control_dependencies([before.assign_sub(dropped)]):
            serialized = serialized[dropped:]
    return parse_examples(serialized, image_shape=image_shape, num_classes=num_classes)


def _next_block(lanes: list[tf.FIFOQueue], plan: Plan, start: Start, image_shape: tuple[int, int, int]) -> Batch:
    """Takes chunks from the lanes in the order of their shards until the block is full or the epoch ends."""
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
        tf.TensorArray(tf.uint8, 0, dynamic_size=True, infer_shape=False, element_shape=[None, *image_shape]),
        tf.TensorArray(tf.int32, 0, dynamic_size=True, infer_shape=False, element_shape=[None]),
    ]
    begin = (shard.read_value(), seen.read_value(), tf.zeros([], tf.int64), 0, *arrays)
    # One iteration at a time: the chunks must leave their lanes in order.
    number, record, _, _, images, labels = tf.while_loop(unfinished, take, begin, parallel_iterations=1)
    with tf.control_dependencies([shard.assign(number), seen.assign(record)]):
        return Batch(images.concat(), labels.concat())


def _shuffle(block: Batch, plan: Plan, start: Start) -> Batch:
    """Shuffles a block by its position in the stream; drops what was consumed before the start."""
    size = tf.size(block.labels)
    position = _counter("block_position", start.position)
    skip = _counter("examples_to_skip", start.skip)
    old_position, old_skip = position.read_value(), skip.read_value()
    seed = tf.stack([np.int64(plan.seed), old_position + 1])  # Another stream than that of the shards.
    order = tf.random.experimental.stateless_shuffle(tf.range(size), seed=seed)[old_skip:]
    with tf.control_dependencies([old_position, old_skip, order]):
        updates = [position.assign_add(tf.cast(size, tf.int64)), skip.assign(0)]
    with tf.control_dependencies(updates):
        return Batch(tf.gather(block.images, order), tf.gather(block.labels, order))


def _cut(block: Batch, batch_size: int) -> list[tf.Tensor]:
    """Cuts a block into whole batches [n, batch, ...]; what is left over begins the next block's first batch."""
    joined, rests = [], []
    for name, tensor in zip(("images", "labels"), block, strict=True):
        rest = tf.get_local_variable(
            f"rest_of_{name}",
            initializer=lambda tensor=tensor: tf.zeros([0, *tensor.shape[1:]], tensor.dtype),
            shape=None,
            validate_shape=False,
            use_resource=True,
        )
        rests.append(rest)
        joined.append(tf.concat([rest.read_value(), tensor], 0))
    whole = tf.shape(joined[1])[0] // batch_size * batch_size
    with tf.control_dependencies(joined):
        updates = [rest.assign(tensor[whole:]) for rest, tensor in zip(rests, joined, strict=True)]
    with tf.control_dependencies(updates):
        return [tf.reshape(tensor[:whole], [-1, batch_size, *tensor.shape[1:]]) for tensor in joined]
