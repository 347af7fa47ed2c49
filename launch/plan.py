"""Which tasks a job has, and what each is told: its command and its environment."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One process of a job."""

    job: str  # worker, ps or evaluator; worker 0 is the chief
    index: int
    command: tuple[str, ...]
    environment: dict[str, str]  # what is added to that of the launcher

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
) -> list[Task]:
    """Makes the tasks of a job, the chief first.

    Args:
      workers: "host:port" of each.
      servers: "host:port" of each parameter server.
      evaluator: is there a task that evaluates the checkpoints.
      args: of `python -m trainer`.
      gpus_per_worker: GPUs that each worker sees; 0: all. No other task sees any.
      visible_gpus: which GPUs there are to share out.

    Raises:
      ValueError: there are fewer GPUs than the workers need.
    """
    needed = gpus_per_worker * len(workers)
    if needed > len(visible_gpus):
        raise ValueError(
            f"{len(workers)} workers with --gpus_per_worker={gpus_per_worker} need {needed} GPUs, and "
            f"{len(visible_gpus)} are visible: use fewer, or leave --gpus_per_worker out"
        )
    command = (sys.executable, "-m", "trainer", *args)
    cluster = {"worker": list(workers)} | ({"ps": list(servers)} if servers else {})
    jobs = [(job, index) for job, addresses in cluster.items() for index in range(len(addresses))]
    jobs += [("evaluator", 0)] * evaluator
    tasks = []
    for job, index in jobs:
        environment = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})}
        if gpus_per_worker or job != "worker":
            first = index * gpus_per_worker
            mine = visible_gpus[first : first + gpus_per_worker] if job == "worker" else []
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        tasks.append(Task(job, index, command, environment))
    return tasks


def find_gpus(environment: Mapping[str, str], listed: Sequence[str]) -> list[str]:
    """Finds the GPUs to share out: those of CUDA_VISIBLE_DEVICES, else all that are listed.

    Args:
      environment: as `os.environ`.
      listed: names in /proc/driver/nvidia/gpus, of which only the number counts.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(len(listed))]


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
