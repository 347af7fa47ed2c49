"""How the workers of a cluster find each other: servers, the chief's start, equal variables, right means."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping

from trainer.cluster import server
from trainer.cluster.member import Member, losses_named, lost, shared_settings
from trainer.cluster.spec import Cluster
from trainer.errors import TrainerError, UsageError
from trainer.placing.all_reduce import AllReduce, gather
from trainer.placing.means_check import check_means
from trainer.placing.strategy import MeansCheck, Workers
from trainer.saving.progress import Progress
from trainer.settings.config import Config
from trainer.tf1 import tf

BARRIER_SECONDS = 2.0  # for the others to come to the end too
LINGER_SECONDS = 0.2  # for the last answer to leave this process


def connect(
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


def agree_on_start(member: Member, config: Config, what: Mapping[str, str], start: Progress | None) -> Progress:
    """Gives all workers the chief's start; a worker must have the chief's settings, data and code.

    Args:
      member: this worker.
      config: of the run.
      what: must be the same beside the settings, by the names that a message gives them.
      start: of the chief; None on all others.

    Raises:
      UsageError: something differs from the chief's.
      PeerLostError: a worker did not come, or went.
    """
    shared = {**what, **{f"--{name}": text for name, text in shared_settings(config).items()}}
    digests = [_digest(text) for text in shared.values()]
    progress = (start or Progress("", 0, 0)).counts()
    values = [*progress, *digests]
    try:
        rows = server.gather_values(member.target, member.settings, member.workers, values, config.join_seconds)
    except tf.errors.InvalidArgumentError as error:
        raise UsageError("the workers are of different versions of the trainer: install the same everywhere") from error
    except tf.errors.OpError as error:
        raise lost(error, member) from error
    chief = rows[0]
    for index, row in enumerate(rows):
        pairs = zip(shared, row[len(progress) :], chief[len(progress) :], strict=True)
        differing = [name for name, mine, other in pairs if mine != other]
        if differing:
            raise UsageError(f"worker {index} differs from worker 0 in {', '.join(differing)}: all need the same")
    return start or Progress("", *(int(value) for value in chief[: len(progress)]))


def _digest(text: str) -> int:
    """Makes 63 bits of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def build_verify(member: Member, all_reduce: AllReduce) -> Callable[[tf.Session], None]:
    """Builds what makes this worker's variables those of the chief, and checks the means of gradients.

    What it returns takes a session whose variables are set, on the chief to what the run begins with. It raises a
    TrainerError where the workers' graphs differ or means are wrong, and a PeerLostError where a worker has gone.
    """
    with tf.device("/cpu:0"), tf.name_scope("verify"):
        broadcast = all_reduce.build_broadcast(tf.global_variables())
        check = all_reduce.build_means_check([variable.shape for variable in tf.trainable_variables()], [])
        assert isinstance(check, MeansCheck)
        # Before the first operation of the graph: one that another worker has not would be waited for without end.
        digests = gather(tf.constant([all_reduce.keys.digest()], tf.int64), member.workers, "digest of the keys")

    def verify(session: tf.Session) -> None:
        with losses_named(member):
            digests_v = session.run(digests)
        others = [index for index, row in enumerate(digests_v) if row[0] != digests_v[0][0]]
        if others:
            raise TrainerError(
                f"worker {others[0]} has built another graph than worker 0: install the same trainer everywhere"
            )
        with losses_named(member):
            # Together: a chief whose broadcast nobody receives any more waits for ever, but a mean fails.
            _, difference_v = session.run([broadcast, check.run])
        check_means(float(difference_v))

    return verify


def wait_at_barrier(session: tf.Session, barrier: tf.Tensor | None) -> None:
    """Lets no worker end while another is still receiving from it."""
    if barrier is None:
        return
    options = tf.RunOptions(timeout_in_ms=int(BARRIER_SECONDS * 1000))
    # The training is over: a worker that has ended already is missed by nobody.
    with contextlib.suppress(tf.errors.OpError):
        session.run(barrier, options=options)
    time.sleep(LINGER_SECONDS)
