"""What the queue input costs: the same steps with `--input=queue` and `--input=synthetic`, in turn.

    python benchmarks/input_cost.py --data_dir=data/mnist

prints the images per second of each (median and range) and the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

Read = Callable[[str], float]  # the directory of a run -> images per second
REPO = Path(__file__).parents[1]
# Model flags and steps: a run of several seconds each on two cores.
WORK = {
    "lenet": (["--dataset=mnist", "--model=lenet"], 400),
    "mnist_mlp": (
        [
            "--dataset=mnist",
            "--model=mlp",
            "--model_args=hidden_sizes=500, dropout=0",
            "--optimizer=sgd",
            "--learning_rate=0.1",
        ],
        8000,
    ),
}
# With --data_dir=data/cifar10: pad, random crop, flip, brightness, contrast, standardize.
CIFAR = {"cifar10_lenet": (["--dataset=cifar10", "--model=lenet", "--preprocess=cifar"], 200)}
QUIET = ["--eval_every=0", "--summary_every=0", "--histogram_every=0", "--checkpoint_every=0", "--log_every=0"]


def speed_of_run(logdir: str) -> float:
    """Reads the speed of a run's steps, start-up apart."""
    return float(json.loads((Path(logdir) / "result.json").read_text())["images_per_second"])


def images_per_second(
    flags: list[str],
    steps: int,
    data_dir: str,
    source: str,
    tree: Path = REPO,
    read: Read = speed_of_run,
    more: Sequence[str] = (),
) -> float:
    """Trains by the sources in `tree`, in a process of its own; reads the speed of its steps."""
    with tempfile.TemporaryDirectory() as logdir:
        command = [
            sys.executable,
            "-m",
            "trainer",
            f"--data_dir={Path(data_dir).absolute()}",
            f"--logdir={logdir}",
        ]
        command += [*flags, *QUIET, "--batch_size=128", f"--train_steps={steps}", f"--input={source}", *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=tree)
        return read(logdir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/mnist")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", choices=[*WORK, *CIFAR, "all"], default="all")
    args = parser.parse_args()
    works = {**WORK, **CIFAR}
    print(f"{'work':<14} {'queue':>24} {'synthetic':>24} {'ratio':>20}   (median [range], images/s)")
    for name in WORK if args.work == "all" else [args.work]:
        rows = [
            [images_per_second(*works[name], args.data_dir, source) for source in ("queue", "synthetic")]
            for _ in range(args.rounds)
        ]
        queue, synthetic = zip(*rows, strict=True)
        ratios = [a / b for a, b in rows]
        print(
            f"{name:<14} {show(queue, ',.0f'):>24} {show(synthetic, ',.0f'):>24} {show(ratios, '.3f'):>20}", flush=True
        )


def show(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


if __name__ == "__main__":
    main()
