"""What a run is, before and after its graph is built."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from trainer import grammars, graph
from trainer.config import Config
from trainer.console import Console
from trainer.data.layout import Layout
from trainer.data.manifest import Manifest
from trainer.inputs.batch import Input
from trainer.inputs.build import InputSettings, build_input
from trainer.placing.devices import Devices, gpu_memory_mib, make_session_config
from trainer.placing.server import build_farewell
from trainer.placing.strategies import AllReduce, Wishes
from trainer.rundir import RunDir
from trainer.running.joining import Member
from trainer.running.lock import RunLock
from trainer.saving.checkpoints import Progress
from trainer.step import StepBuilder, build_counters
from trainer.tf1 import tf
from trainer.timing import Every


class Job(NamedTuple):
    """A checked run."""

    config: Config
    console: Console
    rundir: RunDir
    lock: RunLock | None  # none where this process is not the one that writes there
    manifest: Manifest
    layout: Layout | None  # of the training set's records
    skipped_records: int  # damaged ones
    devices: Devices
    start: Progress  # of step 0 where there is no checkpoint
    steps_per_epoch: float
    last_step: int
    member: Member | None = None  # of a cluster

    @property
    def is_chief(self) -> bool:
        """Does this process write checkpoints, summaries and the result?"""
        return self.member is None or self.member.cluster.is_chief

    @property
    def part(self) -> slice:
        """Is what this process takes of each batch."""
        if self.member is None:
            return slice(None)
        index, count = self.member.workers.index, self.member.workers.count
        size = self.config.batch_size // count
        return slice(index * size, (index + 1) * size)

    def every(self, flag: str) -> Every:
        """Reads a period's flag."""
        period = grammars.parse_period(flag, getattr(self.config, flag))
        return Every.from_period(period, self.steps_per_epoch, time.monotonic)

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


class Graphs(NamedTuple):
    source: Input
    train: graph.TrainGraph
    eval: graph.EvalGraph
    all_reduce: AllReduce | None  # over the workers of a cluster
    farewell: tf.Tensor | None  # ends when all workers have come to it

    def wishes(self) -> Wishes:
        """Finds what the workers of a cluster tell each other."""
        assert self.train.wishes is not None
        return self.train.wishes


def build_graphs(job: Job) -> Graphs:
    """Builds input, towers, update and evaluation in the default graph."""
    config, parameters = job.config, job.devices.parameters
    with tf.device(parameters):
        counters = build_counters()
    settings = InputSettings(
        folder=Path(config.data_dir),
        manifest=job.manifest,
        batch_size=config.batch_size,
        seed=config.seed,
        position=job.start.position,
        position_variable=counters.position,
        layout=job.layout,
        num_readers=config.queue_readers,
        capacity=config.queue_capacity,
        part=job.part,
    )
    source = build_input(config.input, settings)
    all_reduce = None
    if job.member:
        all_reduce = AllReduce(job.member.workers, bucket_bytes=int(config.bucket_mb * 1e6))
    builder = StepBuilder(
        config,
        counters,
        num_classes=job.manifest.num_classes,
        tower_devices=job.devices.towers,
        parameter_device=parameters,
        train_steps=job.last_step,
        steps_per_epoch=job.steps_per_epoch,
        all_reduce=all_reduce,
    )
    train_graph = graph.build_train_graph(
        builder, counters, source, parameter_device=parameters, steps_per_loop=config.steps_per_loop
    )
    eval_graph = graph.build_eval_graph(
        config,
        builder.averages,
        image_shape=job.manifest.image_shape,
        num_classes=job.manifest.num_classes,
        device=job.devices.towers[0],
    )
    farewell = build_farewell(job.member.workers) if job.member else None
    return Graphs(source, train_graph, eval_graph, all_reduce, farewell)
