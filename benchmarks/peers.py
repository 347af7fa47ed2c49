"""This trainer beside other systems: the same model, batch, optimizer and images, in turn.

    python benchmarks/peers.py --data_dir=data/mnist

makes environments for the peers (benchmarks/.environments, some GiB), starts them all, and lets one after another
train for a few seconds, round after round, so that a machine that slows down slows all of them down. This trainer reads
TFRecords through its queue, the others read from memory. It prints images a second (median and range over the rounds)
and the median of the ratios to this trainer within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
REPO = HERE.parent
ENVIRONMENT = dict(os.environ)  # TensorFlow 2 adds to it what version 1 takes for its own.


class Peer(NamedTuple):
    name: str
    environment: str
    script: str
    args: tuple[str, ...] = ()
    works: tuple[str, ...] = ("lenet", "mlp")


OURS = "this trainer, queue"
PEERS = [
    Peer(OURS, "peers", "trainer_queue.py", ("DATA",)),
    Peer("this trainer, queue, 2 towers", "peers", "trainer_queue.py", ("DATA", "--num_gpus=2"), ("lenet",)),
    Peer("this trainer, queue, 50 steps per loop", "peers", "trainer_queue.py", ("DATA", "--steps_per_loop=50")),
    Peer("this trainer, queue, bfloat16", "peers", "trainer_queue.py", ("DATA", "--precision=bfloat16")),
    Peer("this trainer, synthetic", "peers", "trainer_queue.py", ("DATA", "--input=synthetic")),
    Peer("TensorFlow 2.21 graph, feed_dict", "peers", "tf_graph.py"),
    Peer("Keras fit", "peers", "keras_fit.py", ("1", "nojit")),
    Peer("Keras fit, 50 steps per execution", "peers", "keras_fit.py", ("50", "nojit")),
    Peer("Keras fit, jit", "peers", "keras_fit.py", ("1", "jit")),
    Peer("Keras fit, jit, 50 steps per execution", "peers", "keras_fit.py", ("50", "jit")),
    Peer("Keras MirroredStrategy, 2 CPU devices", "peers", "keras_fit.py", ("1", "nojit", "2"), ("lenet",)),
    Peer("Keras fit, bfloat16, 50 per execution", "peers", "keras_fit.py", ("50", "nojit", "0", "mixed_bfloat16")),
    Peer("PyTorch", "peers", "torch_loop.py", ("eager",)),
    Peer("PyTorch compiled", "peers", "torch_loop.py", ("compiled",)),
    Peer("PyTorch, channels last", "peers", "torch_loop.py", ("channels_last",), ("lenet",)),
    Peer("PyTorch, bfloat16", "peers", "torch_loop.py", ("eager", "cpu", "bfloat16")),
    Peer("PyTorch compiled, bfloat16", "peers", "torch_loop.py", ("compiled", "cpu", "bfloat16")),
    Peer("JAX jit", "peers", "jax_jit.py"),
    Peer("tensorpack", "tensorpack", "tensorpack_queue.py"),
    Peer("tf_cnn_benchmarks, synthetic, 3 channels", "tf_cnn", "tf_cnn.py", ("CHECKOUT",), ("lenet",)),
    Peer("TensorFlow 1.15 graph, feed_dict", "tf115", "tf_graph.py"),
]


def make_environment(name: str, folder: Path, interpreter: str) -> Path:
    """Makes an environment of this name, unless it is there; returns its Python."""
    python, ready = folder / name / "bin" / "python", folder / name / "ready"
    if not ready.exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", folder / name], check=True)
        install = ["-r", str(HERE / "peers" / f"requirements_{name}.txt")]
        install += ["-e", str(REPO)] if name == "peers" else []
        subprocess.run([python, "-m", "pip", "install", "--quiet", *install], check=True)
        ready.touch()
    return python


def missing(name: str, checkout: str, python37: str | None) -> str | None:
    """Says what is missing for the peers of an environment; None where nothing is."""
    if name == "tf115" and python37 is None:
        return "there is no Python 3.7"
    if name == "tf_cnn" and not (checkout and any(Path(checkout).glob("**/tf_cnn_benchmarks.py"))):
        return f"--tf_cnn_benchmarks={checkout or 'DIR'} names no checkout of tensorflow/benchmarks"
    return None


def find_python37() -> str | None:
    """Looks for a Python 3.7 that runs, as the stand-in of a version manager may not; TensorFlow 1.15 needs it."""
    candidates = [Path(path) / "python3.7" for path in os.environ.get("PATH", "").split(os.pathsep)]
    candidates += sorted(Path.home().glob(".pyenv/versions/3.7.*/bin/python3.7"))
    return next((str(path) for path in candidates if path.exists() and _runs(path)), None)


def _runs(python: Path) -> bool:
    return subprocess.run([python, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0


def at_least_one(text: str) -> int:
    """Reads a count of the command line."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def convert(data_dir: Path) -> None:
    """Converts MNIST, unless it is there: from the four files in MNIST_DIR, or else from those it downloads."""
    if (data_dir / "manifest.json").exists():
        return
    files = os.environ.get("MNIST_DIR")
    command = [sys.executable, "-m", "trainer.convert", "--dataset=mnist", f"--data_dir={data_dir.absolute()}"]
    subprocess.run(command + ([f"--source_dir={files}"] if files else []), check=True, cwd=REPO)


