"""Evaluating lenet on MNIST's 10,000 test images, beside Keras `evaluate`, in turn.

    python benchmarks/evaluation.py --data_dir=data/mnist

This trainer reads the records from disk, as at the end of a run; Keras has the images in memory, in the same batches.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from input_cost import show

BATCH = 500


def serve(evaluate) -> None:
    """Evaluates for each line of standard input, and answers with images a second."""
    evaluate()
    print("READY", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        count = evaluate()
        print("SPEED", count / (time.perf_counter() - begin), flush=True)


def serve_trainer(data_dir: str, precision: str) -> None:
    import contextlib
    import dataclasses

    from trainer.console import Console
    from trainer.evaluating import evaluation
    from trainer.settings.config import Config, validate
    from trainer.signals import Signals
    from trainer.training.measuring import open_bench

    console = Console()
    console.rich.quiet = True
    config = validate(Config(dataset="mnist", data_dir=data_dir, ema_decay=0.0, train_steps=1, precision=precision))
    with (
        tempfile.TemporaryDirectory() as logdir,
        open_bench(dataclasses.replace(config, logdir=logdir), console, Signals()) as bench,
    ):

        def evaluate() -> int:
            evaluation.evaluate(
                bench.session,
                graph=bench.graphs.eval,
                metrics=bench.job.task.metrics,
                spec=bench.job.spec,
                split="test",
                reading=contextlib.nullcontext,
                batch_size=BATCH,
            )
            return bench.job.spec.num_examples("test")

        serve(evaluate)


def serve_keras(data_dir: str) -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import numpy as np

    layers = keras.layers
    with np.load(data_dir) as arrays:
        images, labels = arrays["images"].astype("float32") / 255, arrays["labels"]
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])

    def evaluate() -> int:
        model.evaluate(images, labels, batch_size=BATCH, verbose=0)
        return len(labels)

    serve(evaluate)


def start(kind: str, data: str, precision: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("TF2_BEHAVIOR", None)
    process = subprocess.Popen(
        [sys.executable, __file__, f"--serve={kind}", f"--data_dir={data}", f"--precision={precision}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    answer(process, "READY")
    return process


def answer(process: subprocess.Popen[str], word: str) -> str:
    for line in process.stdout or ():
        if line.startswith(word):
            return line.removeprefix(word)
    raise SystemExit(f"a process ended with code {process.wait()}: {' '.join(map(str, process.args))}")


def speed(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(answer(process, "SPEED"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/mnist")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", default="float32", help="of this trainer")
    parser.add_argument("--serve", choices=["trainer", "keras"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve_trainer(args.data_dir, args.precision) if args.serve == "trainer" else serve_keras(args.data_dir)

    import numpy as np

    from trainer.data.manifest import load_manifest
    from trainer.data.records import load_split

    folder = Path(args.data_dir).absolute()
    with tempfile.TemporaryDirectory() as temporary:
        images, labels = load_split(load_manifest(folder), "test")
        np.savez(f"{temporary}/test.npz", images=images, labels=labels)
        data = {"trainer": str(folder), "keras": f"{temporary}/test.npz"}
        processes = [start(kind, path, args.precision) for kind, path in data.items()]
        try:
            pairs = [[speed(process) for process in processes] for _ in range(args.rounds)]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    ours, keras = zip(*pairs, strict=True)
    print(f"this trainer {show(list(ours), ',.0f')}, Keras evaluate {show(list(keras), ',.0f')} images/s")
    print(f"ratio {statistics.median(a / b for a, b in pairs):.3f} [{min(a / b for a, b in pairs):.3f}-", end="")
    print(f"{max(a / b for a, b in pairs):.3f}]")
    return None


if __name__ == "__main__":
    main()
