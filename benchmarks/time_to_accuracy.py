"""Time to 99% on MNIST's test images from a cold start: this trainer, Keras and PyTorch by one recipe, in turn.

    python benchmarks/time_to_accuracy.py --data_dir=data/mnist

runs configs/mnist_lenet_quick.flags and the same recipe in Keras and PyTorch (without averaged weights), each as a
process of its own, from its start to its end, everything included. It prints the seconds and the accuracies.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from input_cost import show
from peers import HERE, REPO, at_least_one, convert, make_environment, write_arrays

CONFIG = REPO / "configs" / "mnist_lenet_quick.flags"
PEERS = {
    "Keras": ("keras_recipe.py", "float32"),
    "Keras, mixed_bfloat16": ("keras_recipe.py", "mixed_bfloat16"),
    "PyTorch": ("torch_recipe.py", "float32"),
    "PyTorch, bfloat16": ("torch_recipe.py", "bfloat16"),
}


def run_ours(data_dir: str, seed: int, precision: str) -> float:
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "-m", "trainer", f"--flagfile={CONFIG}", f"--precision={precision}"]
        command += [f"--data_dir={Path(data_dir).absolute()}", f"--logdir={logdir}", f"--seed={seed}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPO)
        return float(json.loads((Path(logdir) / "result.json").read_text())["test_accuracy"])


def run_peer(python: Path, script: str, precision: str, arrays: dict[str, Path]) -> float:
    environment = {**os.environ, "PEERS_DATA": str(arrays["train"]), "PEERS_TEST": str(arrays["test"])}
    command = [str(python), str(HERE / "peers" / script), precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ACCURACY"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/mnist", help="MNIST; converted there where it is not yet")
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--environments", default=str(HERE / ".environments"), help="where the peers are installed")
    args = parser.parse_args()
    folder = Path(args.environments).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    convert(Path(args.data_dir))
    python = make_environment("peers", folder, sys.executable)
    names = ["this trainer, bfloat16", "this trainer, float32", *PEERS]
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        arrays = {split: Path(temporary) / f"{split}.npz" for split in ("train", "test")}
        for split, path in arrays.items():
            write_arrays(Path(args.data_dir), path, split)
        for seed in range(1, args.rounds + 1):
            for name in names:
                begin = time.perf_counter()
                if name in PEERS:
                    accuracy = run_peer(python, *PEERS[name], arrays)
                else:
                    accuracy = run_ours(args.data_dir, seed, name.split()[-1])
                figures[name].append((time.perf_counter() - begin, accuracy))
    for name, rows in figures.items():
        seconds, accuracies = zip(*rows, strict=True)
        print(f"{name:<24} {show(seconds, '.1f'):>20} s   {show(accuracies, '.2%')}")
    ours = statistics.median(row[0] for row in figures[names[0]])
    print(
        "ratios to the first: " + ", ".join(f"{statistics.median(r[0] for r in figures[n]) / ours:.2f}" for n in names)
    )


if __name__ == "__main__":
    main()
