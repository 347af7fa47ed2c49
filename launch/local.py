"""A job on this machine: `python -m launch local --workers=2 -- --flagfile=configs/mnist_lenet.flags`."""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch import network, plan
from launch.output import Output
from launch.supervising import NOT_FINITE, PEER_LOST, USAGE, Ended, Stop, find_root_cause, run_once

MAX_BACKOFF_SECONDS = 30.0
FRUITLESS = 3  # starts that failed without a step between them, each by itself and not by a signal
PERMANENT = (USAGE, NOT_FINITE)
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
    names = [task.name for task in _make_tasks(options, args)]
    with Output(names) as output:
        output.say(closed)
        # What `--resume=never` moves aside at a job's start, it would move aside again.
        again = [*args, "--resume=auto"]
        return _run(options, lambda first: _make_tasks(options, args if first else again), output, stop)


def _enter_network(wanted: str) -> str:
    """Closes the network of this process and its tasks, or says plainly what is open."""
    reason = "--network=open"
    if wanted != "open":
        try:
            reason = network.enter_private_network()
        except OSError as error:
            raise LaunchError(f"{error.strerror}; --network=open runs the job without one") from error
        if not reason:
            return "the tasks talk in a network of their own, which nothing outside can reach"
        if wanted == "private":
            raise LaunchError(f"--network=private: {reason}")
    names = ", ".join(network.open_interfaces()) or "none but the loopback"
    return f"{reason}: the tasks' ports are open to whoever reaches this machine ({names}), without authentication"


def _make_tasks(options: argparse.Namespace, args: Sequence[str]) -> list[plan.Task]:
    listed = sorted(path.name for path in NVIDIA_GPUS.iterdir()) if NVIDIA_GPUS.is_dir() else []
    addresses = [f"127.0.0.1:{port}" for port in plan.free_ports(options.workers)]
    towers = [f"--num_gpus={options.towers}"] if options.towers else []
    try:
        return plan.make_tasks(
            workers=addresses,
            evaluator=options.evaluator,
            args=[*args, *towers],
            gpus_per_worker=options.gpus_per_worker,
            visible_gpus=plan.find_gpus(os.environ, listed),
        )
    except ValueError as error:
        raise LaunchError(str(error)) from error


def _run(options: argparse.Namespace, make_tasks: Callable[[bool], list[plan.Task]], output: Output, stop: Stop) -> int:
    restarts = fruitless = failures = 0
    while True:
        output.step = 0
        root = find_root_cause(run_once(make_tasks(restarts == 0), output, stop, options.grace_seconds))
        if stop.number:
            return 128 + stop.number
        if root is None:
            return 0
        if output.step:
            fruitless = failures = 0
        fruitless += 1
        failures += 0 < root.code != PEER_LOST
        if restarts == options.max_restarts or root.code in PERMANENT or failures == FRUITLESS:
            _report(root, output, restarts)
            return root.exit_code
        restarts += 1
        wait = min(MAX_BACKOFF_SECONDS, 2.0 ** (fruitless - 1))
        output.say(
            f"{root.task.name} {root.how}: all tasks start again in {wait:g} s, from the last checkpoint "
            f"(restart {restarts} of --max_restarts={options.max_restarts})"
        )
        begin = time.monotonic()
        while time.monotonic() - begin < wait and not stop.number:
            time.sleep(0.1)
        if stop.number:
            return 128 + stop.number


def _report(root: Ended, output: Output, restarts: int) -> None:
    after = f", after {restarts} restarts" if restarts else ""
    output.say(f"{root.task.name} on {socket.gethostname()} {root.how}{after}; its last lines:")
    for line in root.last_lines:
        output.line(root.task.name, line)
