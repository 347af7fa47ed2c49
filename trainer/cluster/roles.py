"""Which strategy a run trains by, and whether its settings fit its cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trainer.cluster.spec import Cluster, find_cluster
from trainer.errors import UsageError
from trainer.settings.config import Config, check_split

ALONE = ("parameter_device", "replicated")  # of one process
WITH_SERVERS = ("ps_sync", "ps_async")
BUCKET_MB = 32.0  # between workers, where no flag says otherwise


def cluster_of(config: Config, environment: Mapping[str, str]) -> Cluster | None:
    """Finds the cluster of this process, as `find_cluster` does.

    Raises:
      UsageError: what says so is contradictory or illegal.
    """
    return find_cluster(
        job_name=config.job_name,
        task_index=config.task_index,
        worker_hosts=config.worker_hosts,
        ps_hosts=config.ps_hosts,
        environment=environment,
    )


def choose_strategy(config: Config, cluster: Cluster | None) -> Config:
    """Fills in what depends on the cluster, and checks what must fit it.

    Args:
      config: of the run, validated.
      cluster: of this process; None: it is alone.

    Raises:
      UsageError: the strategy needs another cluster, or the settings do not fit it.
    """
    if cluster is None:
        if config.reduce != "copy" and config.strategy != "replicated":
            raise UsageError(f"--reduce={config.reduce} is of --strategy=replicated: add that, or leave --reduce out")
        if config.strategy in ALONE or config.strategy == "auto":
            return dataclasses.replace(config, strategy=ALONE[0] if config.strategy == "auto" else config.strategy)
        servers = ", --ps_hosts" if config.strategy in WITH_SERVERS else ""
        raise UsageError(
            f"--strategy={config.strategy} needs a cluster: start the tasks with python -m launch, set TF_CONFIG, "
            f"or give --job_name, --task_index{servers} and --worker_hosts"
        )
    has_servers = bool(cluster.parameter_servers)
    strategy = config.strategy if config.strategy != "auto" else "ps_sync" if has_servers else "collective"
    if strategy in ALONE:
        raise UsageError(
            f"--strategy={strategy} is of one process, but {cluster.source} names {cluster.num_workers} workers: "
            f"use --strategy={'ps_sync' if has_servers else 'collective'}, or unset it"
        )
    if has_servers != (strategy in WITH_SERVERS):
        found = f"{len(cluster.parameter_servers)} parameter servers" if has_servers else "no parameter server"
        wanted = (
            "leave them out, or use ps_sync or ps_async"
            if has_servers
            else "name some (launch local: --ps), or use collective"
        )
        raise UsageError(f"--strategy={strategy}, but {cluster.source} names {found}: {wanted}")
    _check_cluster(cluster)
    _check_workers(config, strategy)
    _check_batch(config, cluster, strategy)
    bucket_mb = BUCKET_MB if config.bucket_mb < 0 and strategy == "collective" else config.bucket_mb
    return dataclasses.replace(config, strategy=strategy, bucket_mb=bucket_mb)


def _check_workers(config: Config, strategy: str) -> None:
    """Refuses what the workers of a cluster cannot do together."""
    if config.steps_per_loop > 1:
        raise UsageError("--steps_per_loop is of one process: with a cluster leave it at 1")
    if config.batch_norm == "sync" and strategy != "collective":
        raise UsageError(
            f"--batch_norm=sync: the workers of --strategy={strategy} do not meet while they compute: use "
            "--strategy=collective, or --batch_norm=tower"
        )
    if strategy == "ps_async" and config.precision == "float16":
        raise UsageError(
            "--precision=float16 has one loss scale, which workers with their own updates cannot share: use bfloat16, "
            "or --strategy=ps_sync"
        )


def _check_cluster(cluster: Cluster) -> None:
    if cluster.is_sparse:
        raise UsageError(f"{cluster.source} names only the workers {sorted(cluster.workers)}: all must be known")
    servers = sorted(cluster.parameter_servers)
    if servers != list(range(len(servers))):
        raise UsageError(f"{cluster.source} names only the parameter servers {servers}: all must be known")


def _check_batch(config: Config, cluster: Cluster, strategy: str) -> None:
    """Checks that the towers can share a batch: those of all workers, or of one that makes its own updates."""
    num_workers = 1 if strategy == "ps_async" else cluster.num_workers
    num_towers = config.num_gpus * num_workers
    over = f"{num_towers} towers ({num_workers} workers with {config.num_gpus} each)"
    check_split(config, num_towers, over)
