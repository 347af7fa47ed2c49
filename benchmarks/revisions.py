"""What a change costs: the same steps by the sources here and by those of an earlier commit, in turn.

    python benchmarks/revisions.py --base=REVISION --data_dir=data/mnist [--way='collective, two workers']

prints the images per second of each in the last three quarters of the steps (median and range), and the median of the
ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from cluster import STEPS, WAYS, our_speed
from input_cost import REPO, WORK, images_per_second, show

PARTS = 4  # of a run, each with its own speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a commit, a tag or a branch")
    parser.add_argument("--data_dir", default="data/mnist")
    parser.add_argument("--base_data_dir", help="the same data in that commit's format, where it is another")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", choices=[*WORK, "all"], default="all")
    parser.add_argument("--input", default="queue", help="of the trainer")
    parser.add_argument("--way", choices=WAYS, help="one of those of cluster.py, with its steps")
    parser.add_argument("flags", nargs="*", help="more flags of the trainer, for the sources here only, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        subprocess.run(["git", "-C", REPO, "worktree", "add", "-q", "--detach", base, args.base], check=True)
        try:
            compare(args, base)
        finally:
            subprocess.run(["git", "-C", REPO, "worktree", "remove", "--force", base], check=True)


def compare(args: argparse.Namespace, base: Path) -> None:
    print(f"{'work':<10} {'here':>24} {args.base:>24} {'ratio':>20}   (median [range], images/s)")
    for name in WORK if args.work == "all" else [args.work]:
        rows = []
        for number in range(args.rounds):
            trees = [REPO, base] if number % 2 == 0 else [base, REPO]  # Neither is always the first.
            speeds = {tree: speed(args, name, tree) for tree in trees}
            rows.append((speeds[REPO], speeds[base]))
        here, there = zip(*rows, strict=True)
        ratios = [a / b for a, b in rows]
        print(f"{name:<10} {show(here, ',.0f'):>24} {show(there, ',.0f'):>24} {show(ratios, '.3f'):>20}", flush=True)


def speed(args: argparse.Namespace, name: str, tree: Path) -> float:
    """Trains by the sources in a tree; reads the images per second."""
    data_dir, more = (args.data_dir, args.flags) if tree == REPO else (args.base_data_dir or args.data_dir, [])
    flags, steps = WORK[name]
    if args.way:
        logs = f"--log_every={STEPS[name] // PARTS}"
        return our_speed(args.way, name, data_dir, tree, [logs, *more], speed_of_later_steps)
    logs = f"--log_every={steps // PARTS}"
    # In the place of the quiet ones, which stand before them.
    return images_per_second(flags, steps, data_dir, args.input, tree, speed_of_later_steps, [logs, *more])


def speed_of_later_steps(logdir: str) -> float:
    """Reads the speed of all steps but those of the first part: what counts as start-up differs between revisions."""
    rows = [json.loads(line) for line in (Path(logdir) / "metrics.jsonl").read_text().splitlines()]
    speeds = {row["step"]: row["images_per_second"] for row in rows if row.get("images_per_second")}
    later = [speed for step, speed in sorted(speeds.items()) if step > max(speeds) // PARTS]
    return statistics.harmonic_mean(later)


if __name__ == "__main__":
    main()
