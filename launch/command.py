"""The command line of `python -m launch`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

LOCAL = """runs a job of several tasks on this machine

everything after -- goes to `python -m trainer`, the same for every task:
  python -m launch local --workers=2 -- --flagfile=configs/mnist_lenet.flags
exit code: that of the task that ended the job; 130 or 143 after Ctrl-C or SIGTERM"""

SLURM = """writes a batch script for Slurm, or submits it: all its tasks are workers

everything after -- goes to `python -m trainer`, the same for every task:
  python -m launch slurm --nodes=2 --time=4:00:00 --submit -- --flagfile=configs/mnist_lenet.flags
90 s before the time limit the tasks save and end, and the job goes back to the queue, and on when it starts again"""

KUBERNETES = """prints the manifests of a job for Kubeflow, and the NetworkPolicy that closes its ports to others

everything after -- goes to `python -m trainer`, the same for every pod:
  python -m launch kubernetes --image=registry/trainer:1 --workers=2 --volume=claim > job.yaml -- --logdir=/data/run"""
HOSTS = """prints the exact command for each host

everything after -- goes to `python -m trainer`, the same for every host:
  python -m launch hosts --hosts=a,b --dry_run -- --flagfile=configs/mnist_lenet.flags"""


def main(argv: Sequence[str]) -> int:
    """Runs a subcommand; returns the exit code."""
    argv = list(argv)
    split = argv.index("--") if "--" in argv else len(argv)
    options = _make_parser().parse_args(argv[:split])
    try:
        return int(options.run(options, argv[split + 1 :]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _run_local(options: argparse.Namespace, args: Sequence[str]) -> int:
    from launch import local  # What it prints with takes longer to import than `--help` may.

    return local.run(options, args)


def _run_slurm(options: argparse.Namespace, args: Sequence[str]) -> int:
    from launch import slurm

    return slurm.run(options, args)


def _run_kubernetes(options: argparse.Namespace, args: Sequence[str]) -> int:
    from launch import kubernetes

    return kubernetes.run(options, args)


def _run_hosts(options: argparse.Namespace, args: Sequence[str]) -> int:
    from launch import hosts

    return hosts.run(options, args)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch", description="Starts many trainers.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_local(commands)
    _add_slurm(commands)
    _add_kubernetes(commands)
    _add_hosts(commands)
    return parser


def _add_command(
    commands: Any, name: str, text: str, description: str, run: Callable[[argparse.Namespace, Sequence[str]], int]
) -> Callable[..., Any]:
    layout = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=text, description=description, formatter_class=layout, allow_abbrev=False)
    parser.set_defaults(run=run)
    add: Callable[..., Any] = parser.add_argument
    return add


def _add_local(commands: Any) -> None:
    add = _add_command(commands, "local", "on this machine", LOCAL, _run_local)
    add("--workers", type=_whole(1), default=1, metavar="N", help="worker processes; worker 0 is the chief")
    add("--ps", type=_whole(0), default=0, metavar="N", help="parameter servers, which hold the variables")
    add("--evaluator", action="store_true", help="one more task evaluates each checkpoint as it comes")
    add("--towers", type=_whole(0), default=0, metavar="N", help="towers of each worker, as --num_gpus of the trainer")
    add("--gpus_per_worker", type=_whole(0), default=0, metavar="K", help="GPUs that each worker sees (default: all)")
    cores = "cores to which each worker is bound, none with 0 (default: an equal share, where there is one)"
    add("--cpus_per_worker", type=_whole(0), metavar="N", help=cores)
    add("--max_restarts", type=_whole(0), default=0, metavar="N", help="starts of the tasks after the first one")
    add("--elastic", action="store_true", help="a lost worker restarts the others without it, and then with it again")
    add("--grace_seconds", type=_whole(1), default=30, metavar="S", help="from SIGTERM to SIGKILL (default: 30)")
    add(
        "--network",
        choices=("auto", "private", "open"),
        default="auto",
        help="private: the tasks talk in a network that nothing outside can reach; open: they do not; auto: private "
        "where the system allows it (default: auto)",
    )


def _add_slurm(commands: Any) -> None:
    add = _add_command(commands, "slurm", "as a batch script", SLURM, _run_slurm)
    add("--nodes", type=_whole(1), default=1, metavar="N", help="nodes")
    add("--tasks_per_node", type=_whole(1), default=1, metavar="N", help="workers on each node")
    add("--cpus_per_task", type=_whole(0), default=0, metavar="N", help="cores of each worker (default: Slurm's)")
    add("--gpus_per_task", type=_whole(0), default=0, metavar="N", help="GPUs of each worker (default: Slurm's)")
    add("--time", default="", metavar="LIMIT", help="time limit, as 4:00:00 or 2-12 (default: the partition's)")
    add("--partition", default="", metavar="NAME", help="partition (default: Slurm's)")
    add("--job_name", default="trainer", metavar="NAME", help="name of the job and of its log (default: trainer)")
    add("--python", default="", metavar="PATH", help="interpreter on the nodes (default: this one)")
    add("--max_restarts", type=_whole(0), default=3, metavar="N", help="starts after a task was lost (default: 3)")
    add("--submit", action="store_true", help="give the script to sbatch instead of printing it")


def _add_kubernetes(commands: Any) -> None:
    add = _add_command(commands, "kubernetes", "as manifests", KUBERNETES, _run_kubernetes)
    add("--kind", choices=("tfjob", "trainjob"), default="tfjob", help="of Kubeflow's operator v1, or of Trainer v2")
    add("--name", default="trainer", help="of the job (default: trainer)")
    add("--namespace", default="", help="of the job (default: that of kubectl)")
    add("--image", required=True, help="container image with the trainer, as launch/Dockerfile makes it")
    add("--workers", type=_whole(1), default=1, metavar="N", help="worker pods; worker 0 is the chief")
    add("--ps", type=_whole(0), default=0, metavar="N", help="pods of parameter servers, which hold the variables")
    add("--evaluator", action="store_true", help="one more pod evaluates each checkpoint as it comes")
    add("--gpus_per_worker", type=_whole(0), default=0, metavar="N", help="GPUs of each worker")
    add("--cpus", default="", metavar="N", help="cores that each pod asks for")
    add("--memory", default="", metavar="SIZE", help="memory limit of each pod, as 16Gi")
    add("--shared_memory", default="1Gi", metavar="SIZE", help="size of /dev/shm, for NCCL (default: 1Gi)")
    add("--volume", default="", metavar="CLAIM", help="PersistentVolumeClaim with data and run directory")
    add("--mount", default="/data", metavar="PATH", help="where the volume is in the pods (default: /data)")
    add("--max_restarts", type=_whole(0), default=10, metavar="N", help="starts of pods that were lost (default: 10)")


def _add_hosts(commands: Any) -> None:
    add = _add_command(commands, "hosts", "as a command for each host", HOSTS, _run_hosts)
    add("--hosts", required=True, metavar="A,B", help="hosts, of which the first is the chief")
    add("--ps_hosts", default="", metavar="C,D", help="hosts of parameter servers, which hold the variables")
    add("--port", type=_whole(1, 65535), default=2222, metavar="N", help="port of each task (default: 2222)")
    add("--dry_run", action="store_true", required=True, help="print the commands, which is all that can be done")
    add("--network_is_isolated", action="store_true", help="allow public addresses: nobody else reaches the ports")


def _whole(smallest: int, largest: int = 10_000) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not smallest <= int(text) <= largest:
            raise argparse.ArgumentTypeError(f"{text} is out of range: a whole number from {smallest} to {largest:,}")
        return int(text)

    return parse
