"""Everything periodic of a run, put together from its settings."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from trainer.learning.plateau import Plateau
from trainer.reporting.report import Report
from trainer.running.hooks.checkpointing import CheckpointHook
from trainer.running.hooks.input_fill import InputFillHook
from trainer.running.hooks.own import make_own_hooks
from trainer.running.hooks.progress import BarHook, ReportHook
from trainer.running.hooks.summaries import HistogramHook, ScalarHook
from trainer.running.hooks.tracing import TraceHook
from trainer.running.hooks.validation import ValidationHook
from trainer.running.hooks.votes import VoteHook
from trainer.saving import best
from trainer.saving.checkpoints import CheckpointOps
from trainer.saving.files import last_kept
from trainer.signals import Signals
from trainer.tf1 import tf
from trainer.timing import Every
from trainer.training.graphs import Graphs
from trainer.training.job import Job
from trainer.training.preparation import remake_rundir


class Periodic(NamedTuple):
    """The hooks of a run."""

    hooks: list[tf.train.SessionRunHook]  # all of them, in the order in which they run
    bar: BarHook
    checkpoint: CheckpointHook
    fills: list[float]  # samples of the input queue's fill


def make_periodic(
    job: Job,
    graphs: Graphs,
    signals: Signals,
    report: Report,
    ops: CheckpointOps,
    evaluate: Callable[..., dict[str, float]],
    votes: VoteHook | None = None,
) -> Periodic:
    """Makes the hooks of a run; `votes` is that of a cluster."""
    train = graphs.train
    assert job.lock  # Only who writes to a run directory has anything periodic.
    fill = InputFillHook(train, first_step=job.start.step, num_steps=job.last_step - job.start.step)
    bar = BarHook(
        job.console,
        train,
        first_step=job.start.step,
        last_step=job.last_step,
        images_per_second=report.throughput.average,
        clock=time.monotonic,
    )
    checkpoint = CheckpointHook(
        ops,
        job.rundir,
        train,
        every=job.every("checkpoint_every"),
        keep_every=_make_keep_every(job),
        keep=job.config.keep_checkpoints,
        saved=job.start.step,
        signals=signals,
        failures=report.failures,
        prepare=functools.partial(remake_rundir, job.config, job.code, job.rundir, job.lock, job.console.say),
    )
    validation = ValidationHook(
        train,
        every=job.every("eval_every"),
        evaluate=functools.partial(evaluate, split="validation"),
        report=functools.partial(_take_validation, job, report, checkpoint, graphs.plateau),
        stops_later=votes is not None,
    )
    reporting = [bar, _make_report_hook(job, graphs, report), fill, *_make_event_hooks(job, graphs, report)]
    reporting += make_own_hooks(job.config.hooks, job.code)
    # A plateau is a part of the checkpoint: one of the same step holds what the evaluation has come to.
    last = [validation, checkpoint] if graphs.plateau else [checkpoint, validation]
    hooks = [*([votes] if votes else []), *reporting, *last]
    return Periodic(hooks, bar, checkpoint, fill.samples)


def _make_keep_every(job: Job) -> Every:
    """Makes the period of what is kept for ever, which goes on where an earlier start has left it."""
    every = job.every("keep_every")
    if (last := last_kept(job.rundir)) is not None:
        every.done_before(max(0.0, time.time() - last))
    return every


def _take_validation(
    job: Job,
    report: Report,
    checkpoint: CheckpointHook,
    plateau: Plateau | None,
    session: tf.Session,
    step: int,
    metrics: Mapping[str, float],
) -> bool:
    """Does what `report_validation` does, once the learning rate's plateau has taken note."""
    goal = job.task.metrics.goal
    fallen = plateau.note(session, metrics[goal.name], goal) if plateau else None
    ends = report_validation(job, report, checkpoint, session, step, metrics)
    if fallen:
        report.say(
            f"no better {goal.name} than {fallen.best:g}: from here on the learning rate is "
            f"{job.config.learning_rate * fallen.factor:g}"
        )
    return ends


def report_validation(
    job: Job, report: Report, checkpoint: CheckpointHook, session: tf.Session, step: int, metrics: Mapping[str, float]
) -> bool:
    """Reports an evaluation on the validation set, and with --keep_best keeps the checkpoint of the best one.

    Returns:
      Whether the training is to end here, because none was better for --stop_after evaluations.
    """
    report.validation(step, metrics)
    if job.config.keep_best:
        _keep_best(job, report, checkpoint, session, step, metrics)
    patience, since = job.config.stop_after, report.evaluations_since_best
    if not patience or since < patience or step >= job.last_step:
        return False
    goal, best_step = job.task.metrics.goal, report.result.best_step
    report.say(f"{since} evaluations without a better {goal.name} than that of step {best_step}: the training ends")
    return True


def _keep_best(
    job: Job, report: Report, checkpoint: CheckpointHook, session: tf.Session, step: int, metrics: Mapping[str, float]
) -> None:
    weights = "ema" if job.config.ema_decay else "raw"
    goal = job.task.metrics.goal
    found = best.Best(step, "validation", weights, goal.name, metrics[goal.name], metrics["loss"])
    with report.failures.tolerated("best/"):
        if best.is_better(found, best.load_best(job.rundir), goal):
            checkpoint.save(session, step)
            best.keep_best(job.rundir, f"{job.rundir.checkpoint_prefix}-{step}", found)


def _make_report_hook(job: Job, graphs: Graphs, report: Report) -> ReportHook:
    return ReportHook(
        job.console,
        graphs.train,
        report.metrics,
        every=job.every("log_every"),
        throughput=report.throughput,
        batch_size=job.config.batch_size,
        last_step=job.last_step,
        tell=functools.partial(job.status.write, "step"),
    )


def _make_event_hooks(job: Job, graphs: Graphs, report: Report) -> list[tf.train.SessionRunHook]:
    """Makes what writes for TensorBoard."""
    scalars = ScalarHook(
        report.writer,
        graphs.train,
        every=job.every("summary_every"),
        last_step=job.last_step,
        images_per_second=report.throughput.average,
    )
    histograms = HistogramHook(report.writer, graphs.train, every=job.every("histogram_every"))
    trace = TraceHook(report.writer, job.rundir, graphs.train, job.every("trace_every"), report.failures)
    return [scalars, histograms, trace]
