"""This process's server in its cluster, and the rendezvous of all workers before they train."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import psutil

from trainer.cluster.spec import Cluster
from trainer.errors import TrainerError, UsageError
from trainer.placing.all_reduce import gather
from trainer.placing.strategy import Workers
from trainer.tf1 import tf

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LEADER = "/job:worker/replica:0/task:0"
POLL_SECONDS, TELL_SECONDS = 0.1, 10.0
# The preface of a client and an empty SETTINGS frame (RFC 9113, 3.4 and 6.5), which a server answers by its own.
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def start_server(
    cluster: Cluster, settings: tf.ConfigProto, say: Callable[[str], None], *, network_is_isolated: bool
) -> str:
    """Starts this process's server, which never ends before the process; returns its target for sessions.

    Args:
      cluster: with the address of this process.
      settings: of the sessions that will use it.
      say: is told what is open to whom.
      network_is_isolated: may this machine have public addresses.

    Raises:
      TrainerError: the port cannot be opened.
      UsageError: it would be open on a public address.
    """
    jobs = {"worker": cluster.workers, "ps": cluster.parameter_servers}
    address = jobs[cluster.job][cluster.task_index]
    spec = tf.train.ClusterSpec({job: tasks for job, tasks in jobs.items() if tasks})
    port = address.rpartition(":")[2]
    open_addresses = [address for address in own_addresses() if not address.is_loopback]
    public = [address for address in open_addresses if address.is_global]
    if public and not network_is_isolated:
        raise UsageError(
            f"{cluster.task} would listen on the public address {public[0]}, and whoever reaches its port {port} can "
            "run code as this user: close that port to all but the cluster's hosts, then add --network_is_isolated"
        )
    _check_port(address, cluster)
    try:
        server = tf.train.Server(spec, cluster.job, cluster.task_index, config=_with_leader(settings))
    except tf.errors.OpError as error:
        raise TrainerError(f"{cluster.task} cannot open its port, {address}: {error.message}") from error
    _servers.append(server)
    if open_addresses:
        listed = ", ".join(str(address) for address in open_addresses)
        say(
            f"{cluster.task} listens on port {port} of every interface ({listed}), without authentication: "
            "whoever reaches it can run code as this user"
        )
    return str(server.target)


_servers: list[tf.train.Server] = []  # A server ends with the last reference to it.


def _check_port(address: str, cluster: Cluster) -> None:
    """Looks whether the port is free, because TensorFlow does not say why it could not start.

    Raises:
      TrainerError: it is not.
    """
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise TrainerError(
                f"{cluster.task} cannot open its port, {address}: {error.strerror}; end what uses it, or give this "
                "task another one"
            ) from error


def own_addresses() -> list[Address]:
    """Lists this machine's addresses on all interfaces."""
    found = [address for each in psutil.net_if_addrs().values() for address in each]
    texts = [each.address.partition("%")[0] for each in found if each.family in (socket.AF_INET, socket.AF_INET6)]
    return [ipaddress.ip_address(text) for text in texts]


def wait_for_tasks(
    addresses: dict[str, str], *, seconds: float, say: Callable[[str], None], check: Callable[[], None]
) -> None:
    """Waits until every task's port answers.

    Args:
      addresses: "host:port" by the name of the task.
      seconds: to wait for, at most.
      say: is told every ten seconds who is missing.
      check: raises where a signal asks to stop.

    Raises:
      TrainerError: some do not answer in time; the message names them.
    """
    begin = told = time.monotonic()
    missing = dict(addresses)
    while True:
        missing = {task: address for task, address in missing.items() if not answers(address)}
        if not missing:
            return
        check()
        names = ", ".join(f"{task} ({address})" for task, address in missing.items())
        if time.monotonic() - begin > seconds:
            raise TrainerError(
                f"{names} did not answer for --join_seconds={seconds:g}: start the missing tasks, or compare the "
                "addresses that all tasks were given"
            )
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            say(f"waiting for {names}")
        time.sleep(POLL_SECONDS)


def answers(address: str) -> bool:
    """Does anybody listen at "host:port"?"""
    try:
        with _connect(address):
            return True
    except OSError:
        return False


def refuses(address: str) -> bool:
    """Does the machine of "host:port" say that nobody listens there?"""
    try:
        with _connect(address):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def responds(address: str, seconds: float = 2.0) -> bool:
    """Does a gRPC server at "host:port" say a word? That of a stopped process does not, though its port is open."""
    try:
        with _connect(address) as connection:
            connection.settimeout(seconds)
            connection.sendall(HTTP2_GREETING)
            return bool(connection.recv(1))
    except OSError:
        return False


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=1.0)


def describe_silent(addresses: Mapping[str, str]) -> list[str]:
    """Says which tasks, by their names, do not respond: a line each."""
    lines = []
    for task, address in addresses.items():
        if not answers(address):
            lines.append(f"{task} ({address}) is gone: its port does not answer")
        elif not responds(address):
            lines.append(f"{task} ({address}) does not respond: its process is stopped, or its machine hangs")
    return lines


def gather_values(
    target: str, settings: tf.ConfigProto, workers: Workers, values: Sequence[int], seconds: float
) -> np.ndarray:
    """Gives every worker the numbers of all of them: int64 [workers, n].

    Args:
      target: of this process's server.
      settings: of a session.
      workers: of the cluster.
      values: this worker's; as many on each.
      seconds: to wait for the others, at most.

    Raises:
      tf.errors.OpError: they did not come, or sent another number of values.
    """
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        gathered = gather(tf.constant(list(values), tf.int64), workers, "rendezvous")
        options = tf.RunOptions(timeout_in_ms=int(seconds * 1000))
        with tf.Session(target, config=settings) as session:
            return np.asarray(session.run(gathered, options=options))


def make_worker_config(settings: tf.ConfigProto, cluster: Cluster) -> tf.ConfigProto:
    """Makes the settings of a session that waits for no other worker."""
    made = _with_leader(settings)
    made.device_filters.append(f"/job:{cluster.job}/task:{cluster.task_index}")
    if cluster.parameter_servers:
        made.device_filters.append("/job:ps")
    return made


def _with_leader(settings: tf.ConfigProto) -> tf.ConfigProto:
    made = tf.ConfigProto()
    made.CopyFrom(settings)
    # On the server and on its sessions: without both, the first collective operation waits for ever, silently.
    made.experimental.collective_group_leader = LEADER
    made.experimental.recv_buf_max_chunk = 1 << 20
    # A server has threads of its own for the operations of a step, at least one.
    made.inter_op_parallelism_threads = max(0, made.inter_op_parallelism_threads)
    return made
