"""What the augmentation of CIFAR-10 costs: TensorFlow's operations and the trainer's own, in turn, in one process.

    python benchmarks/augmentation.py

prints core-microseconds an image (processor time of all threads; median and range), and the median of the ratios.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from input_cost import show
from peers import at_least_one

from trainer.ops import own
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.tf1 import tf

BATCH = 128
PIPELINES = {
    "pad(4)|random_crop(32)|flip_lr|cutout(8)|scale(-1,1)": "scale(-1,1)",
    "pad(4)|random_crop(32)|flip_lr|standardize": "standardize",
    "cifar": "",
}


def core_microseconds(call: Callable[[], object], seconds: float) -> float:
    """Calls for so long; returns the processor time of an image."""
    before, begin, count = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        call()
        count += 1
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1e6 * spent / count / BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each in each round")
    args = parser.parse_args()
    operation, generator = own.find_own("augment").module, np.random.default_rng(1)
    for text, elsewhere in PIPELINES.items():
        made = make_preprocessing((32, 32, 3), text, elsewhere, seed=1)
        sides = [made.training, made.with_operation(operation).training]
        with tf.Graph().as_default(), tf.device("/cpu:0"):
            images = tf.get_variable("images", initializer=generator.integers(0, 256, (BATCH, 32, 32, 3), np.uint8))
            keys = tf.get_variable("keys", initializer=generator.integers(0, 10**9, BATCH))
            found = [side.in_batches(images.read_value(), keys.read_value()).op for side in sides]
            with tf.Session(config=tf.ConfigProto(inter_op_parallelism_threads=-1)) as session:
                session.run(tf.global_variables_initializer())
                calls = [session.make_callable(op) for op in found]
                for call in calls:
                    core_microseconds(call, args.seconds)
                rows = [[core_microseconds(call, args.seconds) for call in calls] for _ in range(args.rounds)]
        figures = [show([row[index] for row in rows], ".2f") for index in (0, 1)]
        ratio = statistics.median(row[1] / row[0] for row in rows)
        print(f"{text}: TensorFlow's {figures[0]}, own {figures[1]}, {ratio:.3f} of it", flush=True)


if __name__ == "__main__":
    main()
