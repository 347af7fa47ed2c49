"""What more processes cost: two workers beside one process with two towers, and beside others' two, in turn.

    python benchmarks/cluster.py --data_dir=data/mnist

makes an environment for the peers (benchmarks/.environments), trains by each in turn, and prints the images per second
(median and range), and the median of the ratios to one process within a round. All share the same batches of 128, but
that with `ps_async` each worker has a batch of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from input_cost import QUIET, REPO, WORK, Read, show, speed_of_run
from peers import convert, make_environment, write_arrays

LOCAL = ["launch", "local", "--workers=2"]
WAYS = {
    "one process, two towers": (["trainer"], ["--num_gpus=2"]),
    "one process, two towers, replicated": (["trainer"], ["--num_gpus=2", "--strategy=replicated"]),
    "collective, two workers": ([*LOCAL, "--"], []),
    "collective, each gradient by itself": ([*LOCAL, "--"], ["--bucket_mb=0"]),
    "ps_sync, two workers, one server": ([*LOCAL, "--ps=1", "--"], []),
    "ps_async, two workers, one server": ([*LOCAL, "--ps=1", "--"], ["--strategy=ps_async"]),
}
PEERS = {"PyTorch DistributedDataParallel, gloo": "torch_workers.py"}
STEPS = {"lenet": 300, "mnist_mlp": 1500}


def our_speed(
    way: str, work: str, data_dir: str, tree: Path = REPO, more: Sequence[str] = (), read: Read = speed_of_run
) -> float:
    """Trains in one of the ways by the sources in `tree`; reads the speed of its steps."""
    module, flags = WAYS[way]
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "-m", *module, f"--data_dir={Path(data_dir).absolute()}"]
        command += [f"--logdir={logdir}", *WORK[work][0], *QUIET, "--batch_size=128", f"--train_steps={STEPS[work]}"]
        subprocess.run([*command, *flags, *more], check=True, stdout=subprocess.DEVNULL, cwd=tree, timeout=300)
        return read(logdir)


def peer_speed(script: str, work: str, python: Path, arrays: Path) -> float:
    """Starts both processes of a peer; reads the speed that the first prints."""
    sys.path.insert(0, str(REPO))
    from launch.plan import free_ports

    port = str(free_ports(1)[0])
    name = "lenet" if work == "lenet" else "mlp"
    command = [str(python), str(REPO / "benchmarks" / "peers" / script), name, str(STEPS[work])]
    environment = {**os.environ, "PEERS_DATA": str(arrays)}
    processes = [
        subprocess.Popen([*command, str(index), "2", port], stdout=subprocess.PIPE, text=True, env=environment)
        for index in (0, 1)
    ]
    try:
        out = processes[0].communicate(timeout=300)[0]
        return float(re.search(r"^SPEED (\S+)$", out, re.MULTILINE)[1])  # type: ignore[index]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/mnist")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", choices=[*STEPS, "all"], default="all")
    parser.add_argument("--environments", default=str(REPO / "benchmarks" / ".environments"))
    args = parser.parse_args()
    convert(Path(args.data_dir))
    python = make_environment("peers", Path(args.environments), sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "train.npz"
        write_arrays(Path(args.data_dir), arrays)
        for work in STEPS if args.work == "all" else [args.work]:
            rounds = []
            for _ in range(args.rounds):
                ours = [our_speed(way, work, args.data_dir) for way in WAYS]
                rounds.append(ours + [peer_speed(script, work, python, arrays) for script in PEERS.values()])
            print(f"{work}: images/s, median [range], and the ratio to one process")
            for number, way in enumerate([*WAYS, *PEERS]):
                speeds = [row[number] for row in rounds]
                ratios = [row[number] / row[0] for row in rounds]
                print(f"  {way:<38} {show(speeds, ',.0f'):>24} {show(ratios, '.3f'):>20}", flush=True)


if __name__ == "__main__":
    main()
