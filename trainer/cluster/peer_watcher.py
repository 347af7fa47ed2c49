"""A thread that watches the tasks on which a worker depends, where TensorFlow itself would wait without end."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from trainer.cluster.member import Member, losses_named
from trainer.cluster.ps_rendezvous import GONE_SECONDS
from trainer.cluster.ps_variables import RendezvousVariables
from trainer.cluster.server import answers, refuses
from trainer.errors import PEER_LOST, PeerLostError
from trainer.running.loop import LoopState
from trainer.running.session import OpenSession
from trainer.running.stages import close_queues
from trainer.tf1 import tf

POLL_SECONDS = 1.0
FATAL_SECONDS = 10.0  # for a step to fail once a task is known to have gone
UNREACHABLE_SECONDS = 60.0  # of silence of a machine, where a step needs no new connections
RESCUE_SECONDS = 60.0  # for saving beside a step that does not


class PeerWatcher:
    """Watches from entering to leaving; `error` says which task has gone for good."""

    def __init__(
        self,
        member: Member,
        variables: RendezvousVariables | None,
        session: tf.Session,
        *,
        state: LoopState,
        join_seconds: float,
        say: Callable[[str], None],
        wake: Callable[[PeerLostError], None],
        hurry: Callable[[], bool],
        rescue: Callable[[], None] | None = None,
    ) -> None:
        """Takes what it watches.

        Args:
          member: this worker.
          variables: on parameter servers; None: a step is a collective operation of all workers.
          session: of its steps.
          state: of its steps: between two of them a worker without parameter servers needs nobody.
          join_seconds: after which a worker that the chief waits for is given up.
          say: is told who is gone, and who has come back.
          wake: makes a step fail that waits for other tasks.
          hurry: tells that who does not answer now will not be waited for.
          rescue: saves the finished steps, where the one that runs cannot be made to fail.
        """
        self.error: PeerLostError | None = None
        self._member = member
        self._variables = variables
        self._session = session
        self._state = state
        self._say = say
        self._wake = wake
        self._hurry = hurry
        self._rescue = rescue
        self._leave = threading.Event()
        self._limits = _limits(member, join_seconds)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peers")

    def __enter__(self) -> PeerWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join()

    def _watch(self) -> None:
        answered = dict.fromkeys(self._limits, time.monotonic())
        told: set[str] = set()
        beats = -1
        while not self._leave.wait(POLL_SECONDS):
            if not self._variables and (not self._state.in_step or self._state.beats != beats):
                beats, answered = self._state.beats, dict.fromkeys(self._limits, time.monotonic())
                continue
            for name, (address, limit) in self._limits.items():
                if answers(address):
                    answered[name] = time.monotonic()
                    if name in told:
                        told.discard(name)
                        self._say(f"{name} ({address}) is back")
                    continue
                silent = time.monotonic() - answered[name]
                if not self._variables and not refuses(address):
                    limit = UNREACHABLE_SECONDS  # The network may come back, and the connections of the step with it.
                if silent > (POLL_SECONDS / 2 if self._hurry() else limit):
                    self._end(PeerLostError(f"{name} ({address}) of the cluster is lost: its port does not answer"))
                    return
                if silent > GONE_SECONDS and name not in told:
                    told.add(name)
                    at_most = "--join_seconds" if self._variables else f"{limit:g} s"
                    self._say(f"{name} ({address}) is gone; waiting for it, {at_most} at most")
            if self._variables and not self._member.cluster.is_chief and self._has_new_chief(self._variables):
                self._end(PeerLostError("worker 0 has started again, and with it the training"))
                return

    def _has_new_chief(self, variables: RendezvousVariables) -> bool:
        try:
            notice = variables.read(self._session)
        except (tf.errors.OpError, RuntimeError):  # The step sees the same, or the session has just been closed.
            return False
        return notice is None or notice["generation"] != self._member.generation

    def _end(self, error: PeerLostError) -> None:
        """Makes the step fail; a process whose step does not is ended."""
        self.error = error
        # It may itself wait for who has gone.
        threading.Thread(target=self._wake, args=(error,), daemon=True, name="wake").start()
        if self._leave.wait(FATAL_SECONDS):
            return
        if self._rescue:
            rescuing = threading.Thread(target=self._rescue, daemon=True, name="rescue")
            rescuing.start()
            rescuing.join(RESCUE_SECONDS)
        if not self._leave.is_set():
            os.write(2, f"error: {error}\n".encode())
            os._exit(PEER_LOST)


def _limits(member: Member, join_seconds: float) -> Mapping[str, tuple[str, float]]:
    """Names the tasks that this worker cannot do without: their addresses, and the silence that means they are lost."""
    cluster = member.cluster
    if not cluster.parameter_servers:
        # A step fails by itself, but for the rare one that TensorFlow leaves waiting for who has gone.
        return {name: (address, GONE_SECONDS) for name, address in member.other_tasks().items()}
    found = {f"ps {index}": (address, GONE_SECONDS) for index, address in cluster.parameter_servers.items()}
    if not cluster.is_chief:
        return found | {"worker 0": (cluster.workers[0], GONE_SECONDS)}
    if member.waits_for_workers:
        others = {index: address for index, address in cluster.workers.items() if index}
        found |= {f"worker {index}": (address, join_seconds) for index, address in others.items()}
    return found


def _end_input(opened: OpenSession, error: PeerLostError) -> None:
    # With the error: the coordinator drops what comes after the first request.
    opened.coord.request_stop((PeerLostError, error, None))
    close_queues(opened.session, opened.stages, opened.wake)


@contextmanager
def peers_watched(
    member: Member | None,
    variables: RendezvousVariables | None,
    opened: OpenSession,
    *,
    state: LoopState,
    join_seconds: float,
    say: Callable[[str], None],
    hurry: Callable[[], bool] = lambda: False,
    rescue: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Turns the end of another task into an error that names it, where the block depends on that task.

    Args:
      member: this worker; None: it is alone.
      variables: on parameter servers, where there are any.
      opened: the session of the steps.
      state: of the steps.
      join_seconds: after which a worker that the chief waits for is given up.
      say: is told who is gone, and who has come back.
      hurry: tells that who does not answer now will not be waited for.
      rescue: saves the finished steps beside one that cannot be made to fail.

    Raises:
      PeerLostError: it has gone.
    """
    if not member:
        yield
        return

    watcher = PeerWatcher(
        member,
        variables,
        opened.session,
        state=state,
        join_seconds=join_seconds,
        say=say,
        wake=functools.partial(_end_input, opened),
        hurry=hurry,
        rescue=rescue,
    )
    with watcher, losses_named(member):
        try:
            yield
        except tf.errors.OpError as error:
            if watcher.error:
                raise watcher.error from error
            raise
