"""How workers find each other through parameter servers: the chief's start, a check of the means, the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainer.cluster.member import Member, lost, shared_settings
from trainer.cluster.ps_variables import RendezvousVariables
from trainer.cluster.server import answers
from trainer.errors import FIRST_RETRYABLE, TrainerError, UsageError
from trainer.graph.update import build_counters
from trainer.placing.devices import Placement
from trainer.placing.means_check import check_means
from trainer.placing.ps_exchange import VariableSpread
from trainer.placing.strategy import MeansCheck, Strategy
from trainer.saving.progress import Progress
from trainer.settings.config import Config
from trainer.signals import Signals
from trainer.tf1 import tf

POLL_SECONDS = 0.05
END_SECONDS = 10.0  # for the last steps of other workers
GONE_SECONDS = 5.0  # a port that is silent for so long belongs to nobody any more


def agree_on_start(
    member: Member, config: Config, what: Mapping[str, str], start: Progress | None, check: Callable[[], None]
) -> tuple[Progress, Member]:
    """Gives all workers the chief's start; a worker must have the chief's settings, data and code.

    Args:
      member: this worker.
      config: of the run.
      what: must be the same beside the settings, by the names that a message gives them.
      start: of the chief, which goes on at once; None on all others, which wait until its variables have their values.
      check: raises where a signal asks to stop.

    Raises:
      UsageError: something differs from the chief's.
      PeerLostError: the chief did not come, or a server went.
    """
    mine = {**what, **{f"--{name}": text for name, text in shared_settings(config).items()}}
    with tf.Graph().as_default(), tf.Session(member.target, config=member.settings) as session:
        variables = make_variables(member)
        try:
            if start:
                variables.clear(session)
                generation = time.time_ns()
                return start, member._replace(generation=generation, notice={"generation": generation, **mine})
            notice = _wait_for_notice(member, variables, session, config.join_seconds, check)
            _compare(member, mine, notice)
            with tf.device(VariableSpread(len(member.cluster.parameter_servers))):
                counters = session.run([variable.read_value() for variable in build_counters()])
        except tf.errors.OpError as error:
            raise lost(error, member) from error
        step, position, skipped, stream = counters
        found = Progress("", int(step), int(position), int(skipped), *map(int, stream))
        return found, member._replace(generation=int(notice["generation"]))


def make_variables(member: Member) -> RendezvousVariables:
    """Makes the variables of this worker's cluster in the default graph."""
    return RendezvousVariables(num_workers=member.workers.count, num_servers=len(member.cluster.parameter_servers))


def _wait_for_notice(
    member: Member,
    variables: RendezvousVariables,
    session: tf.Session,
    seconds: float,
    check: Callable[[], None],
) -> dict[str, Any]:
    begin = time.monotonic()
    while True:
        if notice := variables.read(session):
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
            f"{name} ({mine[name]}, there {notice.get(name, 'unknown')})" if name.startswith("--") else name
            for name in names
        )
        index = member.workers.index
        raise UsageError(f"worker {index} differs from worker 0 in {listed}: all need the same")


def build_verify(
    member: Member,
    variables: RendezvousVariables,
    strategy: Strategy,
    trained: Sequence[tf.Variable],
    *,
    seconds: float,
    check: Callable[[], None],
) -> Callable[[tf.Session], None]:
    """Builds what lets the other workers begin and, where their gradients meet, checks the means of these.

    Args:
      member: this worker.
      variables: in the default graph.
      strategy: of the steps.
      trained: variables, which have gradients.
      seconds: to wait for the others, at most.
      check: raises where a signal asks to stop.

    Returns:
      What takes a session whose variables are set. It raises a TrainerError where means are wrong or a worker does not
      come, and a PeerLostError where a task has gone.
    """
    shapes, devices = [variable.shape for variable in trained], [variable.device for variable in trained]
    means = strategy.build_means_check(shapes, devices)

    def verify(session: tf.Session) -> None:
        try:
            if not member.cluster.is_chief:
                if means:
                    with contextlib.suppress(tf.errors.CancelledError):  # The chief has checked already.
                        session.run(means.run)
                return
            variables.publish(session, member.notice)
            if means:
                _wait_for_workers(member, session, means, seconds, check)
                check_means(float(session.run(means.run)))
                session.run(means.close)
        except TrainerError:
            _tell_servers(session, variables, again=False)
            raise

    return verify


def _wait_for_workers(
    member: Member, session: tf.Session, means: MeansCheck, seconds: float, check: Callable[[], None]
) -> None:
    """Waits until all others have handed over what the check needs."""
    begin = time.monotonic()
    while not all(ready_v := session.run(list(means.ready))):
        check()
        waited = time.monotonic() - begin
        others = member.workers.count - 1
        missing = sorted({1 + number % others for number, count in enumerate(ready_v) if not count})
        gone = [index for index in missing if not answers(member.cluster.workers[index])]
        if waited > seconds or (gone and waited > GONE_SECONDS):
            names = ", ".join(f"worker {index} ({member.cluster.workers[index]})" for index in gone or missing)
            raise TrainerError(f"{names} did not begin: see its log")
        time.sleep(POLL_SECONDS)


def wait_for_ended(session: tf.Session, member: Member, variables: RendezvousVariables) -> None:
    """Ends a worker's steps: the servers stay until all have ended theirs, and the chief has done the rest."""
    variables.mark_ended(session, member.workers.index)
    if not member.cluster.is_chief:
        return
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        missing = set(range(member.workers.count)) - variables.ended_workers(session)
        if not any(answers(member.cluster.workers[index]) for index in missing):
            return
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def servers_until_the_end(
    session: tf.Session, variables: RendezvousVariables | None, signals: Signals
) -> Iterator[None]:
    """Lets the parameter servers end with the block, whatever ends it, and says whether the chief may start again."""
    again = True
    try:
        yield
        again = signals.stop != 0
    except TrainerError as error:
        again = error.exit_code >= FIRST_RETRYABLE
        raise
    finally:
        _tell_servers(session, variables, again=again)


def _tell_servers(session: tf.Session, variables: RendezvousVariables | None, *, again: bool) -> None:
    if variables:
        with contextlib.suppress(tf.errors.OpError):  # A server that has gone needs no word.
            variables.finish(session, again=again)


def placement_of(member: Member | None, parameters: Placement) -> Placement:
    """Chooses where the variables live: on the parameter servers, where there are any."""
    if member is None or not member.cluster.parameter_servers:
        return parameters
    return VariableSpread(len(member.cluster.parameter_servers))
