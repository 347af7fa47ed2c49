"""The training of the process that writes: trains, saves, evaluates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainer.cluster.peer_watcher import peers_watched
from trainer.cluster.ps_rendezvous import wait_for_ended
from trainer.cluster.rendezvous import wait_at_barrier
from trainer.cluster.server import describe_silent
from trainer.errors import NotFiniteError, PeerLostError, Stopped
from trainer.evaluating.evaluation import evaluate
from trainer.reporting.report import Report
from trainer.reporting.result import input_verdict
from trainer.running import lifecycle
from trainer.running.hooks.checkpointing import WHAT
from trainer.running.hooks.votes import VoteHook
from trainer.running.loop import LoopState, run_steps
from trainer.running.session import OpenSession
from trainer.running.stalls import StallWatcher
from trainer.saving.checkpoints import CheckpointOps
from trainer.signals import Signals
from trainer.tf1 import tf
from trainer.training.graphs import Graphs
from trainer.training.job import Job
from trainer.training.periodic import Periodic, make_periodic, report_validation

Evaluate = Callable[..., dict[str, float]]  # (session, split=) -> metrics


class Chief(NamedTuple):
    """All that the training of the chief needs but its session."""

    job: Job
    graphs: Graphs
    signals: Signals
    report: Report
    state: LoopState
    votes: VoteHook | None  # of a cluster
    periodic: Periodic
    evaluate: Evaluate

    def should_stop(self) -> bool:
        if self.votes:
            return self.votes.should_stop()
        return self.signals.should_stop() or self.state.stop_requested


def make_chief(job: Job, graphs: Graphs, signals: Signals, report: Report, ops: CheckpointOps) -> Chief:
    """Makes the hooks of a run, which still may add to its graph."""
    state = LoopState(job.start.step, job.start.skipped)
    votes = None
    if job.member:
        votes = VoteHook(graphs.votes(), signals, is_chief=True, ends=lambda: state.stop_requested)
    evaluate_on = make_evaluate(job, graphs, signals, after_batch=lambda count: state.beat())
    periodic = make_periodic(job, graphs, signals, report, ops, evaluate_on, votes)
    return Chief(job, graphs, signals, report, state, votes, periodic, evaluate_on)


def make_evaluate(job: Job, graphs: Graphs, signals: Signals, after_batch: Callable[[int], None]) -> Evaluate:
    """Makes the evaluation of a run's session on a split; a signal ends it."""

    def evaluate_on(session: tf.Session, split: str) -> dict[str, float]:
        return evaluate(
            session,
            graph=graphs.eval,
            metrics=job.task.metrics,
            spec=job.spec,
            split=split,
            reading=signals.interruptible,
            after_batch=after_batch,
        )

    return evaluate_on


def train_chief(chief: Chief, opened: OpenSession) -> None:
    """Trains to the last step or to a signal, saves, and evaluates where there was no signal.

    Whatever ends the training, what has been trained is saved first.

    Raises:
      NotFiniteError: a step was not finite.
      TrainerError: the last checkpoint could not be saved, or a step did not end and that is fatal.
    """
    signals, state, report = chief.signals, chief.state, chief.report
    signals.defer()
    with _make_watcher(chief, opened):
        try:
            _train_steps(chief, opened)
        except Stopped:
            pass  # In an evaluation.
        except KeyboardInterrupt:  # Of a Python program that has called the trainer; a step may just have ended.
            _save_after_loss(chief, opened)
            raise
        except Exception as error:
            state.beat()  # What was stuck is not.
            if isinstance(error, PeerLostError):
                _save_after_loss(chief, opened)
                raise
            if not (signals.stop and _waited_for_input(error, opened.coord)):
                _save_before_error(chief, opened, error)
                raise
        finally:
            _fill_result(chief)
        if _save_last(chief, opened):
            signals.saved_step = state.step
        if report.result.status == "done":  # Of an earlier start, after which nothing was left to train.
            return
        status = _evaluate_last(chief, opened.session)
        # Where it could not be saved before: now, or this is an error.
        chief.periodic.checkpoint.save(opened.session, state.step)
        report.result.status = status


def _make_watcher(chief: Chief, opened: OpenSession) -> StallWatcher:
    job, votes, member = chief.job, chief.votes, chief.job.member
    return StallWatcher(
        opened,
        seconds=job.config.stall_seconds,
        fatal=job.config.stall_fatal,
        say=job.console.say,
        should_stop=votes.should_wake if votes else chief.signals.should_stop,
        state=chief.state,
        others=(lambda: describe_silent(member.other_tasks())) if member else None,
        after_pause=chief.report.throughput.leave_out,
    )


