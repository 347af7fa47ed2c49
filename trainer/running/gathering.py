"""How workers find each other through parameter servers: the chief's start, a check of the means, the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trainer.config import Config
from trainer.errors import FIRST_RETRYABLE, TrainerError, UsageError
from trainer.placing.devices import Placement
from trainer.placing.meeting import Meeting
from trainer.placing.parameter_servers import GradientQueues, VariableSpread
from trainer.placing.server import answers
from trainer.placing.strategies import check_means
from trainer.running.joining import Member, lost, shared_settings
from trainer.saving.checkpoints import Progress
from trainer.signals import Signals
from trainer.tf1 import tf
from trainer.update import build_counters

POLL_SECONDS = 0.05
LEAVE_SECONDS = 10.0  # for the last steps of other workers
GONE_SECONDS = 5.0  # a port that is silent for so long belongs to nobody any more


def gather(
    member: Member, config: Config, data: str, start: Progress | None, check: Callable[[], None]
) -> tuple[Progress, Member]:
    """Gives all workers the chief's start; a worker must have the chief's settings and data.

    Args:
      member: this worker.
      config: of the run.
      data: all that the batches depend on.
      start: of the chief, which goes on at once; None on all others, which wait until its variables have their values.
      check: raises where a signal asks to stop.

    Raises:
      UsageError: settings or data differ from the chief's.
      PeerLostError: the chief did not come, or a server went.
    """
    mine = {"data": data, **{f"--{name}": text for name, text in shared_settings(config).items()}}
    with tf.Graph().as_default(), tf.Session(member.target, config=member.settings) as session:
        meeting = make_meeting(member)
        try:
            if start:
                meeting.clear(session)
                generation = time.time_ns()
                return start, member._replace(generation=generation, notice={"generation": generation, **mine})
            notice = _wait_for_notice(member, meeting, session, config.join_seconds, check)
            _compare(member, mine, notice)
            with tf.device(VariableSpread(len(member.cluster.parameter_servers))):
                counters = session.run([variable.read_value() for variable in build_counters()])
        except tf.errors.OpError as error:
            raise lost(error, member) from error
        return Progress("", *map(int, counters)), member._replace(generation=int(notice["generation"]))


def make_meeting(member: Member) -> Meeting:
    """Makes the meeting of this worker's cluster in the default graph."""
    return Meeting(num_workers=member.workers.count, num_servers=len(member.cluster.parameter_servers))


def _wait_for_notice(
    member: Member, meeting: Meeting, session: tf.Session, seconds: float, check: Callable[[], None]
) -> dict[str, Any]:
    begin = time.monotonic()
    while True:
        if notice := meeting.read(session):
            return notice
        check()
        if time.monotonic() - begin > seconds or not answers(member.cluster.workers[0]):
            raise TrainerError(
                f"worker 0 ({member.cluster.workers[0]}) has not set the variables within --join_seconds={seconds:g}, "
                "or has ended: see its log"
            )
        time.sleep(POLL_SECONDS)


def _compare(member: Member, mine: dict[str, str], notice: dict[str, Any]) -> None:
    names = [name for name in mine if notice.get(name) != mine[name]]
    if names:
        listed = ", ".join(
            "the data" if name == "data" else f"{name} ({mine[name]}, there {notice.get(name, 'unknown')})"
            for name in names
        )
        index = member.workers.index
        raise UsageError(f"worker {index} differs from worker 0 in {listed}: all need the same")


def build_settle(
    member: Member,
    meeting: Meeting,
    exchange: object,
    variables: Sequence[tf.Variable],
    *,
    seconds: float,
    check: Callable[[], None],
) -> Callable[[tf.Session], None]:
    """Builds what lets the other workers begin and, where their gradients meet, checks the means of these.

    Args:
      member: this worker.
      meeting: in the default graph.
      exchange: of the steps.
      variables: those that are trained.
      seconds: to wait for the others, at most.
      check: raises where a signal asks to stop.

    Returns:
      What takes a session whose variables are set. It raises a TrainerError where means are wrong or a worker does not
      come, and a PeerLostError where a task has gone.
    """
    queues = exchange if isinstance(exchange, GradientQueues) else None
    shapes, devices = [variable.shape for variable in variables], [variable.device for variable in variables]
    difference, sizes, close = queues.build_check(shapes, devices) if queues else (tf.no_op(), [], [])

    def settle(session: tf.Session) -> None:
        try:
            if not member.cluster.is_chief:
                with contextlib.suppress(tf.errors.CancelledError):  # The chief has checked already.
                    session.run(difference)
                return
            meeting.publish(session, member.notice)
            if queues:
                _wait_for_workers(member, session, sizes, seconds, check)
                check_means(float(session.run(difference)))
                session.run(close)
        except TrainerError:
            _tell_servers(session, meeting, again=False)
            raise

    return settle


def _wait_for_workers(
    member: Member, session: tf.Session, sizes: Sequence[tf.Tensor], seconds: float, check: Callable[[], None]
) -> None:
    """Waits until all others have handed over what the check needs."""
    begin = time.monotonic()
    while not all(sizes_v := session.run(list(sizes))):
        check()
        waited = time.monotonic() - begin
        others = member.workers.count - 1
        missing = sorted({1 + number % others for number, size in enumerate(sizes_v) if not size})
        gone = [index for index in missing if not answers(member.cluster.workers[index])]
        if waited > seconds or (gone and waited > GONE_SECONDS):
            names = ", ".join(f"worker {index} ({member.cluster.workers[index]})" for index in gone or missing)
            raise TrainerError(f"{names} did not begin: see its log")
        time.sleep(POLL_SECONDS)


def take_leave(session: tf.Session, member: Member, meeting: Meeting) -> None:
    """Ends a worker's part in the training: the servers stay until all have left, and the chief has done the rest."""
    meeting.leave(session, member.workers.index)
    if not member.cluster.is_chief:
        return
    deadline = time.monotonic() + LEAVE_SECONDS
    while time.monotonic() < deadline:
        missing = set(range(member.workers.count)) - meeting.have_left(session)
        if not any(answers(member.cluster.workers[index]) for index in missing):
            return
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def servers_until_the_end(session: tf.Session, meeting: Meeting | None, signals: Signals) -> Iterator[None]:
    """Lets the parameter servers end with the block, whatever ends it, and says whether the chief may start again."""
    again = True
    try:
        yield
        again = signals.stop != 0
    except TrainerError as error:
        again = error.exit_code >= FIRST_RETRYABLE
        raise
    finally:
        _tell_servers(session, meeting, again=again)


def _tell_servers(session: tf.Session, meeting: Meeting | None, *, again: bool) -> None:
    if meeting:
        with contextlib.suppress(tf.errors.OpError):  # A server that has gone needs no word.
            meeting.finish(session, again=again)


def placement_of(member: Member | None, parameters: Placement) -> Placement:
    """Chooses where the variables live: on the parameter servers, where there are any."""
    if member is None or not member.cluster.parameter_servers:
        return parameters
    return VariableSpread(len(member.cluster.parameter_servers))
