"""From an open session to the result: trains, saves, evaluates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.errors import NotFiniteError, PeerLostError, Stopped
from trainer.running.evaluation import EvalResult, evaluate
from trainer.running.gathering import take_leave
from trainer.running.hooks.agreeing import AgreementHook
from trainer.running.hooks.checkpointing import WHAT, CheckpointHook
from trainer.running.job import Graphs, Job
from trainer.running.joining import part
from trainer.running.loop import LoopState, run_steps
from trainer.running.peers import peers_watched
from trainer.running.periodic import Periodic, make_periodic
from trainer.running.report import Report
from trainer.running.result import input_verdict
from trainer.running.session import OpenSession
from trainer.running.stalls import StallWatcher
from trainer.saving.checkpoints import CheckpointOps
from trainer.signals import Signals
from trainer.tf1 import tf

Evaluate = Callable[..., EvalResult]  # (session, split=)


def run(job: Job, graphs: Graphs, opened: OpenSession, signals: Signals, report: Report, ops: CheckpointOps) -> None:
    """Trains to the last step or to a signal, saves, and evaluates where there was no signal.

    Whatever ends the training, what has been trained is saved first.

    Raises:
      NotFiniteError: a step was not finite.
      TrainerError: the last checkpoint could not be saved, or a step did not end and that is fatal.
    """
    state = LoopState(job.start.step, job.start.skipped)
    agreement = AgreementHook(graphs.wishes(), signals, is_chief=True) if job.member else None
    should_stop = agreement.should_stop if agreement else signals.should_stop
    watcher = StallWatcher(
        opened,
        seconds=job.config.stall_seconds,
        fatal=job.config.stall_fatal,
        say=job.console.say,
        should_stop=agreement.should_wake if agreement else signals.should_stop,
        in_cluster=agreement is not None,
    )
    evaluate_on = make_evaluate(job, graphs, signals, watcher.beat)
    periodic = make_periodic(job, graphs, signals, report, ops, evaluate_on, agreement)
    signals.defer()
    with watcher:
        try:
            _train(job, graphs, opened, should_stop, report, periodic, state, watcher)
        except Stopped:
            pass  # In an evaluation.
        except Exception as error:
            watcher.beat()  # What was stuck is not.
            if isinstance(error, PeerLostError):
                _save_after_loss(opened, graphs, periodic.checkpoint, state, report)
                raise
            if not (signals.stop and _waited_for_input(error, opened.coord)):
                _save_before_error(error, opened, periodic.checkpoint, state, report)
                raise
        finally:
            _fill_result(job, report, state, periodic.fills)
        if _save_last(opened, periodic.checkpoint, state, report):
            signals.saved_step = state.step
        status = _evaluate_last(job, opened.session, signals, report, state, evaluate_on)
        # Where it could not be saved before: now, or this is an error.
        periodic.checkpoint.save(opened.session, state.step)
        report.result.status = status


def make_evaluate(job: Job, graphs: Graphs, signals: Signals, after_batch: Callable[[], None]) -> Evaluate:
    """Makes the evaluation of a run's session on a split; a signal ends it."""

    def evaluate_on(session: tf.Session, split: str) -> EvalResult:
        return evaluate(
            session,
            graph=graphs.eval,
            folder=Path(job.config.data_dir),
            manifest=job.manifest,
            split=split,
            reading=signals.interruptible,
            after_batch=after_batch,
        )

    return evaluate_on


def _train(
    job: Job,
    graphs: Graphs,
    opened: OpenSession,
    should_stop: Callable[[], bool],
    report: Report,
    periodic: Periodic,
    state: LoopState,
    watcher: StallWatcher,
) -> None:
    def after_steps(count: int) -> None:
        report.throughput.steps(count)
        watcher.beat()

    with periodic.progress, peers_watched(job, graphs, opened):
        opened.session.run(graphs.train.stage_first)
        watcher.beat()
        run_steps(
            opened.session,
            graphs.train,
            periodic.hooks,
            state,
            last_step=job.last_step,
            max_skips=job.config.max_skips if job.config.nonfinite == "skip" else 0,
            should_stop=should_stop,
            steps_per_loop=job.config.steps_per_loop,
            after_steps=after_steps,
            say=job.console.say,
        )
    part(opened.session, graphs.farewell)
    if job.member and graphs.meeting:
        take_leave(opened.session, job.member, graphs.meeting)
        state.step = int(opened.session.run(graphs.train.finished))  # Others may have had a last one.


def _save_after_loss(
    opened: OpenSession, graphs: Graphs, checkpoint: CheckpointHook, state: LoopState, report: Report
) -> None:
    """Saves the finished steps: all means come before the update, which was made whole, or not at all."""
    try:
        state.step = int(opened.session.run(graphs.train.finished))
    except tf.errors.OpError:
        report.say("the variables have gone with their server: the steps since the last checkpoint are lost")
        return
    _save_last(opened, checkpoint, state, report)


def _waited_for_input(error: BaseException, coord: tf.train.Coordinator) -> bool:
    """Did a step fail because its input ended? It has then changed nothing."""
    ended = isinstance(error, tf.errors.OutOfRangeError | tf.errors.CancelledError)
    return ended or (isinstance(error, tf.errors.OpError) and coord.should_stop())


def _save_before_error(
    error: Exception, opened: OpenSession, checkpoint: CheckpointHook, state: LoopState, report: Report
) -> None:
    """Saves the finished steps, unless the error may have come in the middle of an update."""
    if isinstance(error, tf.errors.OpError) and not _waited_for_input(error, opened.coord):
        return
    try:
        _save_last(opened, checkpoint, state, report)
    except NotFiniteError as worse:
        report.say(str(worse))


def _save_last(opened: OpenSession, checkpoint: CheckpointHook, state: LoopState, report: Report) -> bool:
    """Saves the finished steps; returns whether they could be written."""
    with report.failures.tolerated(WHAT):
        checkpoint.save(opened.session, state.step)
        return True
    return False


def _evaluate_last(
    job: Job, session: tf.Session, signals: Signals, report: Report, state: LoopState, evaluate_on: Evaluate
) -> str:
    """Evaluates the trained weights, unless a signal asks to stop; returns the status of the run."""
    if not signals.stop and state.step == job.start.step:
        job.console.say(f"already trained to step {state.step}; a larger --train_steps or --epochs goes on")
    try:
        signals.check()
        if report.validated_step != state.step:
            report.validation(state.step, evaluate_on(session, split="validation"))
        report.result.test_accuracy = evaluate_on(session, split="test").accuracy
    except Stopped as stop:
        return str(stop)
    return "done"


def _fill_result(job: Job, report: Report, state: LoopState, fills: list[float]) -> None:
    result = report.result
    result.step, result.train_loss, result.skipped_steps = state.step, state.loss, state.skipped
    result.overflowed_steps = state.overflows
    steps = state.step - job.start.step
    not_applied = state.overflows + state.skipped - job.start.skipped
    position = job.start.position + (steps + not_applied) * job.config.batch_size
    result.epochs = round(position / job.manifest.num_examples("train"), 4)
    result.images_per_second = round(report.throughput.average(), 1)
    if state.overflows:
        job.console.say(f"{state.overflows} steps overflowed float16 and were not applied; each halved the loss scale")
    if steps:
        result.input_bound, verdict = input_verdict(job.config.input, fills)
        job.console.say(f"{verdict}; {result.images_per_second:,.0f} images/s")
