"""The options of every subcommand of `python -m launch`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

LOCAL = """runs a job of several tasks on this machine

everything after -- goes to `python -m trainer`, the same for every task:
  python -m launch local --workers=2 -- --flagfile=configs/mnist_lenet.flags
exit code: that of the task that ended the job; 129, 130 or 143 after SIGHUP, Ctrl-C or SIGTERM"""

SLURM = """writes a batch script for Slurm, or submits it

everything after -- goes to `python -m trainer`, the same for every task:
  python -m launch slurm --nodes=2 --time=4:00:00 --submit -- --flagfile=configs/mnist_lenet.flags
90 s before the time limit the tasks save and end, and the job goes back to the queue, and on when it starts again"""

KUBERNETES = """prints the manifests of a job for Kubeflow, and the NetworkPolicy that closes its ports to others

everything after -- goes to `python -m trainer`, the same for every pod:
  python -m launch kubernetes --image=registry/trainer:1 --workers=2 --volume=claim > job.yaml -- --logdir=/data/run"""

HOSTS = """prints the exact command for each host

everything after -- goes to `python -m trainer`, the same for every host:
  python -m launch hosts --hosts=a,b --dry_run -- --flagfile=configs/mnist_lenet.flags"""

MAX_USER = 2_147_483_647  # of Kubernetes

Run = Callable[[argparse.Namespace, Sequence[str]], int]


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as the trainer does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


class Command:
    """A subcommand; knows its options before they are parsed."""

    def __init__(self, commands: Any, name: str, text: str, description: str) -> None:
        self.name = name
        self.takes_value = {"-h": False, "--help": False}  # by the name of the option
        self._parser = commands.add_parser(
            name,
            help=text,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._parser.set_defaults(command=name)

    def add(self, option: str, **details: Any) -> None:
        """Adds an option, described as for argparse."""
        self.takes_value[option] = details.get("action") != "store_true"
        self._parser.add_argument(option, **details)


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    """Makes the parser of the command line; returns it with the subcommands by name."""
    parser = Parser(prog="python -m launch", description="Starts many trainers.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = [_make_local(commands), _make_slurm(commands), _make_kubernetes(commands), _make_hosts(commands)]
    return parser, {command.name: command for command in made}


def _make_local(commands: Any) -> Command:
    command = Command(commands, "local", "on this machine", LOCAL)
    add = command.add
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
    networks = (
        "private: the tasks talk in a network that nothing outside can reach; open: they do not; auto: private where "
        "the system allows it (default: auto)"
    )
    add("--network", choices=("auto", "private", "open"), default="auto", help=networks)
    return command


def _make_slurm(commands: Any) -> Command:
    command = Command(commands, "slurm", "as a batch script", SLURM)
    add = command.add
    add("--nodes", type=_whole(1), default=1, metavar="N", help="nodes")
    add("--tasks_per_node", type=_whole(1), default=1, metavar="N", help="workers on each node")
    servers = "parameter servers, which hold the variables: tasks beside the workers, spread over the nodes"
    add("--ps", type=_whole(0), default=0, metavar="N", help=servers)
    add("--cpus_per_task", type=_whole(0), default=0, metavar="N", help="cores of each task (default: Slurm's)")
    add("--gpus_per_task", type=_whole(0), default=0, metavar="N", help="GPUs of each worker (default: Slurm's)")
    add("--time", default="", metavar="LIMIT", help="time limit, as 4:00:00 or 2-12 (default: the partition's)")
    add("--partition", default="", metavar="NAME", help="partition (default: Slurm's)")
    add("--account", default="", metavar="NAME", help="account that pays")
    add("--qos", default="", metavar="NAME", help="quality of service")
    add("--gres", default="", metavar="LIST", help="generic resources of each node, as gpu:a100:4")
    add("--mem", default="", metavar="SIZE", help="memory of each node, as 64G")
    add("--constraint", default="", metavar="FEATURES", help="features of the nodes, as a100|h100")
    other = "any other option of sbatch, as --sbatch=reservation=maint or --sbatch=exclusive; may be repeated"
    add("--sbatch", action="append", default=[], metavar="NAME[=VALUE]", help=other)
    add("--job_name", default="trainer", metavar="NAME", help="name of the job and of its log (default: trainer)")
    add("--python", default="", metavar="PATH", help="interpreter on the nodes (default: this one)")
    add("--max_restarts", type=_whole(0), default=3, metavar="N", help="starts after a task was lost (default: 3)")
    add("--no_requeue", action="store_true", help="the job never goes back to the queue: some sites forbid it")
    add("--submit", action="store_true", help="give the script to sbatch instead of printing it")
    _add_no_check(command)
    return command


def _make_kubernetes(commands: Any) -> Command:
    command = Command(commands, "kubernetes", "as manifests", KUBERNETES)
    add = command.add
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
    user = "user and group of the pods, who own the volume's files (default: 1000, that of launch/Dockerfile)"
    add("--run_as", type=_whole(1, MAX_USER), default=1000, metavar="UID", help=user)
    add("--max_restarts", type=_whole(0), default=10, metavar="N", help="starts of pods that were lost (default: 10)")
    _add_no_check(command)
    return command


def _make_hosts(commands: Any) -> Command:
    command = Command(commands, "hosts", "as a command for each host", HOSTS)
    add = command.add
    add("--hosts", required=True, metavar="A,B", help="hosts, of which the first is the chief")
    add("--ps_hosts", default="", metavar="C,D", help="hosts of parameter servers, which hold the variables")
    add("--port", type=_whole(1, 65535), default=2222, metavar="N", help="port of each task (default: 2222)")
    add("--dry_run", action="store_true", required=True, help="print the commands, which is all that can be done")
    add("--network_is_isolated", action="store_true", help="allow public addresses: nobody else reaches the ports")
    _add_no_check(command)
    return command


def _add_no_check(command: Command) -> None:
    command.add("--no_check", action="store_true", help="do not try the trainer's flags first")


def _whole(smallest: int, largest: int = 10_000) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not smallest <= int(text) <= largest:
            raise argparse.ArgumentTypeError(f"{text} is out of range: a whole number from {smallest} to {largest:,}")
        return int(text)

    return parse
