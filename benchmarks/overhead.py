"""What a step costs besides its computation: batch 1, a model of one hidden unit, in turn, in one process.

    python benchmarks/overhead.py

prints microseconds a step (median and range): of a plain `session.run` of the same model, written as in tutorials (the
floor); of its operations alone, in a `tf.while_loop` of 1,000 of them; and of this trainer's loop with
`--steps_per_loop=1` and `50`, on one batch of the embedded digits. The overhead is what is left without the operations.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from input_cost import show
from peers import at_least_one

from trainer.console import Console
from trainer.settings.config import Config, validate
from trainer.signals import Signals
from trainer.tf1 import tf
from trainer.training.measuring import open_bench, seconds_of

ITERATIONS = 1000


def open_floor(stack: ExitStack):
    """Opens a session on a model of one hidden unit and one image; returns what runs one step, and ITERATIONS of it."""
    stack.enter_context(tf.Graph().as_default())
    images = tf.get_variable("images", initializer=np.zeros([1, 64], np.uint8), trainable=False)
    weights = [tf.get_variable(f"w{i}", shape) for i, shape in enumerate([[64, 1], [1], [1, 10], [10]])]
    step = tf.train.get_or_create_global_step()

    def build():
        hidden = tf.nn.relu(tf.nn.bias_add(tf.matmul(tf.cast(images, tf.float32) * (1 / 255), weights[0]), weights[1]))
        logits = tf.nn.bias_add(tf.matmul(hidden, weights[2]), weights[3])
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.constant([0]), logits=logits))
        return tf.train.GradientDescentOptimizer(0.1).minimize(loss, step), loss

    def iterate(left):
        with tf.control_dependencies([build()[0]]):
            return left - 1

    fetches = build()
    many = tf.while_loop(lambda left: left > 0, iterate, [tf.constant(ITERATIONS)], parallel_iterations=1).op
    session = stack.enter_context(tf.Session(config=tf.ConfigProto(inter_op_parallelism_threads=-1)))
    session.run(tf.global_variables_initializer())
    return lambda: session.run(fetches), session.make_callable(many)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each in each round")
    parser.add_argument("--ops", choices=("auto", "off"), default="auto", help="of the trainer")
    args = parser.parse_args()
    console = Console()
    console.rich.quiet = True
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        floor, many = open_floor(stack)
        calls = {
            "plain session.run": lambda seconds: seconds_of(floor, seconds),
            "its operations alone": lambda seconds: seconds_of(many, seconds) / ITERATIONS,
        }
        for loop in (1, 50):
            config = validate(
                Config(
                    logdir=str(folder / f"loop{loop}"),
                    dataset="digits",
                    data_dir=str(folder / "digits"),
                    ops=args.ops,
                    input="synthetic",
                    model="mlp",
                    model_args=("hidden_sizes=1, dropout=0",),
                    optimizer="sgd",
                    ema_decay=0.0,
                    decay="constant",
                    batch_size=1,
                    train_steps=1 << 30,
                    steps_per_loop=loop,
                )
            )
            calls[f"--steps_per_loop={loop}"] = stack.enter_context(open_bench(config, console, Signals())).steps
        for call in calls.values():
            call(args.seconds)
        rounds = [[1e6 * call(args.seconds) for call in calls.values()] for _ in range(args.rounds)]
    for index, name in enumerate(calls):
        ratio = statistics.median(row[index] / row[0] for row in rounds)
        rest = statistics.median((row[index] - row[1]) / (row[0] - row[1]) for row in rounds)
        figures = show([row[index] for row in rounds], ",.1f")
        print(f"{name:<22} {figures} us, {ratio:.3f} of the floor; overhead {rest:.3f} of the floor's")


if __name__ == "__main__":
    main()
