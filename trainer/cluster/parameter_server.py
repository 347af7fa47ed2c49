"""A parameter server: it holds variables until the chief is done with them, or gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from trainer.cluster import server
from trainer.cluster.ps_variables import AGAIN, make_done_reader
from trainer.cluster.spec import Cluster
from trainer.console import Console
from trainer.errors import OK, PEER_LOST, PeerLostError, TrainerError
from trainer.rundir import RunDir
from trainer.settings.config import Config
from trainer.signals import Signals
from trainer.tf1 import tf

POLL_SECONDS = 0.2
LOST_SECONDS = 10.0


def serve(config: Config, console: Console, signals: Signals, cluster: Cluster) -> int:
    """Serves until the work is done; returns the exit code.

    A signal does not end it while the chief is there, which needs the variables to save them.

    Raises:
      PeerLostError: the chief has gone.
      TrainerError: the port cannot be opened, or no chief came.
    """
    rundir = RunDir(config.logdir)
    with contextlib.suppress(OSError):  # Made already, or not there on this host: then there is no log of this task.
        rundir.path.mkdir(parents=True, exist_ok=True)
        console.open_log(rundir.task_log(cluster.job, cluster.task_index))
    signals.grace_seconds = config.grace_seconds
    settings = tf.ConfigProto(
        device_count={"CPU": 1, "GPU": 0}, intra_op_parallelism_threads=max(0, config.intra_op_threads)
    )
    target = server.start_server(cluster, settings, console.say, network_is_isolated=config.network_is_isolated)
    settings.device_filters.append(f"/job:ps/task:{cluster.task_index}")
    console.say(f"{cluster.task} serves until the work is done")
    signals.defer()
    with tf.Graph().as_default():
        is_done = make_done_reader(cluster.task_index)
        with tf.Session(target, config=settings) as session:
            code = _wait(config, signals, cluster, lambda: is_done(session))
    return code


def _wait(config: Config, signals: Signals, cluster: Cluster, is_done: Callable[[], int]) -> int:
    begin = time.monotonic()
    answered: float | None = None
    while not (done := is_done()):
        now = time.monotonic()
        if server.answers(cluster.workers[0]):
            answered = now
        elif signals.stop:
            break
        elif answered is None and now - begin > config.join_seconds:
            raise TrainerError(
                f"worker 0 ({cluster.workers[0]}) did not answer for --join_seconds={config.join_seconds:g}: start it, "
                "or compare the addresses that all tasks were given"
            )
        elif answered is not None and now - answered > LOST_SECONDS:
            raise PeerLostError(f"worker 0 ({cluster.workers[0]}) of the cluster is lost: its port does not answer")
        time.sleep(POLL_SECONDS)
    if signals.stop:
        return 128 + signals.stop
    return PEER_LOST if done == AGAIN else OK
