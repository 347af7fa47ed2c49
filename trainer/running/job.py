"""What a run is, before and after its graph is built."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trainer import grammars, graph
from trainer.config import Config
from trainer.console import Console
from trainer.data.layout import Layout
from trainer.data.manifest import Manifest
from trainer.inputs.batch import Input
from trainer.inputs.build import InputSettings, build_input
from trainer.placing.devices import Devices, Placement, gpu_memory_mib, make_session_config
from trainer.placing.meeting import Meeting
from trainer.placing.parameter_servers import GradientQueues, OwnUpdates
from trainer.placing.replicas import Replicas, build_check
from trainer.placing.server import build_farewell
from trainer.placing.strategies import AllReduce, Wishes, check_means
from trainer.rundir import RunDir
from trainer.running.gathering import make_meeting, placement_of
from trainer.running.joining import Member
from trainer.running.lock import RunLock
from trainer.saving.checkpoints import Progress
from trainer.step import Exchange, StepBuilder
from trainer.tf1 import tf
from trainer.timing import Every
from trainer.update import Counters, build_counters


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
        size = self.read_size // count
        return slice(index * size, (index + 1) * size)

    @property
    def read_size(self) -> int:
        """Is how many examples all workers read together: a batch, or one for each where each makes its own updates."""
        own_updates = self.member and self.config.strategy == "ps_async"
        return self.config.batch_size * (self.member.workers.count if self.member and own_updates else 1)

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


class Copies(NamedTuple):
    """What has to be done once before the steps, where each tower has a copy of the variables."""

    sync: tf.Operation  # makes them equal, once those of the first tower have their values
    difference: tf.Tensor  # float32 [], of the gradients' means from plain ones


class Graphs(NamedTuple):
    source: Input
    train: graph.TrainGraph
    eval: graph.EvalGraph
    exchange: Exchange | None  # of the workers of a cluster
    farewell: tf.Tensor | None  # ends when all workers have come to it
    meeting: Meeting | None  # on parameter servers
    wake: list[tf.Operation]  # makes a step fail that waits for other workers
    copies: Copies | None  # of the variables, one for each tower

    def wishes(self) -> Wishes:
        """Finds what the workers of a cluster tell each other."""
        assert self.train.wishes is not None
        return self.train.wishes


def _make_exchange(job: Job, meeting: Meeting | None) -> Exchange | None:
    config, member = job.config, job.member
    if member is None:
        return None
    if config.strategy == "ps_sync":
        return GradientQueues(member.workers, generation=member.generation, position=job.start.position)
    if meeting:
        position = job.start.position
        return OwnUpdates(member.workers, meeting.all_wishes, position=position, batch_size=config.batch_size)
    return AllReduce(member.workers, bucket_bytes=int(config.bucket_mb * 1e6))


def _build_source(job: Job, counters: Counters, exchange: Exchange | None) -> Input:
    config = job.config
    position = exchange.position if isinstance(exchange, OwnUpdates) else counters.position
    settings = InputSettings(
        folder=Path(config.data_dir),
        manifest=job.manifest,
        batch_size=job.read_size,
        seed=config.seed,
        position=job.start.position,
        position_variable=position,
        layout=job.layout,
        num_readers=config.queue_readers,
        capacity=config.queue_capacity,
        part=job.part,
    )
    return build_input(config.input, settings)


def _build_copies(job: Job, replicas: Replicas, parameters: Placement) -> Copies:
    with tf.name_scope("copies"):
        difference = build_check(
            [variable.shape for variable in tf.trainable_variables()],
            job.devices.towers,
            how=job.config.reduce,
            parameter_device=parameters,
            bucket_bytes=int(max(0.0, job.config.bucket_mb) * 1e6),
        )
        return Copies(replicas.build_sync(), difference)


def build_graphs(job: Job) -> Graphs:
    """Builds input, towers, update and evaluation in the default graph."""
    config, member = job.config, job.member
    parameters = placement_of(member, job.devices.parameters)
    with tf.device(parameters):
        counters = build_counters()
    meeting = make_meeting(member) if member and member.cluster.parameter_servers else None
    exchange = _make_exchange(job, meeting)
    source = _build_source(job, counters, exchange)
    builder = StepBuilder(
        config,
        counters,
        num_classes=job.manifest.num_classes,
        tower_devices=job.devices.towers,
        parameter_device=parameters,
        train_steps=job.last_step,
        steps_per_epoch=job.steps_per_epoch,
        exchange=exchange,
        caching_device=member.device if member else None,
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
    farewell = build_farewell(exchange.workers) if isinstance(exchange, AllReduce) else None
    wake = exchange.build_close() if isinstance(exchange, GradientQueues) else []
    copies = _build_copies(job, builder.replicas, parameters) if builder.replicas else None
    return Graphs(source, train_graph, eval_graph, exchange, farewell, meeting, wake, copies)


def make_settle(graphs: Graphs) -> Callable[[tf.Session], None] | None:
    """Makes what has to be done in one process once its variables have their values.

    What it makes raises a TrainerError where the means of gradients over towers are wrong.
    """
    copies = graphs.copies
    if copies is None:
        return None

    def settle(session: tf.Session) -> None:
        _, difference_v = session.run([copies.sync, copies.difference])
        check_means(float(difference_v))

    return settle
