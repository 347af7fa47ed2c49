"""One run of the trainer, from its settings to its result."""

from __future__ import annotations

import functools
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from trainer.config import Config
from trainer.console import Console
from trainer.data.records import explain_input_error
from trainer.errors import OK, NotFiniteError
from trainer.placing.devices import choose_devices, gpu_memory_mib, make_session_config
from trainer.rundir import RunDir
from trainer.running.evaluation import EvalResult, evaluate
from trainer.running.hooks.checkpointing import CheckpointHook
from trainer.running.hooks.input_fill import InputFillHook
from trainer.running.hooks.progress import ProgressHook
from trainer.running.hooks.summaries import SummaryHook
from trainer.running.hooks.tracing import TraceHook
from trainer.running.hooks.validation import ValidationHook
from trainer.running.job import Graphs, Job, build_graphs
from trainer.running.loop import LoopEnd, run_steps
from trainer.running.preparation import prepare_data, prepare_rundir, write_settings
from trainer.running.report import Report
from trainer.running.result import RunResult, input_verdict
from trainer.running.session import Signals, open_session
from trainer.saving import checkpoints
from trainer.tf1 import NUM_PHYSICAL_GPUS, tf

# What the input may fail with, where the record that is to blame has to be looked for.
READER_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
    tf.errors.NotFoundError,
)


def train(config: Config, console: Console) -> int:
    """Trains, evaluates and writes the result; returns the exit code."""
    begin = time.monotonic()
    signals = Signals()
    try:
        with signals.installed(), ExitStack() as stack:
            job = prepare(config, console, stack)
            result = _train_to_result(job, signals, begin)
    except OSError as error:
        error.filename = error.filename or config.logdir  # Opening a file says which, writing does not.
        raise
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
    result = RunResult(step=job.start.step, devices=job.devices.towers)
    try:
        _train(job, signals, result)
    except NotFiniteError:
        result.status = "not finite"
        raise
    finally:
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
    manifest = prepare_data(config, console)
    rundir = RunDir(config.logdir)
    progress = prepare_rundir(config, rundir, console, stack)
    console.open_log(rundir.log)
    num_examples = manifest.num_examples("train")
    steps_per_epoch = num_examples / config.batch_size
    last_step = config.train_steps or max(1, round(config.epochs * steps_per_epoch))
    if devices.note:
        console.say(devices.note)
    towers = f"{config.num_gpus} tower{'s' if config.num_gpus > 1 else ''}"
    console.say(
        f"{config.model} on {config.dataset}: {num_examples:,} images, {last_step:,} steps of {config.batch_size} "
        f"over {towers}; to watch: tensorboard --logdir={rundir.path}"
    )
    if progress:
        console.say(f"resuming from step {progress.step} ({progress.path})")
    start = progress or checkpoints.Progress(path="", step=0, position=0)
    return Job(config, console, rundir, manifest, devices, start, steps_per_epoch, last_step)


def _train(job: Job, signals: Signals, result: RunResult) -> None:
    with tf.Graph().as_default() as graph, Report(job, result) as report:
        tf.set_random_seed(job.config.seed)
        graphs = build_graphs(job)
        ops = checkpoints.build_checkpoint_ops()
        report.start(graph)
        settings = make_session_config(
            job.devices,
            intra_op_threads=job.config.intra_op_threads,
            inter_op_threads=job.config.inter_op_threads,
            allow_soft_placement=job.config.allow_soft_placement,
            log_device_placement=job.config.log_device_placement,
            gpu_memory_mib=gpu_memory_mib,
        )
        restore = functools.partial(checkpoints.restore, ops.saver, path=job.start.path) if job.start.path else None
        try:
            with open_session(graphs.source, settings, restore) as session:
                write_settings(job.config, job.rundir)
                _run(job, graphs, session, signals, report, ops)
        except READER_ERRORS as error:
            raise explain_input_error(Path(job.config.data_dir), job.manifest, "train") or error from error


def _run(
    job: Job, graphs: Graphs, session: tf.Session, signals: Signals, report: Report, ops: checkpoints.CheckpointOps
) -> None:
    """Trains to the last step or to a signal, saves, and evaluates where there was no signal."""
    result = report.result
    evaluate_on = functools.partial(
        evaluate, graph=graphs.eval, folder=Path(job.config.data_dir), manifest=job.manifest
    )
    checkpoint_hook = _make_checkpoints(job, graphs, signals, ops)
    progress = _make_progress(job, graphs, report)
    fill_hook = InputFillHook(graphs.train, first_step=job.start.step, num_steps=job.last_step - job.start.step)
    hooks = [
        progress,
        fill_hook,
        _make_summaries(job, graphs, report),
        TraceHook(report.writer, job.rundir, graphs.train, job.every("trace_every")),
        checkpoint_hook,
        ValidationHook(
            graphs.train,
            every=job.every("eval_every"),
            evaluate=functools.partial(evaluate_on, split="validation"),
            report=report.validation,
        ),
    ]
    with progress:
        end = run_steps(
            session,
            graphs.train,
            hooks,
            step=job.start.step,
            last_step=job.last_step,
            should_stop=signals.should_stop,
            after_step=report.throughput.step,
        )
    checkpoint_hook.save(session, end.step)
    _fill_result(job, report, end, fill_hook.samples)
    if signals.stop:
        result.status = f"stopped by {signal.Signals(signals.stop).name}"
        return
    if end.step == job.start.step:
        job.console.say(f"already trained to step {end.step}; a larger --train_steps or --epochs goes on")
    if report.validated_step != end.step:
        report.validation(end.step, evaluate_on(session, split="validation"))
    test: EvalResult = evaluate_on(session, split="test")
    result.test_accuracy, result.status = test.accuracy, "done"


def _make_checkpoints(job: Job, graphs: Graphs, signals: Signals, ops: checkpoints.CheckpointOps) -> CheckpointHook:
    return CheckpointHook(
        ops,
        job.rundir,
        graphs.train,
        every=job.every("checkpoint_every"),
        keep=job.config.keep_checkpoints,
        saved=job.start.step,
        signals=signals,
    )


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


def _make_summaries(job: Job, graphs: Graphs, report: Report) -> SummaryHook:
    return SummaryHook(
        report.writer,
        graphs.train,
        scalars=job.every("summary_every"),
        histograms=job.every("histogram_every"),
        images_per_second=report.throughput.average,
    )


def _fill_result(job: Job, report: Report, end: LoopEnd, fills: list[float]) -> None:
    result = report.result
    result.step, result.train_loss = end
    steps = end.step - job.start.step
    result.epochs = round((job.start.position + steps * job.config.batch_size) / job.manifest.num_examples("train"), 4)
    result.images_per_second = round(report.throughput.average(), 1)
    if steps:
        result.input_bound, verdict = input_verdict(job.config.input, fills)
        job.console.say(f"{verdict}; {result.images_per_second:,.0f} images/s")