def _train_steps(chief: Chief, opened: OpenSession) -> None:
    job, graphs, config = chief.job, chief.graphs, chief.job.config

    def rescue() -> None:
        with opened.session.graph.as_default():  # Of the thread that calls this.
            _save_after_loss(chief, opened)

    with (
        chief.periodic.bar,
        peers_watched(
            job.member,
            graphs.rendezvous,
            opened,
            state=chief.state,
            join_seconds=config.join_seconds,
            say=job.console.say,
            # A lost server has taken the variables with it.
            rescue=None if graphs.rendezvous else rescue,
        ),
    ):
        opened.session.run(graphs.train.stage_first)
        chief.state.beat()
        run_steps(
            opened.session,
            graphs.train,
            chief.periodic.hooks,
            chief.state,
            job.limits(),
            should_stop=chief.should_stop,
            after_steps=chief.report.throughput.steps,
            say=job.console.say,
        )
    lifecycle.end(chief.periodic.hooks, opened.session)
    wait_at_barrier(opened.session, graphs.barrier)
    if job.member and graphs.rendezvous:
        wait_for_ended(opened.session, job.member, graphs.rendezvous)
        chief.state.step = int(opened.session.run(graphs.train.finished))  # Others may have had a last one.


def _save_after_loss(chief: Chief, opened: OpenSession) -> None:
    """Saves the finished steps: all means come before the update, which was made whole, or not at all."""
    try:
        chief.state.step = int(opened.session.run(chief.graphs.train.finished))
    except tf.errors.OpError:
        chief.report.say("the variables have gone with their server: the steps since the last checkpoint are lost")
        return
    _save_last(chief, opened)


def _waited_for_input(error: BaseException, coord: tf.train.Coordinator) -> bool:
    """Did a step fail because its input ended? It has then changed nothing."""
    ended = isinstance(error, tf.errors.OutOfRangeError | tf.errors.CancelledError)
    return ended or (isinstance(error, tf.errors.OpError) and coord.should_stop())


def _save_before_error(chief: Chief, opened: OpenSession, error: Exception) -> None:
    """Saves the finished steps, unless the error may have come in the middle of an update."""
    if isinstance(error, tf.errors.OpError) and not _waited_for_input(error, opened.coord):
        return
    try:
        _save_last(chief, opened)
    except NotFiniteError as worse:
        chief.report.say(str(worse))


def _save_last(chief: Chief, opened: OpenSession) -> bool:
    """Saves the finished steps; returns whether they could be written."""
    with chief.report.failures.tolerated(WHAT):
        chief.periodic.checkpoint.save(opened.session, chief.state.step)
        return True
    return False


def _evaluate_last(chief: Chief, session: tf.Session) -> str:
    """Evaluates the trained weights, unless a signal asks to stop; returns the status of the run."""
    signals, report, step = chief.signals, chief.report, chief.state.step
    try:
        signals.check()
        if report.validated_step != step:
            metrics = chief.evaluate(session, "validation")
            report_validation(chief.job, report, chief.periodic.checkpoint, session, step, metrics)
        report.result.test = chief.evaluate(session, "test")
    except Stopped as stop:
        return str(stop)
    return "done"


def _fill_result(chief: Chief) -> None:
    job, state, result = chief.job, chief.state, chief.report.result
    if result.status == "done":  # Of an earlier start, after which nothing was left to train.
        return
    result.step, result.train_loss, result.skipped_steps = state.step, state.loss, state.skipped
    result.overflowed_steps = state.overflows
    steps = state.step - job.start.step
    not_applied = state.overflows + state.skipped - job.start.skipped
    position = job.start.position + (steps + not_applied) * job.config.batch_size
    result.epochs = round(position / job.spec.num_examples("train"), 4)
    speed = chief.report.throughput.average()
    result.images_per_second = round(speed, 1) if speed else None
    if state.overflows:
        job.console.say(f"{state.overflows} steps overflowed float16 and were not applied; each halved the loss scale")
    if steps:
        result.input_bound, verdict = input_verdict(job.config.input, chief.periodic.fills)
        job.console.say(verdict + (f"; {speed:,.0f} images/s" if speed else ""))
