"""What a run is before its graph is built."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from trainer import grammars
from trainer.cluster.member import Member
from trainer.console import Console
from trainer.data.layout import Layout
from trainer.data.spec import DatasetSpec
from trainer.learning.task import Task
from trainer.placing.devices import Devices, gpu_memory_mib, make_session_config
from trainer.reporting.status_file import StatusFile
from trainer.rundir import RunDir
from trainer.running.loop import LoopLimits
from trainer.saving.lock import RunLock
from trainer.saving.progress import Progress
from trainer.settings.config import Config
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf
from trainer.timing import Every


class Job(NamedTuple):
    """A checked run."""

    config: Config
    console: Console
    rundir: RunDir
    lock: RunLock | None  # none where this process is not the one that writes there
    spec: DatasetSpec
    task: Task
    code: UserCode
    layout: Layout | None  # of the training set's records
    skipped_records: int  # damaged ones
    devices: Devices
    start: Progress  # of step 0 where there is no checkpoint
    last_step: int
    status: StatusFile
    member: Member | None = None  # of a cluster
    ops: Mapping[str, Any] = MappingProxyType({})  # modules of the trainer's own operations, by name

    @property
    def steps_per_epoch(self) -> float:
        return self.spec.num_examples("train") / self.config.batch_size

    @property
    def steps_ahead(self) -> int:
        """Counts by how many steps of this batch size the epochs are farther than the steps, which had other ones."""
        return round(self.start.batch_size_position / self.config.batch_size) - self.start.batch_size_step

    @property
    def is_chief(self) -> bool:
        """Does this process write checkpoints, summaries and the result?"""
        return self.member is None or self.member.cluster.is_chief

    @property
    def is_finished(self) -> bool:
        """Returns whether an earlier start has come to the last step, so that there is nothing to train."""
        return self.start.step >= self.last_step

    @property
    def batch_shard(self) -> slice:
        """Returns what this process takes of each batch."""
        if self.member is None:
            return slice(None)
        index, count = self.member.workers.index, self.member.workers.count
        size = self.read_size // count
        return slice(index * size, (index + 1) * size)

    @property
    def read_size(self) -> int:
        """Returns how many examples all workers read together: a batch, or one for each that makes its own updates."""
        own_updates = self.member and self.config.strategy == "ps_async"
        return self.config.batch_size * (self.member.workers.count if self.member and own_updates else 1)

    @property
    def bucket_bytes(self) -> int:
        return int(max(0.0, self.config.bucket_mb) * 1e6)

    def every(self, flag: str) -> Every:
        """Reads a period's flag."""
        period = grammars.parse_period(flag, getattr(self.config, flag))
        return Every.from_period(period, self.steps_per_epoch, self.start.step, time.monotonic)

    def limits(self) -> LoopLimits:
        """Reads how far the training goes, over how many steps that are not applied."""
        config = self.config
        return LoopLimits(
            last_step=self.last_step,
            max_skips=config.max_skips if config.nonfinite == "skip" else 0,
            max_outliers=config.max_skips,
            steps_per_loop=config.steps_per_loop,
        )

    def session_config(self) -> tf.ConfigProto:
        """Makes the settings of a session that runs the steps."""
        return self.member.settings if self.member else session_config(self.config, self.devices)


def session_config(config: Config, devices: Devices) -> tf.ConfigProto:
    """Makes the settings of a session on these devices."""
    return make_session_config(
        devices,
        intra_op_threads=config.intra_op_threads,
        inter_op_threads=config.inter_op_threads,
        deterministic=config.deterministic,
        allow_soft_placement=config.allow_soft_placement,
        log_device_placement=config.log_device_placement,
        gpu_memory_mib=gpu_memory_mib,
    )
