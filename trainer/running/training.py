"""One run of the trainer, from its settings to its exit code."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from trainer import grammars
from trainer.config import Config
from trainer.console import Console
from trainer.data.records import explain_input_error
from trainer.errors import OK, NotFiniteError, Stopped
from trainer.placing.cluster import Cluster
from trainer.placing.strategies import AllReduce
from trainer.running.gathering import build_settle as build_settle_with_servers
from trainer.running.gathering import servers_until_the_end
from trainer.running.job import Graphs, Job, build_graphs, make_settle
from trainer.running.joining import build_settle, losses_named
from trainer.running.preparation import write_settings
from trainer.running.report import Report
from trainer.running.result import RunResult
from trainer.running.run import run
from trainer.running.session import OpenSession, open_session
from trainer.running.starting import prepare
from trainer.running.working import work
from trainer.saving import checkpoints, restoring
from trainer.signals import Signals
from trainer.tf1 import enable_op_determinism, tf

# What the input may fail with, where the record that is to blame has to be looked for.
READER_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,  # of a message that quotes the record
)


def train(config: Config, console: Console, signals: Signals, cluster: Cluster | None = None) -> int:
    """Trains, evaluates and writes the result; returns the exit code.

    Args:
      config: of the run.
      console: is told how it goes.
      signals: of the program.
      cluster: of which this process is a worker; the chief alone writes, evaluates and has a result.
    """
    begin = time.monotonic()
    signals.grace_seconds = config.grace_seconds
    if config.deterministic:
        enable_op_determinism()
    try:
        with ExitStack() as stack:
            job = prepare(config, console, stack, cluster, signals.check)
            if not job.is_chief:
                return _train_worker(job, signals)
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


def _train_worker(job: Job, signals: Signals) -> int:
    assert job.member
    signals.shield()  # Before TensorFlow's first thread of the steps.
    with tf.Graph().as_default(), tf.device(job.member.device):
        tf.set_random_seed(job.config.seed)
        graphs, step = build_graphs(job), job.start.step
        # The chief gives the variables their values.
        restore = (lambda session: None) if graphs.meeting else None
        try:
            with losses_named(job.member), _open(job, graphs, restore, signals) as opened:
                step = work(job, job.member, graphs, opened, signals)
        except READER_ERRORS as error:
            raise explain_input_error(Path(job.config.data_dir), job.manifest, "train") or error from error
    if signals.stop:
        job.console.say(f"stopped after step {step}")
        return 128 + signals.stop
    job.console.say(f"{job.member.cluster.task} is done after step {step}")
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
    device = job.member.device if job.member else None
    with tf.Graph().as_default() as graph, tf.device(device), Report(job, result) as report:
        tf.set_random_seed(job.config.seed)
        graphs = build_graphs(job)
        ops = checkpoints.build_checkpoint_ops()
        report.start(graph)
        restore = _make_restore(job, ops)
        try:
            with (
                losses_named(job.member),
                _open(job, graphs, restore, signals) as opened,
                servers_until_the_end(opened.session, graphs.meeting, signals),
            ):
                write_settings(job.config, job.rundir)
                signals.check()
                run(job, graphs, opened, signals, report, ops)
        except READER_ERRORS as error:
            raise explain_input_error(Path(job.config.data_dir), job.manifest, "train") or error from error


def _open(
    job: Job, graphs: Graphs, restore: Callable[[tf.Session], None] | None, signals: Signals
) -> AbstractContextManager[OpenSession]:
    target, settle = "", make_settle(graphs)
    if job.member and isinstance(graphs.exchange, AllReduce):
        target, settle = job.member.target, build_settle(job.member, graphs.exchange)
    elif job.member and graphs.meeting:
        target = job.member.target
        settle = build_settle_with_servers(
            job.member,
            graphs.meeting,
            graphs.exchange,
            tf.trainable_variables(),
            seconds=job.config.join_seconds,
            check=signals.check,
        )
    return open_session(
        graphs.source,
        job.session_config(),
        restore,
        job.config.grace_seconds / 2,
        target=target,
        settle=settle,
        wake=graphs.wake,
    )
