"""The command line of `python -m launch`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

LOCAL = """runs a job of several tasks on this machine

everything after -- goes to `python -m trainer`, the same for every task:
  python -m launch local --workers=2 -- --flagfile=configs/mnist_lenet.flags
exit code: that of the task that ended the job; 130 or 143 after Ctrl-C or SIGTERM"""


def main(argv: Sequence[str]) -> int:
    """Runs a subcommand; returns the exit code."""
    argv = list(argv)
    split = argv.index("--") if "--" in argv else len(argv)
    options = _make_parser().parse_args(argv[:split])

    from launch import local  # What it prints with takes longer to import than `--help` may.

    try:
        return local.run(options, argv[split + 1 :])
    except local.LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch", description="Starts many trainers.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    local = commands.add_parser(
        "local",
        help="on this machine",
        description=LOCAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = local.add_argument
    add("--workers", type=_whole(1), default=1, metavar="N", help="worker processes; worker 0 is the chief")
    add("--ps", type=_whole(0), default=0, metavar="N", help="parameter servers")
    add("--evaluator", action="store_true", help="one more task evaluates each checkpoint as it comes")
    add("--towers", type=_whole(0), default=0, metavar="N", help="towers of each worker, as --num_gpus of the trainer")
    add("--gpus_per_worker", type=_whole(0), default=0, metavar="K", help="GPUs that each worker sees (default: all)")
    add("--max_restarts", type=_whole(0), default=0, metavar="N", help="starts of the tasks after the first one")
    add("--grace_seconds", type=float, default=30.0, help="from SIGTERM to SIGKILL (default: 30)")
    add(
        "--network",
        choices=("auto", "private", "open"),
        default="auto",
        help="private: the tasks talk in a network that nothing outside can reach; open: they do not; auto: private "
        "where the system allows it (default: auto)",
    )
    return parser


def _whole(smallest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not smallest <= int(text) <= 10_000:
            raise argparse.ArgumentTypeError(f"{text} is out of range: a whole number from {smallest} to 10,000")
        return int(text)

    return parse
