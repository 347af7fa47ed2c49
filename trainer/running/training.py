"""One run of the trainer, from its settings to its exit code."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from trainer import grammars
from trainer.config import Config
from trainer.console import Console
from trainer.data.layout import find_layout
from trainer.data.records import explain_input_error
from trainer.errors import OK, NotFiniteError, Stopped
from trainer.placing.devices import choose_devices
from trainer.rundir import RunDir
from trainer.running.job import Job, build_graphs
from trainer.running.preparation import (
    compare_data,
    is_checked,
    prepare_data,
    prepare_rundir,
    skip_damaged,
    write_settings,
)
from trainer.running.report import Report
from trainer.running.result import RunResult
from trainer.running.run import run
from trainer.running.session import open_session
from trainer.saving import checkpoints, restoring
from trainer.signals import Signals
from trainer.tf1 import NUM_PHYSICAL_GPUS, enable_op_determinism, tf

# What the input may fail with, where the record that is to blame has to be looked for.
READER_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,  # of a message that quotes the record
)


def train(config: Config, console: Console, signals: Signals) -> int:
    """Trains, evaluates and writes the result; returns the exit code."""
    begin = time.monotonic()
    signals.grace_seconds = config.grace_seconds
    if config.deterministic:
        enable_op_determinism()
    try:
        with ExitStack() as stack:
            job = prepare(config, console, stack)
            result = _train_to_result(job, signals, begin)
    except OSError as error:
        error.filename = error.filename or config.logdir  # Opening a file says which, writing does not.
        raise
    if result.failed_writes:
        failed = ", ".join(f"{what} {count} times" for what, count in result.failed_writes.items())
        console.say(f"not all could be written: {failed}")
    if result.status != "done":
        console.say(f"{result.status} after step {result.step}; the same command goes on from there")
        return 128 + signals.stop
    console.say(
        f"test accuracy {result.test_accuracy:.2%} after {result.step} steps, {result.seconds:.1f} s in all; "
        f"{job.rundir.result}"
    )
    return OK


def _train_to_result(job: Job, signals: Signals, begin: float) -> RunResult:
    """Trains and writes result.json, whatever ends the training."""
    result = RunResult(step=job.start.step, devices=job.devices.towers, skipped_records=job.skipped_records)
    try:
        _train(job, signals, result)
    except BaseException as error:
        result.status = "error"
        if isinstance(error, NotFiniteError):
            result.status = "not finite"
        elif isinstance(error, Stopped):
            result.status = str(error)
        result.seconds = round(time.monotonic() - begin, 3)
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            result.save(job.rundir.result)
        raise
    result.seconds = round(time.monotonic() - begin, 3)
    result.save(job.rundir.result)
    return result


def prepare(config: Config, console: Console, stack: ExitStack) -> Job:
    """Checks everything that can be checked before the graph is built, and says what will be done.

    Args:
      config: of the run.
      console: is told what will be done, and keeps it in the run's log.
      stack: gets what has to be closed at the end of the run.
    """
    devices = choose_devices(
        config.num_gpus,
        num_gpus=NUM_PHYSICAL_GPUS,
        device=config.device,
        virtual_gpus=config.virtual_gpus,
        parameter_device=config.parameter_device,
    )
    data = prepare_data(config, console)
    rundir = RunDir(config.logdir)
    lock, progress = prepare_rundir(config, rundir, console, stack)
    console.open_log(rundir.log)
    manifest = skip_damaged(data, Path(config.data_dir), rundir, console.say)
    num_examples = manifest.num_examples("train")
    steps_per_epoch = num_examples / config.batch_size
    last_step = config.train_steps or max(1, round(config.epochs * steps_per_epoch))
    if devices.note:
        console.say(devices.note)
    if config.precision == "float16" and devices.towers[0].startswith("/cpu"):
        console.say("--precision=float16 is many times slower than float32 on a CPU; there, use --precision=bfloat16")
    towers = f"{config.num_gpus} tower{'s' if config.num_gpus > 1 else ''}"
    console.say(
        f"{config.model} on {config.dataset}: {num_examples:,} images, {last_step:,} steps of {config.batch_size} "
        f"over {towers}; to watch: tensorboard --logdir={rundir.path}"
    )
    compare_data(manifest, Path(config.data_dir), rundir, console.say)
    if progress:
        console.say(f"resuming from step {progress.step} ({progress.path})")
    start = progress or checkpoints.Progress(path="", step=0, position=0)
    skipped = data.salvage.num_lost
    layout = find_layout(Path(config.data_dir), manifest) if is_checked(manifest) else None
    return Job(config, console, rundir, lock, manifest, layout, skipped, devices, start, steps_per_epoch, last_step)


def _make_restore(job: Job, ops: checkpoints.CheckpointOps) -> Callable[[tf.Session], None] | None:
    """Makes what sets the variables: from the run's own checkpoint, else from that of a warm start."""
    config = job.config
    if job.start.path:
        if config.warm_start:
            job.console.say(f"--warm_start={config.warm_start} is not read: the run goes on from its own checkpoint")
        return functools.partial(checkpoints.restore, ops.saver, path=job.start.path)
    if not config.warm_start:
        return None
    return restoring.build_warm_start(
        config.warm_start,
        exclude=config.warm_start_exclude,
        rename=[grammars.parse_rename("warm_start_rename", rule) for rule in config.warm_start_rename],
        ignore_missing=config.ignore_missing,
        say=job.console.say,
    )


def _train(job: Job, signals: Signals, result: RunResult) -> None:
    signals.shield()  # Before TensorFlow's first thread.
    with tf.Graph().as_default() as graph, Report(job, result) as report:
        tf.set_random_seed(job.config.seed)
        graphs = build_graphs(job)
        ops = checkpoints.build_checkpoint_ops()
        report.start(graph)
        restore = _make_restore(job, ops)
        try:
            with open_session(graphs.source, job.session_config(), restore, job.config.grace_seconds / 2) as opened:
                write_settings(job.config, job.rundir)
                signals.check()
                run(job, graphs, opened, signals, report, ops)
        except READER_ERRORS as error:
            raise explain_input_error(Path(job.config.data_dir), job.manifest, "train") or error from error
