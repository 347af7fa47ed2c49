"""This process as a worker of a cluster, and what it says of another task that has gone."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trainer.cluster.spec import Cluster
from trainer.errors import PeerLostError, reason
from trainer.placing.strategy import Workers
from trainer.settings.config import Config
from trainer.settings.fields import TASK, flag_text
from trainer.tf1 import tf

PEER = re.compile(r"remote target /job:(\w+)/replica:\d+/task:(\d+)")
# TensorFlow ends the collective operations of all workers with the error of the first, of whatever kind that was.
ABORTED = "Collective ops is aborted"


class Member(NamedTuple):
    """This process as a worker of a cluster."""

    cluster: Cluster
    workers: Workers
    target: str  # of its server
    settings: tf.ConfigProto  # of its sessions
    generation: int = 0  # of the chief's start, where there are parameter servers
    notice: Mapping[str, Any] = {}  # what the chief publishes there
    waits_for_workers: bool = False  # does a step of the chief need all others'

    @property
    def device(self) -> str | None:
        """Names the device of what has no other one, where there are devices of other tasks too."""
        own = f"/job:worker/task:{self.cluster.task_index}/device:CPU:0"
        return own if self.cluster.parameter_servers else None

    def other_tasks(self) -> dict[str, str]:
        """Returns the addresses of all other tasks, by their names."""
        return {task: address for task, address in self.cluster.addresses().items() if task != self.cluster.task}


def is_loss(error: BaseException) -> bool:
    """Has an operation failed because of another task?"""
    gone = isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError)
    return gone or (isinstance(error, tf.errors.OpError) and ABORTED in error.message)


@contextlib.contextmanager
def losses_named(member: Member | None) -> Iterator[None]:
    """Says which task has gone, where an operation of the block fails because of it."""
    try:
        yield
    except tf.errors.OpError as error:
        if member and is_loss(error):
            raise lost(error, member) from error
        raise


def lost(error: Exception, member: Member) -> PeerLostError:
    """Says which task has gone, from the error of an operation that needed it."""
    found = PEER.search(str(error))  # TensorFlow names it nowhere else.
    who = "another task"
    if found:
        name = f"{found[1]} {found[2]}"
        who = f"{name} ({member.cluster.addresses().get(name, 'unknown')})"
    lines = [line for line in str(error).splitlines() if not line.startswith(("From /job", "==="))]
    return PeerLostError(f"{who} of the cluster is lost: {reason(RuntimeError(chr(10).join(lines)))}")


def shared_settings(config: Config) -> dict[str, str]:
    """Lists the settings that all workers must have in common, as texts."""
    fields = [field for field in dataclasses.fields(Config) if field.metadata["scope"] != TASK]
    return {field.name: flag_text(getattr(config, field.name)) for field in fields}
