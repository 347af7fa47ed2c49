"""Which strategy a run trains by, and whether its settings fit its cluster."""

from __future__ import annotations

import dataclasses

from trainer.config import Config, uneven_split
from trainer.errors import UsageError
from trainer.placing.cluster import Cluster

BUCKET_MB = 32.0  # between workers, where no flag says otherwise


def choose_strategy(config: Config, cluster: Cluster | None) -> Config:
    """Fills in what depends on the cluster, and checks what must fit it.

    Args:
      config: of the run, validated.
      cluster: of this process; None: it is alone.

    Raises:
      UsageError: the strategy needs another cluster, or the settings do not fit it.
    """
    if cluster is None:
        if config.strategy == "collective":
            raise UsageError(
                f"--strategy={config.strategy} needs a cluster: start the tasks with python -m launch, set TF_CONFIG, "
                "or give --job_name, --task_index and --worker_hosts"
            )
        return dataclasses.replace(config, strategy="parameter_device")
    if cluster.parameter_servers:
        raise UsageError(
            f"{cluster.source} names parameter servers, which this version does not train with: leave them out"
        )
    if config.strategy == "parameter_device":
        raise UsageError(
            f"--strategy=parameter_device is of one process, but {cluster.source} names {cluster.num_workers} workers: "
            "use --strategy=collective, or unset it"
        )
    return _check_collective(config, cluster)


def _check_collective(config: Config, cluster: Cluster) -> Config:
    if cluster.is_sparse:
        raise UsageError(f"{cluster.source} names only the workers {sorted(cluster.workers)}: all must be known")
    num_towers = config.num_gpus * cluster.num_workers
    if config.batch_size % num_towers:
        over = f"{num_towers} towers ({cluster.num_workers} workers with {config.num_gpus} each)"
        raise UsageError(uneven_split(config.batch_size, num_towers, over))
    if config.steps_per_loop > 1:
        raise UsageError("--steps_per_loop is of one process: with a cluster leave it at 1")
    bucket_mb = BUCKET_MB if config.bucket_mb < 0 else config.bucket_mb
    return dataclasses.replace(config, strategy="collective", bucket_mb=bucket_mb)