def write_arrays(data_dir: Path, path: Path, split: str = "train") -> None:
    """Writes a split as arrays, for the peers to read into memory."""
    sys.path.insert(0, str(REPO))
    from trainer.data.manifest import load_manifest
    from trainer.data.records import load_split

    images, labels = load_split(load_manifest(data_dir), split)
    np.savez(path, images=images, labels=labels)


class Running:
    """A peer that has been started."""

    def __init__(self, peer: Peer, python: Path, work: str, names: dict[str, str], arrays: Path) -> None:
        self.peer = peer
        args = [names.get(arg, arg) for arg in peer.args]
        environment = {**ENVIRONMENT, "PEERS_DATA": str(arrays), "TF_CPP_MIN_LOG_LEVEL": "2"}
        if peer.script == "trainer_queue.py":
            environment["PYTHONPATH"] = str(REPO)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (`stop` closes it)
        self.process = subprocess.Popen(
            [str(python), str(HERE / "peers" / peer.script), work, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )

    def answer(self, word: str) -> str | None:
        """Waits for a line that begins with a word; None where the process has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        return None

    def speed(self, seconds: float) -> float | None:
        """Lets it train; returns images a second."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self.answer("SPEED")
        return None if answer is None else float(answer)

    def why(self) -> str:
        """Finds the last line that it wrote before it ended."""
        self.process.wait()
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return f"exit code {self.process.returncode}: {lines[-1] if lines else 'no output'}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


def measure(work: str, args: argparse.Namespace, folder: Path, arrays: Path) -> dict[str, list[float]]:
    """Measures all peers of one work in turn; says which cannot be measured, and why."""
    console, python37 = Console(), find_python37()
    names = {"DATA": str(Path(args.data_dir).absolute()), "CHECKOUT": str(Path(args.tf_cnn_benchmarks).absolute())}
    running: list[Running] = []
    try:
        for peer in PEERS:
            if work not in peer.works or (args.only and args.only not in peer.name and peer.name != OURS):
                continue
            lack = missing(peer.environment, args.tf_cnn_benchmarks, python37)
            if lack:
                console.print(f"{peer.name}: not measured, {lack}")
                continue
            interpreter = str(python37) if peer.environment == "tf115" else sys.executable
            try:
                python = make_environment(peer.environment, folder, interpreter)
            except subprocess.CalledProcessError as error:
                if peer.name == OURS:
                    raise SystemExit(f"{peer.name}: {error}") from error
                console.print(f"{peer.name}: not measured, {error}")
                continue
            each = Running(peer, python, work, names, arrays)
            running.append(each)
            if each.answer("READY") is None:  # One after another: they share the cores.
                if peer.name == OURS:
                    raise SystemExit(f"{peer.name}: {each.why()}")
                console.print(f"{peer.name}: not measured, {each.why()}")
                running.remove(each)
        speeds: dict[str, list[float]] = {each.peer.name: [] for each in running}
        for _ in range(args.rounds):
            for each in running:
                found = each.speed(args.seconds)
                if found is None:
                    raise SystemExit(f"{each.peer.name}: {each.why()}")
                speeds[each.peer.name].append(found)
        return speeds
    finally:
        for each in running:
            each.stop()


def table_of(work: str, speeds: dict[str, list[float]]) -> Table:
    table = Table("system", "images/s", "range", "this trainer / it", "range", title=work)
    for name, values in sorted(speeds.items(), key=lambda item: -statistics.median(item[1])):
        ratios = [ours / other for ours, other in zip(speeds[OURS], values, strict=True)]
        table.add_row(
            name,
            f"{statistics.median(values):,.0f}",
            f"{min(values):,.0f}-{max(values):,.0f}",
            f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f}-{max(ratios):.3f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/mnist", help="MNIST; converted there where it is not yet")
    parser.add_argument("--work", choices=["lenet", "mlp", "all"], default="all")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each peer in each round")
    parser.add_argument("--only", default="", help="only peers whose name holds this, and this trainer")
    parser.add_argument("--environments", default=str(HERE / ".environments"), help="where the peers are installed")
    parser.add_argument(
        "--tf_cnn_benchmarks", default="", help="a checkout of tensorflow/benchmarks, which is then measured"
    )
    parser.add_argument("--json", default="", help="write the figures to this file")
    args = parser.parse_args()
    folder = Path(args.environments).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    convert(Path(args.data_dir))
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        arrays = Path(temporary) / "train.npz"
        write_arrays(Path(args.data_dir), arrays)
        for work in ("lenet", "mlp") if args.work == "all" else (args.work,):
            figures[work] = measure(work, args, folder, arrays)
            Console(width=120).print(table_of(work, figures[work]))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
