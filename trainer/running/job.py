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
from trainer.rundir import RunDir
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
    lock: RunLock
    manifest: Manifest
    layout: Layout | None  # of the training set's records
    skipped_records: int  # damaged ones
    devices: Devices
    start: Progress  # of step 0 where there is no checkpoint
    steps_per_epoch: float
    last_step: int

    def every(self, flag: str) -> Every:
        """Reads a period's flag."""
        period = grammars.parse_period(flag, getattr(self.config, flag))
        return Every.from_period(period, self.steps_per_epoch, time.monotonic)

    def session_config(self) -> tf.ConfigProto:
        """Makes the settings of a session that runs the steps."""
        return make_session_config(
            self.devices,
            intra_op_threads=self.config.intra_op_threads,
            inter_op_threads=self.config.inter_op_threads,
            deterministic=self.config.deterministic,
            allow_soft_placement=self.config.allow_soft_placement,
            log_device_placement=self.config.log_device_placement,
            gpu_memory_mib=gpu_memory_mib,
        )


class Graphs(NamedTuple):
    source: Input
    train: graph.TrainGraph
    eval: graph.EvalGraph


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
    )
    source = build_input(config.input, settings)
    builder = StepBuilder(
        config,
        counters,
        num_classes=job.manifest.num_classes,
        tower_devices=job.devices.towers,
        parameter_device=parameters,
        train_steps=job.last_step,
        steps_per_epoch=job.steps_per_epoch,
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
    return Graphs(source, train_graph, eval_graph)
