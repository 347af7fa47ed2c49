"""Each of the trainer's own operations, tried once against arithmetic of numpy: what `trainer.ops check` runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import TrainerError
from trainer.ops import augment, records, update
from trainer.tf1 import tf

MASK = (1 << 64) - 1
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64
SIZE = 40_000  # elements: several parts


def _compare(what: str, got: Any, wanted: Any) -> None:
    if not np.array_equal(got, wanted):
        raise TrainerError(f"{what} differs from its twin by {np.abs(np.asarray(got) - wanted).max():g}")


def _try_update(module: Any) -> str:
    """Makes a step of momentum, and one that is not finite and changes nothing."""
    generator = np.random.default_rng(1)
    weight, gradient = generator.standard_normal((2, SIZE), np.float32)
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        variable = tf.get_variable("w", initializer=weight)
        counters = [tf.get_variable(name, initializer=np.int64(0), trainable=False) for name in ("a", "b", "c")]
        optimizer = tf.train.MomentumOptimizer(0.5, 0.5)
        optimizer._create_slots([variable])
        given = tf.placeholder(tf.float32, [SIZE])
        told = update.build_update(
            module,
            first=[],
            parameters=update.Parameters([given], [variable], [], [0.0]),
            optimizer=optimizer,
            counters=counters,
            rate=tf.constant(0.5),
            rule=update.Rule("momentum", 0.5, 0.0, "none", 0.0, 0.0, batch_size=7, skips=False),
        )
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            session.run(tf.global_variables_initializer())
            _compare("what is finite", session.run(told, {given: gradient}), np.zeros([0, 2], np.int64))
            wanted = weight - gradient * np.float32(0.5)
            _compare("the variable", session.run(variable), wanted)
            gradient[SIZE - 1] = np.nan
            _compare("what is not finite", session.run(told, {given: gradient}), [[0, 0]])
            _compare("the variable", session.run(variable), wanted)
            _compare("the counters", session.run(counters), [1, 7, 0])
    return "equal to its twin"


def _try_records(module: Any) -> str:
    """Reads two records of a small shard, and one that has changed."""
    image = bytes(range(4))
    files = [_frame(b"12" + image + bytes([label])) for label in (0, 3)]
    constant = [(0, files[0][:14])]
    with tempfile.NamedTemporaryFile() as shard, tf.Graph().as_default(), tf.device("/cpu:0"):
        Path(shard.name).write_bytes(b"".join(files))
        size = len(files[0])
        where = records.RecordFiles([shard.name], [2], size, [2, 2, 1], 14, 18, 4, constant)
        read = records.build_records(module, tf.constant([1, 0, 1], tf.int64), where)
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            images, labels = session.run(read)
            _compare("the labels", labels, [3, 0, 3])
            _compare("the images", images, np.tile(np.arange(4).reshape(1, 2, 2, 1), [3, 1, 1, 1]))
            shard.seek(size + 15)
            shard.write(b"x")
            shard.flush()
            try:
                session.run(read)
            except tf.errors.DataLossError:
                return "equal to its twin"
    raise TrainerError("a record that has changed is not found")


def _frame(data: bytes) -> bytes:
    """Makes a TFRecord of bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/record"
        with tf.python_io.TFRecordWriter(path) as writer:
            writer.write(data)
        return Path(path).read_bytes()


def _try_augment(module: Any) -> str:
    """Pads, crops and scales: where the window lies is drawn as SplitMix64 draws it."""
    images = np.random.default_rng(1).integers(0, 256, [8, 5, 6, 3], dtype=np.uint8)
    plan = augment.Plan(pad=1, crop=1, size=(4, 4), floats=True, steps=(augment.Step("multiply", (0.5,)),))
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        made = augment.build_augment(module, tf.constant(images), tf.range(8, dtype=tf.int64), seed=2, plan=plan)
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            found = session.run(made)
    padded = np.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]]).astype(np.float32) * np.float32(0.5)
    for number, picture in enumerate(found):
        state = _mix(_mix(number * GOLDEN + 2) ^ (2 * SECOND & MASK))
        top, left = (int((_mix(state + place * GOLDEN) >> 40) * 2.0**-24 * size) for place, size in ((1, 4), (2, 5)))
        _compare("a window", picture, padded[number, top : top + 4, left : left + 4])
    return "equal to its twin"


def _mix(bits: int) -> int:
    for shift, factor in ((30, FIRST), (27, SECOND)):
        bits = ((bits & MASK) ^ (bits & MASK) >> shift) * factor
    return (bits & MASK) ^ (bits & MASK) >> 31


TRIALS: dict[str, Callable[[Any], str]] = {"update": _try_update, "records": _try_records, "augment": _try_augment}
