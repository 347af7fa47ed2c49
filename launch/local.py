"""A job on this machine: `python -m launch local --workers=2 -- --flagfile=configs/mnist_lenet.flags`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from launch import network, plan
from launch.output import Output
from launch.restarting import Restarts, Size
from launch.status import StatusFile
from launch.supervising import CHIEF, Ended, Stop, find_root_cause, run_once

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


class LaunchError(ValueError):
    """Ends the launcher with one line and exit code 2."""


def run(options: argparse.Namespace, args: Sequence[str]) -> int:
    """Runs a job to its end; returns the exit code of the root cause, or 128 and the signal that stopped it.

    Raises:
      LaunchError: the job cannot be started as asked.
    """
    closed = _enter_network(options.network)
    stop = Stop()
    stop.install()
    if options.elastic and options.ps:
        raise LaunchError("--elastic is for jobs without --ps: with it, workers come back by themselves")
    if options.elastic and not options.max_restarts:
        raise LaunchError("--elastic needs --max_restarts, as --max_restarts=10: going on after a loss is a restart")
    with tempfile.TemporaryDirectory(prefix="launch-", ignore_cleanup_errors=True) as folder:
        names = [task.name for task in _make_tasks(options, args, options.workers, Path(folder))]
        with Output(names) as output:
            output.say(closed)
            code = _run(options, args, output, stop, Path(folder))
            if stop.number:
                output.say(f"stopped by {signal.Signals(stop.number).name}")
            return code


def _enter_network(wanted: str) -> str:
    """Closes the network of this process and its tasks; returns what is open to whom.

    Raises:
      LaunchError: it had to be closed, and could not.
    """
    reason = "--network=open"
    if wanted != "open":
        reason = network.enter_private_network()
        if not reason:
            return "the tasks talk in a network of their own, which nothing outside can reach"
        if wanted == "private":
            raise LaunchError(f"--network=private: {reason}; --network=open runs the job without one")
    names = ", ".join(network.open_interfaces()) or "none but the loopback"
    return f"{reason}: the tasks' ports are open to whoever reaches this machine ({names}), without authentication"


def _make_tasks(options: argparse.Namespace, args: Sequence[str], workers: int, status_dir: Path) -> list[plan.Task]:
    listed = sorted(path.name for path in NVIDIA_GPUS.iterdir()) if NVIDIA_GPUS.is_dir() else []
    addresses = [f"127.0.0.1:{port}" for port in plan.free_ports(workers + options.ps)]
    towers = [f"--num_gpus={options.towers}"] if options.towers else []
    try:
        return plan.make_tasks(
            workers=addresses[:workers],
            servers=addresses[workers:],
            evaluator=options.evaluator,
            args=[*args, *towers],
            gpus_per_worker=options.gpus_per_worker,
            visible_gpus=plan.find_gpus(os.environ, listed),
            cpus_per_worker=options.cpus_per_worker,
            usable_cpus=plan.find_cpus(),
            status_dir=status_dir,
        )
    except ValueError as error:
        raise LaunchError(str(error)) from error


def _run(options: argparse.Namespace, args: Sequence[str], output: Output, stop: Stop, folder: Path) -> int:
    restarts = Restarts(options.max_restarts, output.say, may_be_alone=options.ps > 0, step=lambda: output.step)
    size = Size(options.workers, output.say, elastic=options.elastic)
    while True:
        # What `--resume=never` has moved aside at the job's start, it would move aside again.
        again = ["--resume=auto"] if output.begun else []
        again += ["--strategy=auto"] if options.elastic and size.now == 1 < options.workers else []
        ended = _run_start(options, [*args, *again], output, stop, folder, size=size, restarts=restarts)
        root = find_root_cause(ended)
        if stop.number:
            return 128 + stop.number
        if root is None and any(each.task.name == CHIEF and not each.code for each in ended):
            return 0
        if size.change(root, progress=output.has_progress):
            continue
        assert root  # Only what was to grow can have been killed without one.
        wait = restarts.all(root, progress=output.has_progress)
        if wait is None:
            _report(root, output, restarts.used)
            return root.exit_code
        size.lose(root)
        begin = time.monotonic()
        while time.monotonic() - begin < wait and not stop.number:
            time.sleep(0.1)
        if stop.number:
            return 128 + stop.number


def _run_start(
    options: argparse.Namespace,
    args: Sequence[str],
    output: Output,
    stop: Stop,
    folder: Path,
    *,
    size: Size,
    restarts: Restarts,
) -> list[Ended]:
    """Runs all tasks once; returns how each ended."""
    # A file of its own: a chief that was killed may have left half a line.
    status_dir = Path(tempfile.mkdtemp(dir=folder))
    tasks = _make_tasks(options, args, size.now, status_dir)
    status = StatusFile(plan.status_path(status_dir, "worker", 0))
    output.forget_steps()

    def look() -> None:
        for event in status.read():
            output.follow(event)

    ended = run_once(tasks, output, stop, options.grace_seconds, restarts.alone, size.may_grow, look)
    for each in ended:
        if each.forced and each.code == -signal.SIGKILL:
            output.say(f"{each.task.name} did not end in time and was killed")
    return ended


def _report(root: Ended, output: Output, restarts: int) -> None:
    after = f", after {restarts} restarts" if restarts else ""
    output.say(f"{root.task.name} on {socket.gethostname()} {root.how}{after}; its last lines:")
    for line in root.last_lines:
        output.line(root.task.name, line)
