"""Everything periodic of a run, put together from its settings."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

from trainer.running.evaluation import EvalResult
from trainer.running.hooks.agreeing import AgreementHook
from trainer.running.hooks.checkpointing import CheckpointHook
from trainer.running.hooks.input_fill import InputFillHook
from trainer.running.hooks.progress import ProgressHook
from trainer.running.hooks.summaries import SummaryHook
from trainer.running.hooks.tracing import TraceHook
from trainer.running.hooks.validation import ValidationHook
from trainer.running.job import Graphs, Job
from trainer.running.preparation import remake_rundir
from trainer.running.report import Report
from trainer.saving.checkpoints import CheckpointOps
from trainer.signals import Signals
from trainer.tf1 import tf


class Periodic(NamedTuple):
    hooks: list[tf.train.SessionRunHook]  # all of them, in the order in which they run
    progress: ProgressHook
    checkpoint: CheckpointHook
    fills: list[float]  # samples of the input queue's fill


def make_periodic(
    job: Job,
    graphs: Graphs,
    signals: Signals,
    report: Report,
    ops: CheckpointOps,
    evaluate: Callable[..., EvalResult],
    agreement: AgreementHook | None = None,
) -> Periodic:
    """Makes the hooks of a run; `agreement` is that of a cluster."""
    train = graphs.train
    assert job.lock  # Only who writes to a run directory has anything periodic.
    progress = _make_progress(job, graphs, report)
    fill = InputFillHook(train, first_step=job.start.step, num_steps=job.last_step - job.start.step)
    summaries = SummaryHook(
        report.writer,
        train,
        scalars=job.every("summary_every"),
        histograms=job.every("histogram_every"),
        images_per_second=report.throughput.average,
    )
    trace = TraceHook(report.writer, job.rundir, train, job.every("trace_every"), report.failures)
    checkpoint = CheckpointHook(
        ops,
        job.rundir,
        train,
        every=job.every("checkpoint_every"),
        keep=job.config.keep_checkpoints,
        saved=job.start.step,
        signals=signals,
        failures=report.failures,
        prepare=functools.partial(remake_rundir, job.config, job.rundir, job.lock, job.console.say),
    )
    validation = ValidationHook(
        train,
        every=job.every("eval_every"),
        evaluate=functools.partial(evaluate, split="validation"),
        report=report.validation,
        stops_later=agreement is not None,
    )
    hooks = [progress, fill, summaries, trace, checkpoint, validation]
    return Periodic([agreement, *hooks] if agreement else hooks, progress, checkpoint, fill.samples)


def _make_progress(job: Job, graphs: Graphs, report: Report) -> ProgressHook:
    return ProgressHook(
        job.console,
        graphs.train,
        report.metrics,
        every=job.every("log_every"),
        throughput=report.throughput,
        batch_size=job.config.batch_size,
        first_step=job.start.step,
        last_step=job.last_step,
        clock=time.monotonic,
    )
