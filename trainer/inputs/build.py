"""The inputs by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from trainer.data.given.examples import Examples
from trainer.data.layout import Layout
from trainer.data.spec import DatasetSpec
from trainer.inputs import feed, generated, preloaded, queues, synthetic
from trainer.inputs.batch import Input
from trainer.inputs.caching import make_cache
from trainer.inputs.loading import load_training
from trainer.inputs.order import BLOCK_BYTES
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf


class InputSettings(NamedTuple):
    """What an input may use."""

    spec: DatasetSpec
    batch_size: int  # of a step, over all workers
    seed: int
    position: int  # examples that earlier steps have consumed
    position_variable: tf.Variable  # the same, and counted on
    num_readers: int
    layout: Layout | None  # of the training set's records, where they are all alike and have been checked
    capacity: int  # whole batches on the queue
    side: Side  # of the preprocessing
    decode_threads: int = 1  # that decode pictures, where they are encoded
    in_memory: bool = False  # what is done to each encoded picture alone, once
    shuffle_bytes: int = BLOCK_BYTES  # of records that are shuffled together
    queue_bytes: int = 1 << 28  # of batches on the queue
    shard: slice = slice(None)  # of each batch, which this worker takes
    ops: Mapping[str, Any] = MappingProxyType({})  # modules of the trainer's own operations, by name


def _build_queue(s: InputSettings) -> Input:
    return queues.build(
        queues.make_plan(s.spec, s.seed, block_bytes=s.shuffle_bytes),
        s.spec,
        batch_size=s.batch_size,
        shard=s.shard,
        position=s.position,
        num_readers=s.num_readers,
        capacity=_capacity(s),
        side=s.side,
        layout=s.layout,
        decode_threads=s.decode_threads,
        cache=make_cache(s.spec, s.side) if s.in_memory else None,
        operation=s.ops.get("records"),
    )


def _capacity(s: InputSettings) -> int:
    """Computes how many batches wait, of those that the settings allow and that fit into the bytes: at least one."""
    size = len(range(s.batch_size)[s.shard]) * math.prod(s.side.batch_shape) * int(s.side.batch_dtype.size)
    return max(1, min(s.capacity, s.queue_bytes // size))


def _build_preloaded(s: InputSettings) -> Input:
    images, labels = load_training(s.spec, s.side)
    position = s.position_variable
    return preloaded.build(images, labels, batch_size=s.batch_size, shard=s.shard, position=position, seed=s.seed)


def _build_feed(s: InputSettings) -> Input:
    images, labels = load_training(s.spec, s.side)
    order = {"batch_size": s.batch_size, "position": s.position, "seed": s.seed}
    return _feed(s, functools.partial(feed.batches_of, images, labels, **order))


def _feed(s: InputSettings, batches: Callable[[], Iterator[Mapping[str, np.ndarray]]]) -> Input:
    return feed.build(
        batches,
        s.spec,
        image_shape=s.side.batch_shape,
        image_dtype=s.side.batch_dtype,
        shard=s.shard,
        shard_size=len(range(s.batch_size)[s.shard]),
        capacity=_capacity(s),
    )


def _build_synthetic(s: InputSettings) -> Input:
    return synthetic.build(s.spec, s.side, batch_size=s.batch_size, shard=s.shard, seed=s.seed)


INPUTS: dict[str, Callable[[InputSettings], Input]] = {
    "queue": _build_queue,
    "files": _build_queue,  # Of shards that hold the paths of the files.
    "preloaded": _build_preloaded,
    "feed": _build_feed,
    "synthetic": _build_synthetic,
}


def build_own_input(examples: Examples, s: InputSettings) -> Input:
    """Builds the input of a function of the user's, on the host."""
    order = {"batch_size": s.batch_size, "position": s.position, "seed": s.seed}
    with tf.device("/cpu:0"), tf.variable_scope("input"):
        return _feed(s, functools.partial(generated.batches, examples, s.spec, shuffle_bytes=s.shuffle_bytes, **order))


def build_input(name: str, settings: InputSettings) -> Input:
    """Builds the input of this name on the host: images reach the towers' devices as their batches are."""
    with tf.device("/cpu:0"), tf.variable_scope("input"):
        return INPUTS[name](settings)
