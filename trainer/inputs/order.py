"""In which order the queue input reads the records of a training set.

The order is a function of the seed and the position alone. Each epoch permutes the shards and opens OPEN_SHARDS of them
at a time. A block takes from each open shard in proportion to its records, is shuffled, and the stream of blocks is
split into batches: shards that hold one class each mix as well as shards that hold them all. Blocks end with the epoch,
so every epoch holds each record once; a batch may hold the end of one epoch and the start of the next.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from trainer.data.binary import parse_layout
from trainer.data.spec import DatasetSpec
from trainer.tf1 import tf

VERSION = 2  # in every checkpoint: another one gives other records for the same position; a golden test holds it
BLOCK_RECORDS = 8192  # shuffled together, where their images take no more than BLOCK_BYTES
BLOCK_BYTES = 64 << 20
OPEN_SHARDS = 64  # at most, at a time
UNITS = 8  # which a block takes of a shard, at least: records that lie together are read at once


class Plan(NamedTuple):
    """The constants that fix the order of the records."""

    paths: list[str]  # of the shards
    counts: np.ndarray  # int64 [shards], records of each
    unit: int  # records of a shard that stay together until they are shuffled; divides each count
    block: int  # records that a block has, about
    open_shards: int  # of which a block takes
    seed: int
    compression: str = ""  # of the shards
    record_bytes: int = 0  # of binary records; 0: they are TFRecords

    @property
    def num_records(self) -> int:
        return int(self.counts.sum())

    @property
    def first_records(self) -> np.ndarray:
        """Returns the number of the first record of each shard: int64 [shards]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)[:-1]])

    @property
    def num_groups(self) -> int:
        """Returns how often an epoch opens shards."""
        return -(-len(self.paths) // self.open_shards)


class Slices(NamedTuple):
    """What a block takes of each open shard."""

    group: tf.Tensor  # int64 [], of open shards, numbered on over the epochs
    shard: tf.Tensor  # int32 [open_shards]; the number of shards where none is open
    begin: tf.Tensor  # int64 [open_shards], the first record
    count: tf.Tensor  # int64 [open_shards]
    is_last: tf.Tensor  # bool [], of the epoch


class Start(NamedTuple):
    """Where in the stream to begin."""

    epoch: int
    block: int  # of the epoch
    position: int  # records of the stream before that one
    skip: int  # records of the shuffled block to drop


def make_plan(spec: DatasetSpec, seed: int, block_records: int = BLOCK_RECORDS, block_bytes: int = BLOCK_BYTES) -> Plan:
    """Fixes the order in which a training set is read.

    Args:
      spec: of the data set.
      seed: of the run.
      block_records: that are shuffled together, at most.
      block_bytes: which their images take, at most.
    """
    shards = spec.splits["train"]
    block = max(1, min(block_records, block_bytes // spec.bytes_in_memory))
    counts = np.array([shard.num_examples for shard in shards], np.int64)
    open_shards = min(OPEN_SHARDS, len(shards))
    unit = _largest_divisor(math.gcd(*map(int, counts)), block // (UNITS * open_shards))
    paths = [str(spec.path_of(shard)) for shard in shards]
    record_bytes = parse_layout(spec.fields.binary).record_bytes if spec.fields.binary else 0
    return Plan(paths, counts, unit, block, open_shards, seed, spec.compression, record_bytes)


def _largest_divisor(number: int, limit: int) -> int:
    return next((size for size in range(min(number, limit), 1, -1) if number % size == 0), 1)


def shard_order(plan: Plan, epoch: tf.Tensor) -> tf.Tensor:
    """Permutes the shards for an epoch (int64 []): int32 [shards]."""
    shards = tf.range(len(plan.paths))
    return tf.random.experimental.stateless_shuffle(shards, seed=tf.stack([np.int64(plan.seed), epoch]))


def slices_of(plan: Plan, epoch: tf.Tensor, block: tf.Tensor) -> Slices:
    """Finds what a block of an epoch takes of the shards (int64 [] both)."""
    missing = plan.num_groups * plan.open_shards - len(plan.paths)
    order = tf.concat([shard_order(plan, epoch), tf.fill([missing], len(plan.paths))], 0)
    groups = tf.reshape(order, [plan.num_groups, plan.open_shards])
    units = tf.gather(tf.constant(np.append(plan.counts // plan.unit, 0)), groups)
    blocks = (tf.reduce_sum(units, 1) * plan.unit + plan.block - 1) // plan.block
    ends = tf.cumsum(blocks)
    group = tf.reduce_sum(tf.cast(block >= ends, tf.int64))
    number, total = block - ends[group] + blocks[group], blocks[group]
    begin, end = (place * units[group] // total * plan.unit for place in (number, number + 1))
    return Slices(epoch * plan.num_groups + group, groups[group], begin, end - begin, tf.equal(block + 1, ends[-1]))


def block_order(plan: Plan, size: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Shuffles a block of `size` records (int32 []) by its position in the stream (int64 []): indices, int32 [size]."""
    seed = tf.stack([np.int64(plan.seed), position + 1])  # Another stream than that of the shards.
    return tf.random.experimental.stateless_shuffle(tf.range(size), seed=seed)


def find_start(plan: Plan, position: int) -> Start:
    """Finds the block that holds record `position` of the stream."""
    epoch, wanted = divmod(position, plan.num_records)
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        order = session.run(shard_order(plan, tf.constant(epoch, tf.int64)))
    ends = np.cumsum(_block_sizes(plan, order))
    block = int(np.searchsorted(ends, wanted, side="right"))
    before = int(ends[block - 1]) if block else 0
    return Start(epoch, block, position - wanted + before, wanted - before)


def _block_sizes(plan: Plan, order: np.ndarray) -> np.ndarray:
    """Computes how many records the blocks of an epoch have whose shards come in this order: int64 [blocks]."""
    sizes = []
    for begin in range(0, len(order), plan.open_shards):
        units = plan.counts[order[begin : begin + plan.open_shards]] // plan.unit
        total = -(-int(units.sum()) * plan.unit // plan.block)
        ends = np.arange(total + 1)[:, np.newaxis] * units // total
        sizes.append(np.diff(ends.sum(axis=1)) * plan.unit)
    return np.concatenate(sizes)
