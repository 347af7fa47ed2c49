"""What a second process costs: two workers beside one process with two towers, the same batches, in turn.

    python benchmarks/cluster.py --data_dir=data/mnist

prints the images per second of each (median and range), and the median of the ratios to one process within a round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from input_cost import QUIET, REPO, WORK, show

WAYS = {
    "one process, two towers": (["trainer"], ["--num_gpus=2"]),
    "collective, two workers": (["launch", "local", "--workers=2", "--"], []),
    "collective, each gradient by itself": (["launch", "local", "--workers=2", "--"], ["--bucket_mb=0"]),
}
STEPS = {"lenet": 300, "mnist_mlp": 1500}


def images_per_second(way: str, work: str, data_dir: str) -> float:
    """Trains in one of the ways; reads the speed of its steps, start-up apart."""
    module, flags = WAYS[way]
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "-m", *module, "--dataset=mnist", f"--data_dir={Path(data_dir).absolute()}"]
        command += [f"--logdir={logdir}", *WORK[work][0], *QUIET, "--batch_size=128", f"--train_steps={STEPS[work]}"]
        subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL, cwd=REPO, timeout=300)
        return float(json.loads((Path(logdir) / "result.json").read_text())["images_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/mnist")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", choices=[*STEPS, "all"], default="all")
    args = parser.parse_args()
    for work in STEPS if args.work == "all" else [args.work]:
        rounds = [[images_per_second(way, work, args.data_dir) for way in WAYS] for _ in range(args.rounds)]
        print(f"{work}: images/s, median [range], and the ratio to one process")
        for number, way in enumerate(WAYS):
            speeds = [row[number] for row in rounds]
            ratios = [row[number] / row[0] for row in rounds]
            print(f"  {way:<36} {show(speeds, ',.0f'):>24} {show(ratios, '.3f'):>20}", flush=True)


if __name__ == "__main__":
    main()
