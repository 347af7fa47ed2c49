"""One run of the trainer, from its settings to its result."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from trainer import grammars
from trainer.cluster.member import losses_named
from trainer.cluster.ps_rendezvous import servers_until_the_end
from trainer.cluster.spec import Cluster
from trainer.console import Console
from trainer.data.records import explain_input_error
from trainer.errors import OK, NotFiniteError, Stopped
from trainer.models.published import describe_difference
from trainer.reporting.report import Report
from trainer.reporting.result import RunResult, load_result
from trainer.running.session import OpenSession, open_session
from trainer.saving import checkpoints, restoring
from trainer.settings import flags
from trainer.settings.config import Config
from trainer.signals import Signals
from trainer.tf1 import op_determinism, tf
from trainer.training.chief import make_chief, train_chief
from trainer.training.graphs import Graphs, build_graphs
from trainer.training.job import Job
from trainer.training.preparation import write_settings
from trainer.training.starting import prepare
from trainer.training.worker import train_worker

# What the input may fail with, where the record that is to blame has to be looked for.
READER_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
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
    result = train_to_result(config, console, signals, cluster)
    is_done = result.status == "done" if result else not signals.stop
    return OK if is_done else 128 + signals.stop


def train_to_result(
    config: Config,
    console: Console,
    signals: Signals,
    cluster: Cluster | None = None,
    given: Mapping[str, Callable[..., Any]] | None = None,
) -> RunResult | None:
    """Does what `train` does, with functions that Python gives; returns the result, None for a worker."""
    begin = time.monotonic()
    signals.grace_seconds = config.grace_seconds
    try:
        with ExitStack() as stack:
            stack.enter_context(op_determinism(config.deterministic))
            job = prepare(config, console, stack, cluster, signals.check, given)
            if not job.is_chief:
                _run_worker(job, signals)
                return None
            if not job.member and job.is_finished and (finished := load_result(job.rundir.result)):
                console.say(f"already trained to step {job.start.step}; a larger --train_steps or --epochs goes on")
                return finished
            result = _run_chief(job, signals, begin)
    except OSError as error:
        error.filename = error.filename or config.logdir  # Opening a file says which, writing does not.
        raise
    _say_result(job, result)
    return result


def _say_result(job: Job, result: RunResult) -> None:
    say, goal = job.console.say, job.task.metrics.goal
    if result.failed_writes:
        failed = ", ".join(f"{what} {count} times" for what, count in result.failed_writes.items())
        say(f"not all could be written: {failed}")
    if result.status != "done":
        say(f"{result.status} after step {result.step}; the same command goes on from there")
        return
    say(
        f"test {goal.describe(result.test[goal.name])} after {result.step} steps, {result.seconds:.1f} s in all; "
        f"{job.rundir.result}"
    )


def _run_worker(job: Job, signals: Signals) -> None:
    assert job.member
    signals.shield()  # Before TensorFlow's first thread of the steps.
    with tf.Graph().as_default(), tf.device(job.member.device):
        tf.set_random_seed(job.config.seed)
        graphs, step = build_graphs(job), job.start.step
        # The chief gives the variables their values.
        restore = (lambda session: None) if graphs.rendezvous else None
        try:
            with losses_named(job.member), _open(job, graphs, restore, signals) as opened:
                step = train_worker(job, job.member, graphs, opened, signals)
        except READER_ERRORS as error:
            raise explain_input_error(job.spec, "train") or error from error
    if signals.stop:
        job.console.say(f"stopped after step {step}")
    else:
        job.console.say(f"{job.member.cluster.task} is done after step {step}")


def _run_chief(job: Job, signals: Signals, begin: float) -> RunResult:
    """Trains and writes result.json, whatever ends the training."""
    result = RunResult(step=job.start.step, devices=job.devices.towers, skipped_records=job.skipped_records)
    finished = load_result(job.rundir.result) if job.is_finished else None
    result = finished or result
    try:
        _train_with_report(job, signals, result)
    except BaseException as error:
        result.status = "error"
        if isinstance(error, NotFiniteError):
            result.status = "not finite"
        elif isinstance(error, Stopped):
            result.status = str(error)
        elif isinstance(error, KeyboardInterrupt):
            result.status = "stopped by SIGINT"
        result.seconds = round(time.monotonic() - begin, 3)
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            result.save(job.rundir.result)
        raise
    if not finished:
        result.seconds = round(time.monotonic() - begin, 3)
        result.save(job.rundir.result)
    return result


def _make_restore(job: Job, ops: checkpoints.CheckpointOps) -> Callable[[tf.Session], None] | None:
    """Makes what sets the variables: from the run's own checkpoint, else from that of a warm start."""
    config = job.config
    if job.start.path:
        if config.warm_start:
            job.console.say(f"--warm_start={config.warm_start} is not read: the run goes on from its own checkpoint")
        return functools.partial(checkpoints.restore, ops, path=job.start.path)
    if not config.warm_start:
        return None
    if difference := describe_difference(config.model, job.task.preprocessing):
        job.console.say(difference)
    return restoring.build_warm_start(
        config.warm_start,
        exclude=config.warm_start_exclude,
        rename=[grammars.parse_rename("warm_start_rename", rule) for rule in config.warm_start_rename],
        ignore_missing=config.ignore_missing,
        say=job.console.say,
    )


def _with_stream(restore: Callable[[tf.Session], None] | None, graphs: Graphs) -> Callable[[tf.Session], None]:
    """Makes what sets all variables, and notes how this start of the run reads its records."""
    initialize = tf.global_variables_initializer()

    def set_all(session: tf.Session) -> None:
        if restore:
            restore(session)
        else:
            session.run(initialize)
        session.run(graphs.note_stream)

    return set_all


def _train_with_report(job: Job, signals: Signals, result: RunResult) -> None:
    signals.shield()  # Before TensorFlow's first thread.
    device, config = job.member.device if job.member else None, job.config
    with (
        tf.Graph().as_default() as graph,
        tf.device(device),
        Report(
            job.rundir,
            result,
            job.task.metrics.goal,
            first_step=job.start.step,
            batch_size=config.batch_size,
            say=job.console.say,
        ) as report,
    ):
        tf.set_random_seed(config.seed)
        graphs = build_graphs(job)
        for note in graphs.notes:
            job.console.say(note)
        ops = checkpoints.build_checkpoint_ops()
        if result.status != "done":
            report.start(graph, flags.to_flagfile(config))
        restore = _with_stream(_make_restore(job, ops), graphs)
        chief = make_chief(job, graphs, signals, report, ops)
        try:
            with (
                losses_named(job.member),
                _open(job, graphs, restore, signals, chief.periodic.hooks) as opened,
                servers_until_the_end(opened.session, graphs.rendezvous, signals),
            ):
                if not job.is_finished:  # Else nothing is trained, and what was told of it stays.
                    write_settings(config, job.code, job.rundir, job.console.say)
                job.status.write("begun", job.start.step)
                signals.check()
                train_chief(chief, opened)
        except READER_ERRORS as error:
            raise explain_input_error(job.spec, "train") or error from error


def _open(
    job: Job,
    graphs: Graphs,
    restore: Callable[[tf.Session], None] | None,
    signals: Signals,
    hooks: list[tf.train.SessionRunHook] | None = None,
) -> AbstractContextManager[OpenSession]:
    return open_session(
        graphs.source,
        job.session_config(),
        restore,
        job.config.grace_seconds / 2,
        target=job.member.target if job.member else "",
        verify=graphs.build_verify(signals.check),
        hooks=hooks or [],
        wake=graphs.wake,
    )
