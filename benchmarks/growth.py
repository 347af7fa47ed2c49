"""Does cost grow as it should: images/s over batch, towers, records and width; memory over records.

    python benchmarks/growth.py --data_dir=data/mnist --plot=benchmarks/growth.png

prints the tables of benchmarks/README.md and draws them. Batches and towers: `python -m trainer.benchmark --scaling`.
Records: random images of 28x28 as shards (up to 0.9 GB, in the directory for temporary files), the mlp, with the
largest resident memory of the run and its seconds outside of the training. Width: the mlp's hidden units.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from input_cost import QUIET, REPO
from matplotlib import pyplot
from peers import at_least_one

from trainer.console import Console
from trainer.data import conversion
from trainer.data.sources.named import DIGIT_NAMES, Source

MLP = ["--model=mlp", "--model_args=dropout=0", "--optimizer=sgd", "--learning_rate=0.1", "--batch_size=128"]
RECORDS = (10_000, 100_000, 1_000_000)
WIDTHS = (64, 128, 256, 512, 1024, 2048)


def write_shards(num_records: int, data_dir: Path) -> None:
    """Writes a data set of the shape of MNIST: random images, 100 of validation and of test."""
    rng = np.random.default_rng(1)

    def read(_: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
        for number in range(source.sizes[split]):
            yield rng.integers(0, 256, (28, 28, 1), np.uint8), number % 10

    sizes = {"train": num_records, "validation": 100, "test": 100}
    source = Source((28, 28, 1), DIGIT_NAMES, sizes, "random", read)
    console = Console()
    console.rich.quiet = True
    conversion.convert("mnist", source, source_dir=data_dir, data_dir=data_dir, num_shards=10, console=console)


def run(data_dir: str, flags: list[str]) -> tuple[float, float, float]:
    """Trains; returns images/s, the largest resident memory in MiB, and the seconds that were not training."""
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "-m", "trainer", "--dataset=mnist", f"--data_dir={Path(data_dir).absolute()}"]
        command += [f"--logdir={logdir}", *QUIET, *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=REPO)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed: status {status}")
        result = json.loads((Path(logdir) / "result.json").read_text())
    steps = float(next(flag for flag in flags if flag.startswith("--train_steps=")).partition("=")[2])
    training = steps * 128 / result["images_per_second"]
    return result["images_per_second"], usage.ru_maxrss / 1024, result["seconds"] - training


def measure_records(rounds: int) -> list[dict[str, float]]:
    """Measures each size in turn, round after round."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in RECORDS}
        for count in RECORDS:
            write_shards(count, Path(folder) / str(count))
        for _ in range(rounds):
            for count in RECORDS:
                found[count].append(run(f"{folder}/{count}", [*MLP, "--train_steps=5000"]))
    keys = ("median", "memory_mib", "other_seconds")
    return [
        {
            "records": count,
            **dict(zip(keys, (statistics.median(part) for part in zip(*rows, strict=True)), strict=True)),
        }
        for count, rows in found.items()
    ]


def measure_widths(data_dir: str, rounds: int) -> list[dict[str, float]]:
    found: dict[int, list[float]] = {width: [] for width in WIDTHS}
    for _ in range(rounds):
        for width in WIDTHS:
            steps = max(500, 1_000_000 // width)
            flags = [*MLP, f"--model_args=hidden_sizes={width}", f"--train_steps={min(steps, 8000)}"]
            found[width].append(run(data_dir, flags)[0])
    return [{"width": width, "median": statistics.median(speeds)} for width, speeds in found.items()]


def measure_scaling(data_dir: str, work: list[str]) -> dict[str, list[dict[str, float]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scaling.json"
        flags = ["--dataset=mnist", f"--data_dir={data_dir}", "--scaling", "--windows=3", "--window_seconds=1"]
        command = [sys.executable, "-m", "trainer.benchmark", *flags, *work, f"--json={path}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPO)
        scaling: dict[str, list[dict[str, float]]] = json.loads(path.read_text())
    return scaling


def table(rows: list[dict[str, float]]) -> str:
    """Writes rows as a table of Markdown."""
    names = [name for name in rows[0] if name not in ("min", "max")]
    lines = ["| " + " | ".join(name.replace("median", "images/s").replace("_", " ") for name in names) + " |"]
    lines.append("|" + "---|" * len(names))
    for row in rows:
        cells = [f"{row[name]:,.1f}" if name == "other_seconds" else f"{row[name]:,.0f}" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(panels: dict[str, list[dict[str, float]]], path: str) -> None:
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6))
    for (title, rows), axis in zip(panels.items(), axes.T.flat, strict=True):
        places = [next(iter(row.values())) for row in rows]
        axis.plot(places, [row["median"] for row in rows], marker="o")
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
        axis.set(title=title, ylabel="images/s")
        axis.set_ylim(0, 1.1 * max(row["median"] for row in rows))
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/mnist")
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--plot", default="", help="draw the figures into this PNG file")
    args = parser.parse_args()
    data_dir = str(Path(args.data_dir).absolute())
    lenet, mlp = (measure_scaling(data_dir, work) for work in (["--model=lenet", "--batch_size=128"], MLP))
    panels = {
        "lenet, batch": lenet["batches"],
        "lenet, towers": lenet["towers"],
        "mlp, batch": mlp["batches"],
        "mlp, towers": mlp["towers"],
        "mlp, records": measure_records(args.rounds),
        "mlp, width": measure_widths(data_dir, args.rounds),
    }
    for title, rows in panels.items():
        print(f"\n{title}\n\n{table(rows)}")
    if args.plot:
        draw(panels, args.plot)


if __name__ == "__main__":
    main()
