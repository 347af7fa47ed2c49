"""How a worker joins its cluster: a server, a meeting, the chief's start, equal variables, right means."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from trainer import flags
from trainer.config import Config
from trainer.errors import PeerLostError, UsageError, reason
from trainer.placing import server
from trainer.placing.cluster import Cluster
from trainer.placing.strategies import AllReduce, Workers, check_means
from trainer.saving.checkpoints import Progress
from trainer.tf1 import tf

# Settings that may differ between the tasks of a cluster: of their place, of their speed, or read by the chief alone.
OWN_SETTINGS = (
    "job_name", "task_index", "logdir", "data_dir", "log_device_placement", "network_is_isolated", "join_seconds",
    "grace_seconds", "stall_seconds", "stall_fatal", "queue_readers", "queue_capacity", "intra_op_threads",
    "inter_op_threads", "log_every", "summary_every", "histogram_every", "eval_every", "trace_every",
    "checkpoint_every", "keep_checkpoints", "resume", "warm_start", "warm_start_exclude", "warm_start_rename",
    "ignore_missing",
)  # fmt: skip
FAREWELL_SECONDS = 2.0  # for the others to come to the end too
LINGER_SECONDS = 0.2  # for the last answer to leave this process
PEER = re.compile(r"remote target /job:(\w+)/replica:\d+/task:(\d+)")


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


def join(
    cluster: Cluster, config: Config, settings: tf.ConfigProto, say: Callable[[str], None], check: Callable[[], None]
) -> Member:
    """Starts this worker's server and waits until the others have theirs; without the chief, only for it and servers.

    Args:
      cluster: with this process.
      config: of the run.
      settings: of a session.
      say: is told who is missing, and what is open.
      check: raises where a signal asks to stop.

    Raises:
      TrainerError: the port is in use, or a worker did not come.
    """
    if config.precision == "bfloat16":
        # On a server, TensorFlow makes convolutions of bfloat16 into fused ones for which a CPU has no kernel.
        rewriting = settings.graph_options.rewrite_options
        rewriting.remapping = rewriting.OFF
    target = server.start_server(cluster, settings, say, network_is_isolated=config.network_is_isolated)
    servers = {f"ps {index}": address for index, address in cluster.parameter_servers.items()}
    # With parameter servers, workers come and go.
    needed = {0: cluster.workers[0]} if servers and not cluster.is_chief else cluster.workers
    others = servers | {f"worker {index}": where for index, where in needed.items() if index != cluster.task_index}
    server.wait_for_tasks(others, seconds=config.join_seconds, say=say, check=check)
    workers = Workers(cluster.task_index, cluster.num_workers)
    waits = config.strategy == "ps_sync"
    return Member(cluster, workers, target, server.make_worker_config(settings, cluster), waits_for_workers=waits)


def shared_settings(config: Config) -> dict[str, str]:
    """Lists the settings that all workers must have in common, as texts."""
    names = [field.name for field in dataclasses.fields(Config) if field.name not in OWN_SETTINGS]
    return {name: flags.flag_text(getattr(config, name)) for name in names}


def agree_on_start(member: Member, config: Config, data: str, start: Progress | None) -> Progress:
    """Gives all workers the chief's start; a worker must have the chief's settings and data.

    Args:
      member: this worker.
      config: of the run.
      data: all that the batches depend on.
      start: of the chief; None on all others.

    Raises:
      UsageError: settings or data differ from the chief's.
      PeerLostError: a worker did not come, or went.
    """
    shared = shared_settings(config)
    digests = [_digest(text) for text in shared.values()]
    progress = [start.step, start.position, start.skipped] if start else [0, 0, 0]
    values = [*progress, _digest(data), *digests]
    try:
        rows = server.exchange(member.target, member.settings, member.workers, values, config.join_seconds)
    except tf.errors.InvalidArgumentError as error:
        raise UsageError("the workers are of different versions of the trainer: install the same everywhere") from error
    except tf.errors.OpError as error:
        raise lost(error, member) from error
    chief = rows[0]
    for index, row in enumerate(rows):
        pairs = zip(["the data", *(f"--{name}" for name in shared)], row[3:], chief[3:], strict=True)
        differing = [name for name, mine, other in pairs if mine != other]
        if differing:
            raise UsageError(f"worker {index} differs from worker 0 in {', '.join(differing)}: all need the same")
    return start or Progress("", int(chief[0]), int(chief[1]), int(chief[2]))


def _digest(text: str) -> int:
    """Makes 63 bits of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def build_settle(member: Member, all_reduce: AllReduce) -> Callable[[tf.Session], None]:
    """Builds what makes this worker's variables those of the chief, and checks the means of gradients.

    What it returns takes a session whose variables are set, on the chief to what the run begins with. It raises a
    TrainerError where means are wrong, and a PeerLostError where a worker has gone.
    """
    with tf.device("/cpu:0"), tf.name_scope("settle"):
        broadcast = all_reduce.build_broadcast(tf.global_variables())
        difference = all_reduce.build_check([variable.shape for variable in tf.trainable_variables()])

    def settle(session: tf.Session) -> None:
        try:
            # Together: a chief whose broadcast nobody receives any more waits for ever, but a mean fails.
            _, difference_v = session.run([broadcast, difference])
        except tf.errors.OpError as error:
            if is_loss(error):
                raise lost(error, member) from error
            raise
        check_means(float(difference_v))

    return settle


def part(session: tf.Session, farewell: tf.Tensor | None) -> None:
    """Lets no worker end while another is still receiving from it."""
    if farewell is None:
        return
    options = tf.RunOptions(timeout_in_ms=int(FAREWELL_SECONDS * 1000))
    # The training is over: a worker that has ended already is missed by nobody.
    with contextlib.suppress(tf.errors.OpError):
        session.run(farewell, options=options)
    time.sleep(LINGER_SECONDS)


def is_loss(error: BaseException) -> bool:
    """Has an operation failed because of another task? What ended that one may be of any kind."""
    gone = isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError)
    return gone or (isinstance(error, tf.errors.OpError) and "Collective ops is aborted" in str(error))


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
    found = PEER.search(str(error))
    who = "another task"
    if found:
        addresses = member.cluster.workers if found[1] == "worker" else member.cluster.parameter_servers
        who = f"{found[1]} {found[2]} ({addresses.get(int(found[2]), 'unknown')})"
    lines = [line for line in str(error).splitlines() if not line.startswith(("From /job", "==="))]
    return PeerLostError(f"{who} of the cluster is lost: {reason(RuntimeError(chr(10).join(lines)))}")
