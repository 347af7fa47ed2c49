"""What a run is, before and after its graph is built."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from trainer import grammars, graph
from trainer.config import Config
from trainer.console import Console
from trainer.data.manifest import Manifest
from trainer.inputs.batch import Input
from trainer.inputs.build import InputSettings, build_input
from trainer.placing.devices import Devices
from trainer.rundir import RunDir
from trainer.running.lock import RunLock
from trainer.saving.checkpoints import Progress
from trainer.tf1 import tf
from trainer.timing import Every


class Job(NamedTuple):
    """A checked run."""

    config: Config
    console: Console
    rundir: RunDir
    lock: RunLock
    manifest: Manifest
    skipped_records: int  # damaged ones
    devices: Devices
    start: Progress  # of step 0 where there is no checkpoint
    steps_per_epoch: float
    last_step: int

    def every(self, flag: str) -> Every:
        """Reads a period's flag."""
        period = grammars.parse_period(flag, getattr(self.config, flag))
        return Every.from_period(period, self.steps_per_epoch, time.monotonic)


class Graphs(NamedTuple):
    source: Input
    train: graph.TrainGraph
    eval: graph.EvalGraph


def build_graphs(job: Job) -> Graphs:
    """Builds input, towers, update and evaluation in the default graph."""
    config, parameters = job.config, job.devices.parameters
    with tf.device(parameters):
        counters = graph.build_counters()
    settings = InputSettings(
        folder=Path(config.data_dir),
        manifest=job.manifest,
        batch_size=config.batch_size,
        seed=config.seed,
        position=job.start.position,
        position_variable=counters.position,
        num_readers=config.queue_readers,
        capacity=config.queue_capacity,
    )
    source = build_input(config.input, settings)
    train_graph, ema = graph.build_train_graph(
        config,
        counters,
        source,
        num_classes=job.manifest.num_classes,
        tower_devices=job.devices.towers,
        parameter_device=parameters,
        train_steps=job.last_step,
        steps_per_epoch=job.steps_per_epoch,
    )
    eval_graph = graph.build_eval_graph(
        config,
        ema,
        image_shape=job.manifest.image_shape,
        num_classes=job.manifest.num_classes,
        device=job.devices.towers[0],
    )
    return Graphs(source, train_graph, eval_graph)
