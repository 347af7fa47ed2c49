"""Which tasks a job has, and what each is told: its command and its environment."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from launch import status

T = TypeVar("T")
CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Task:
    """One process of a job."""

    job: str  # worker, ps or evaluator; worker 0 is the chief
    index: int
    command: tuple[str, ...]
    environment: dict[str, str]  # what is added to that of the launcher
    cpus: tuple[int, ...] = ()  # cores to which it is bound; none: to those of the launcher

    @property
    def name(self) -> str:
        return f"{self.job} {self.index}"


def make_tasks(
    *,
    workers: Sequence[str],
    servers: Sequence[str] = (),
    evaluator: bool,
    args: Sequence[str],
    gpus_per_worker: int = 0,
    visible_gpus: Sequence[str] = (),
    cpus_per_worker: int | None = None,
    usable_cpus: Sequence[int] = (),
    status_dir: Path | None = None,
) -> list[Task]:
    """Makes the tasks of a job, the chief first.

    Args:
      workers: "host:port" of each.
      servers: "host:port" of each parameter server.
      evaluator: whether there is a task that evaluates the checkpoints.
      args: of `python -m trainer`.
      gpus_per_worker: GPUs that each worker sees; 0: all. No other task sees any.
      visible_gpus: which GPUs there are to share out.
      cpus_per_worker: cores to which each worker is bound; None: an equal share of all, where there is one; 0: none
        are. No other task is bound.
      usable_cpus: which cores there are to share out, neighbours together.
      status_dir: where each task has a status file; None: there are none.

    Raises:
      ValueError: there are fewer GPUs or cores than the workers need.
    """
    count = len(workers)
    if cpus_per_worker is None:
        each, rest = divmod(len(usable_cpus), count)
        cpus_per_worker = each if count > 1 and not rest else 0
    gpus = _share(visible_gpus, count, gpus_per_worker, "--gpus_per_worker", "GPUs", "visible")
    cpus = _share(usable_cpus, count, cpus_per_worker, "--cpus_per_worker", "cores", "usable")
    command = (sys.executable, "-m", "trainer", *args)
    cluster = {"worker": list(workers)} | ({"ps": list(servers)} if servers else {})
    jobs = [(job, index) for job, addresses in cluster.items() for index in range(len(addresses))]
    jobs += [("evaluator", 0)] * evaluator
    tasks = []
    for job, index in jobs:
        environment = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})}
        environment["TRAINER_TASK"] = f"{job} {index}"  # `ps e` shows it.
        if status_dir:
            environment[status.VARIABLE] = str(status_path(status_dir, job, index))
        if gpus_per_worker or job != "worker":
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index] if job == "worker" else [])
        tasks.append(Task(job, index, command, environment, tuple(cpus[index] if job == "worker" else [])))
    return tasks


def status_path(status_dir: Path, job: str, index: int) -> Path:
    """Returns the path of a task's status file."""
    return status_dir / f"{job}-{index}.jsonl"


def _share(there: Sequence[T], workers: int, each: int, flag: str, what: str, how: str) -> list[Sequence[T]]:
    if each * workers > len(there):
        raise ValueError(
            f"{workers} workers with {flag}={each} need {each * workers} {what}, and {len(there)} are {how}: "
            f"use fewer, or {flag}=0, which leaves all to every worker"
        )
    return [there[index * each : (index + 1) * each] for index in range(workers)]


def find_gpus(environment: Mapping[str, str], listed: Sequence[str]) -> list[str]:
    """Finds the GPUs to share out: those of CUDA_VISIBLE_DEVICES, else all that are listed.

    As for CUDA, the variable's list ends at the first entry that names no device, as -1 or NoDevFiles, and a list that
    names one twice shows none.

    Args:
      environment: as `os.environ`.
      listed: names in /proc/driver/nvidia/gpus, of which only the number counts.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(len(listed))]
    names = [name.strip() for name in visible.split(",")]
    valid = list(itertools.takewhile(_is_gpu, names))
    return valid if len(set(valid)) == len(valid) else []


def _is_gpu(name: str) -> bool:
    """Returns whether CUDA takes a name for that of a device: its number, or the beginning of its UUID."""
    return name.isdecimal() or name.startswith(("GPU-", "MIG-"))


def find_cpus() -> list[int]:
    """Finds the cores that this process may use, and share out; none where the system cannot bind processes."""
    return sorted(os.sched_getaffinity(0), key=_place) if sys.platform == "linux" else []


def _place(cpu: int) -> tuple[int, int, int]:
    """Returns a core's place; neighbours share most: the threads of a core, then the cores of a socket."""
    folder = CPUS / f"cpu{cpu}" / "topology"
    try:
        return int((folder / "physical_package_id").read_text()), int((folder / "core_id").read_text()), cpu
    except (OSError, ValueError):  # As in some containers.
        return 0, 0, cpu


def free_ports(count: int) -> list[int]:
    """Finds ports that nobody uses at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
