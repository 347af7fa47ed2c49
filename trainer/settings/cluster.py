"""Settings of a cluster: which of its tasks this process is."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.grammars import MAX_COUNT
from trainer.settings.fields import TASK, above, option


@dataclass(frozen=True)
class ClusterSettings:
    """Which task of which cluster this process is; TF_CONFIG and Slurm's variables say the same."""

    job_name: str = option(
        "", "of this process in its cluster, instead of TF_CONFIG: worker (0 is the chief), ps", scope=TASK
    )
    task_index: int = option(0, "of this process in its job", scope=TASK)
    worker_hosts: tuple[str, ...] = option((), "host:port of every worker, comma-separated")
    ps_hosts: tuple[str, ...] = option((), "host:port of every parameter server, comma-separated")
    network_is_isolated: bool = option(
        False, "let a worker listen on public addresses: nobody but the cluster's hosts reaches its port", scope=TASK
    )
    join_seconds: float = option(
        300.0, "a worker waits so long for the others to start", scope=TASK, legal=above(0, MAX_COUNT)
    )
