"""The same steps with other flags, in turn, in one process: what a flag costs or brings.

    python benchmarks/variants.py --variant=--ops=off --variant=--ops=auto -- \\
        --data_dir=data/mnist --flagfile=configs/mnist_mlp.flags

prints microseconds a step of each (median and range), and the median and range of the ratios to the first one's speed.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack

from input_cost import show
from peers import at_least_one

from trainer.console import Console
from trainer.settings.flags import config_from_flags
from trainer.signals import Signals
from trainer.training.measuring import open_bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", required=True, help="flags of one, as '--ops=off --input=feed'")
    parser.add_argument("--rounds", type=at_least_one, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each in each round")
    parser.add_argument("flags", nargs="*", help="of all, behind --")
    args = parser.parse_args()
    with ExitStack() as stack:
        benches = []
        for variant in args.variant:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            console = Console()
            console.rich.quiet = True
            flags = [*args.flags, *variant.split(), f"--logdir={folder}/run"]
            config = config_from_flags(["variants", *flags])
            benches.append(stack.enter_context(open_bench(config, console, Signals())))
        for bench in benches:
            bench.steps(args.seconds)
        rows = [[bench.steps(args.seconds) for bench in benches] for _ in range(args.rounds)]
    for index, variant in enumerate(args.variant):
        times = show([1e6 * row[index] for row in rows], ",.1f")
        print(f"{variant:<40} {times} us; {show([row[0] / row[index] for row in rows], '.3f')} times as fast")


if __name__ == "__main__":
    main()
