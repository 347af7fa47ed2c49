"""The trainer on a GPU: where its operations run, traces, and its speed beside PyTorch. `benchmarks/gpu.sh` calls it.

Works: lenet and the mlp on the shapes of MNIST, VGG-11 on those of ImageNet (224x224x3, 1,000 classes), all on random
images; batch, precision, one tower or two on one GPU that is split. `--device=cpu` rehearses it on virtual CPU devices.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from peers import ENVIRONMENT, HERE, REPO, Peer, Running, at_least_one

from trainer.console import Console
from trainer.data import conversion
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.data.sources.named import Source
from trainer.settings.config import Config, validate
from trainer.signals import Signals

SHAPES = {"lenet": ((28, 28, 1), 10, 10_000), "mlp": ((28, 28, 1), 10, 10_000), "vgg11": ((224, 224, 3), 1000, 512)}
BATCHES = {"lenet": (128, 1024), "mlp": (128, 1024), "vgg11": (64, 128, 256)}
PRECISIONS = ("float32", "bfloat16", "float16")
ARRIVAL = re.compile(r"/_\d+$")  # of what TensorFlow adds where a graph is cut over devices


def write_shards(work: str, data_dir: Path) -> None:
    """Writes random images of the work's shape."""
    shape, classes, count = SHAPES[work]
    rng = np.random.default_rng(1)

    def read(_: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
        for number in range(source.sizes[split]):
            yield rng.integers(0, 256, shape, np.uint8), number % classes

    names = tuple(str(number) for number in range(classes))
    source = Source(shape, names, {"train": count, "validation": 16, "test": 16}, "random", read)
    console = Console()
    console.rich.quiet = True
    conversion.convert("mnist", source, source_dir=data_dir, data_dir=data_dir, num_shards=4, console=console)


def check_placement(args: argparse.Namespace) -> None:
    """Runs a step on two towers; prints where its operations were, and what was copied between devices.

    Raises:
      SystemExit: an operation of a tower was not on the tower's device, or a variable not on the one asked for.
    """
    from trainer.tf1 import tf
    from trainer.training.measuring import open_bench

    flags = {"num_gpus": 2, "virtual_gpus": True, "device": args.device, "parameter_device": args.parameter_device}
    console = Console()
    console.rich.quiet = True
    config = Config(data_dir=args.check, dataset="mnist", logdir=tempfile.mkdtemp(), train_steps=10, **flags)
    with open_bench(validate(config), console, Signals()) as bench:
        metadata = tf.RunMetadata()
        options = tf.RunOptions(output_partition_graphs=True)
        bench.session.run(bench.graphs.train.train_op, options=options, run_metadata=metadata)
    places: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    copies: collections.Counter[str] = collections.Counter()
    for graph in metadata.partition_graphs:
        for node in graph.node:
            device = node.device.rpartition("device:")[2]
            if node.op in ("_Send", "_HostSend") and "/ctrl/" in node.input[0]:
                continue  # Orders two operations, carries nothing.
            if node.op == "Identity" and ARRIVAL.search(node.name):
                continue  # Where such an order arrives, on the device of what waits for it.
            if node.op in ("_Send", "_HostSend"):
                ends = [node.attr[end].s.decode().rpartition("device:")[2] for end in ("send_device", "recv_device")]
                copies[" -> ".join(ends)] += 1
            elif node.op == "VarHandleOp":
                places["variables"][device] += 1
            elif node.name.startswith("tower_") and node.op not in ("_Recv", "_HostRecv", "Const", "ReadVariableOp"):
                places[node.name.partition("/")[0]][device] += 1
    kind = args.device.upper()
    wanted = {"tower_0": f"{kind}:0", "tower_1": f"{kind}:1"}
    wanted["variables"] = f"{kind}:0" if args.parameter_device == "gpu" else "CPU:0"
    for part, device in wanted.items():
        if set(places[part]) != {device}:
            raise SystemExit(f"{part}: wanted all on {device}, found {dict(places[part])}")
    print(json.dumps({"placement": places, "copies": copies}))


def trace_devices(data_dir: Path, args: argparse.Namespace, out: Path) -> list[str]:
    """Traces a step of a run; returns the lanes of its Chrome trace."""
    logdir = out / "trace"
    command = [sys.executable, "-m", "trainer", "--dataset=mnist", f"--data_dir={data_dir}", f"--logdir={logdir}"]
    command += ["--resume=never", f"--device={args.device}", "--train_steps=40", "--trace_every=30", "--eval_every=0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    events = json.loads((logdir / "traces" / "step_30.json").read_text())["traceEvents"]
    return sorted({event["args"]["name"] for event in events if event.get("name") == "process_name"})


def first_steps(data_dir: Path, args: argparse.Namespace) -> list[float]:
    """Starts the trainer twice for one step; the first compiles what the cache does not hold yet: seconds."""
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as logdir:
            command = [sys.executable, "-m", "trainer", "--dataset=mnist", f"--data_dir={data_dir}", "--train_steps=1"]
            command += [f"--logdir={logdir}", "--eval_every=0", f"--device={args.device}"]
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found.append(round(time.perf_counter() - begin, 1))
    return found


def peers_of(args: argparse.Namespace, torch: bool) -> list[Peer]:
    ours = [f"--device={args.device}"]
    found = [Peer(f"trainer, {p}", "", "trainer_queue.py", ("DATA", *ours, f"--precision={p}")) for p in PRECISIONS]
    split = ("DATA", *ours, "--num_gpus=2", "--virtual_gpus")
    found.append(Peer("trainer, float32, 2 towers", "", "trainer_queue.py", split))
    found.append(Peer("trainer, float32, 2 towers, buckets", "", "trainer_queue.py", (*split, "--bucket_mb=32")))
    found.append(
        Peer("trainer, float32, variables on the GPU", "", "trainer_queue.py", ("DATA", *ours, GPU_PARAMETERS))
    )
    found.append(Peer("trainer, float32, channels last", "", "trainer_queue.py", ("DATA", *ours, CHANNELS_LAST)))
    found.append(Peer("trainer, float32, no staging", "", "trainer_queue.py", ("DATA", *ours, "--staging=no")))
    place = "cuda" if args.device == "gpu" else "cpu"
    modes = [(mode, p) for p in PRECISIONS for mode in ("eager", "compiled")] if torch else []
    return found + [Peer(f"PyTorch {mode}, {p}", "torch", "torch_loop.py", (mode, place, p)) for mode, p in modes]


GPU_PARAMETERS = "--parameter_device=gpu"
CHANNELS_LAST = "--data_format=channels_last"


def measure(work: str, batch: int, folder: Path, args: argparse.Namespace, torch: bool) -> dict[str, list[float]]:
    """Measures each system in turn, round after round; each has the GPU's memory to itself: it starts, trains, ends."""
    ENVIRONMENT["PEERS_BATCH"] = str(batch)
    speeds: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(args.rounds):
        for peer in peers_of(args, torch):
            python = Path(os.environ["TORCH_PYTHON"] if peer.environment == "torch" else sys.executable)
            running = Running(peer, python, work, {"DATA": str(folder)}, folder / "train.npz")
            try:
                speed = running.speed(args.seconds) if running.answer("READY") is not None else None
                if speed is None:
                    print(f"{work}, batch {batch}, {peer.name}: not measured, {running.why()}", flush=True)
                else:
                    speeds[peer.name].append(speed)
            finally:
                running.stop()
    return speeds


def machine_facts(folder: Path, args: argparse.Namespace, out: Path) -> dict[str, object]:
    """Finds what is not a speed: first steps, placement, copies, lanes of a trace."""
    facts: dict[str, object] = {"command to the end of one step, twice, s": first_steps(folder, args)}
    for place in ("cpu", "gpu"):
        flags = [f"--check={folder}", f"--device={args.device}", f"--parameter_device={place}"]
        command = [sys.executable, str(HERE / "gpu.py"), *flags]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPO)
        facts[f"two towers, --parameter_device={place}"] = json.loads(done.stdout.splitlines()[-1])
    facts["lanes of a trace"] = trace_devices(folder, args, out)
    return facts


def table_of(title: str, speeds: dict[str, list[float]]) -> list[str]:
    lines = ["", f"## {title}", "", "| system | images/s | range |", "|---|---|---|"]
    for name, found in sorted(speeds.items(), key=lambda item: -statistics.median(item[1])):
        lines.append(f"| {name} | {statistics.median(found):,.0f} | {min(found):,.0f}-{max(found):,.0f} |")
    return lines


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--out", default="gpu-results")
    parser.add_argument("--works", default="lenet,mlp,vgg11")
    parser.add_argument("--batches", default="", help="instead of those of each work, comma-separated")
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--check", default="", help=argparse.SUPPRESS)
    parser.add_argument("--parameter_device", default="cpu", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if unknown := set(args.works.split(",")) - set(SHAPES):
        raise SystemExit(f"--works={','.join(sorted(unknown))} is unknown: choose of {', '.join(SHAPES)}")
    if args.check:
        check_placement(args)
        return
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCH_PYTHON", "python3")
    torch = subprocess.run(["sh", "-c", '"$TORCH_PYTHON" -c "import torch"'], capture_output=True).returncode == 0
    lines, figures = ["# The trainer on this machine"], {}
    with tempfile.TemporaryDirectory() as temporary:
        for work in args.works.split(","):
            folder = Path(temporary) / work
            write_shards(work, folder)
            images, labels = load_split(load_manifest(folder), "train")
            np.savez(folder / "train.npz", images=images, labels=labels)
            if not figures:
                figures["facts"] = machine_facts(folder, args, out)
                lines += [f"\n{name}: {fact}" for name, fact in figures["facts"].items()]
                print("\n".join(lines), flush=True)
            for batch in [int(size) for size in args.batches.split(",") if size] or BATCHES[work]:
                title = f"{work}, batch {batch}"
                figures[title] = measure(work, batch, folder, args, torch)
                new = table_of(title, figures[title])
                print("\n".join(new), flush=True)
                lines += new
                (out / "gpu.md").write_text("\n".join(lines) + "\n")
                (out / "gpu.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
