"""Each of the trainer's own operations, tried once against arithmetic of numpy: what `trainer.ops check` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.errors import TrainerError
from trainer.ops import update
from trainer.tf1 import tf

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


TRIALS: dict[str, Callable[[Any], str]] = {"update": _try_update}
