"""In which order the queue input reads the records of a training set.

The order is a function of the seed and the position alone: each epoch permutes the shards, joins their chunks into
blocks, shuffles each block, and splits the stream into batches. Blocks end with the epoch, so every epoch holds each
record once; a batch may hold the end of one epoch and the start of the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer.data.spec import DatasetSpec
from trainer.tf1 import tf

VERSION = 1  # in every checkpoint: another one gives other records for the same position; a golden test holds it
BLOCK_RECORDS = 8192  # shuffled together, where their images take no more than BLOCK_BYTES
BLOCK_BYTES = 64 << 20
CHUNKS_PER_BLOCK = 4


class Plan(NamedTuple):
    """The constants that fix the order of the records."""

    paths: list[str]  # of the shards
    counts: np.ndarray  # int64 [shards], records of each
    chunk: int  # records of one shard that are read at once
    block: int  # a block ends with the chunk that fills it
    seed: int

    @property
    def num_records(self) -> int:
        return int(self.counts.sum())

    @property
    def first_records(self) -> np.ndarray:
        """Returns the number of the first record of each shard: int64 [shards]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)[:-1]])


class Start(NamedTuple):
    """Where in the stream to begin; shards are numbered on over the epochs, in the order in which they are read."""

    shard: int
    record: int  # in that shard, at a chunk's edge
    position: int  # records of the stream before that one
    skip: int  # records of the first shuffled block to drop


def make_plan(spec: DatasetSpec, seed: int, block_records: int = BLOCK_RECORDS) -> Plan:
    """Fixes the order in which a training set is read."""
    shards = spec.splits["train"]
    block = max(CHUNKS_PER_BLOCK, min(block_records, BLOCK_BYTES // spec.image_bytes))
    counts = np.array([shard.num_examples for shard in shards], np.int64)
    return Plan([str(spec.path_of(shard)) for shard in shards], counts, block // CHUNKS_PER_BLOCK, block, seed)


def shard_order(plan: Plan, epoch: tf.Tensor) -> tf.Tensor:
    """Permutes the shards for an epoch (int64 []): int32 [shards]."""
    shards = tf.range(len(plan.paths))
    return tf.random.experimental.stateless_shuffle(shards, seed=tf.stack([np.int64(plan.seed), epoch]))


def shard_at(plan: Plan, number: tf.Tensor) -> tf.Tensor:
    """Finds the shard that is read as the `number`-th of the stream (int64 []): int32 []."""
    return tf.gather(shard_order(plan, number // len(plan.paths)), number % len(plan.paths))


def block_order(plan: Plan, size: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Shuffles a block of `size` records (int32 []) by its position in the stream (int64 []): indices, int32 [size]."""
    seed = tf.stack([np.int64(plan.seed), position + 1])  # Another stream than that of the shards.
    return tf.random.experimental.stateless_shuffle(tf.range(size), seed=seed)


def find_start(plan: Plan, position: int) -> Start:
    """Finds the block that holds record `position` of the stream, so that no earlier one has to be read."""
    epoch, wanted = divmod(position, plan.num_records)
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
