"""Which task of which cluster this process is: by flags, by TF_CONFIG in all its dialects, or by Slurm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.errors import UsageError, unknown_name

CHIEFS = ("chief", "master")  # of TF_CONFIG; here they are worker 0
TASK_TYPES = (*CHIEFS, "worker", "ps", "evaluator")
MAX_TASKS = 10_000
RANGES = r"\[[0-9]{1,18}(?:-[0-9]{1,18})?(?:,[0-9]{1,18}(?:-[0-9]{1,18})?)*\]"
NODES = rf"(?:[\w.-]|{RANGES})+"  # as n[1-2,10]
SLURM_FIRST_PORT, SLURM_PORTS = 20_000, 10_000  # below the ports that Linux gives to clients
JOB_PORTS = 100  # from one job's first port to that of the next
NEXT_STEP = 37  # a step of a job has the ports of so many jobs later


class Cluster(NamedTuple):
    """All tasks of a job, and which of them this process is. The chief is worker 0."""

    job: str  # "worker", "ps" or "evaluator"
    task_index: int
    workers: dict[int, str]  # "host:port" of each worker; some may be unknown where a TF_CONFIG is sparse
    parameter_servers: dict[int, str]  # the same
    source: str  # what said so, for messages

    @property
    def task(self) -> str:
        return f"{self.job} {self.task_index}"

    @property
    def is_chief(self) -> bool:
        return self.job == "worker" and self.task_index == 0

    @property
    def num_workers(self) -> int:
        return len(self.workers)

    def addresses(self) -> dict[str, str]:
        """Returns "host:port" of every worker and parameter server that is known, by the names of these tasks."""
        jobs = {"worker": self.workers, "ps": self.parameter_servers}
        return {f"{job} {index}": address for job, tasks in jobs.items() for index, address in tasks.items()}

    @property
    def is_sparse(self) -> bool:
        return sorted(self.workers) != list(range(len(self.workers)))


def find_cluster(
    *,
    job_name: str,
    task_index: int,
    worker_hosts: Sequence[str],
    ps_hosts: Sequence[str],
    environment: Mapping[str, str],
) -> Cluster | None:
    """Finds this process's place; None where it is alone.

    Args:
      job_name: "worker", "chief", "ps" or "evaluator"; "" where no flag says so.
      task_index: of this process in that job.
      worker_hosts: "host:port" of each worker.
      ps_hosts: of each parameter server.
      environment: as `os.environ`.

    Raises:
      UsageError: what is there is contradictory or illegal; the message names the field.
    """
    if job_name or worker_hosts or ps_hosts:
        return _from_flags(job_name, task_index, worker_hosts, ps_hosts)
    if task_index:
        raise UsageError(f"--task_index={task_index} is of a cluster: give --job_name and --worker_hosts too")
    if text := environment.get("TF_CONFIG", "").strip():
        return parse_tf_config(text)
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if "SLURM_PROCID" in environment and tasks and _number("SLURM_STEP_NUM_TASKS", tasks) > 1:
        return parse_slurm(environment)
    return None


def _from_flags(job_name: str, task_index: int, worker_hosts: Sequence[str], ps_hosts: Sequence[str]) -> Cluster:
    if not worker_hosts:
        raise UsageError("--worker_hosts is missing: give host:port of every worker, as --worker_hosts=a:2222,b:2222")
    if job_name not in TASK_TYPES:
        raise unknown_name("job_name", job_name, TASK_TYPES)
    workers = _addresses("--worker_hosts", list(worker_hosts))
    servers = _addresses("--ps_hosts", list(ps_hosts))
    _check_chief("--job_name and --task_index", job_name, task_index)
    job = "worker" if job_name in CHIEFS else job_name
    return _checked(Cluster(job, task_index, workers, servers, "the flags"), "--job_name and --task_index")


def parse_tf_config(text: str) -> Cluster | None:
    """Parses the value of TF_CONFIG as Kubeflow, Ray, SageMaker, Vertex AI or Estimator's users write it.

    Raises:
      UsageError: it is none of these; the message names the field.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"TF_CONFIG is no JSON: {error}; it is {text[:80]!r}") from error
    if isinstance(values, dict) and "sparseCluster" in values:
        raise UsageError(
            "TF_CONFIG.sparseCluster is of elastic jobs of Kubeflow, whose tasks do not know each other: leave out "
            "enableDynamicWorker, so that the operator writes `cluster`"
        )
    jobs = _get(values, "TF_CONFIG", "cluster", dict, {})
    if not jobs:
        _check_alone(values)
        return None
    task = _get(values, "TF_CONFIG", "task", dict, None)
    kind = _get(task, "TF_CONFIG.task", "type", str, None)
    if kind not in TASK_TYPES:
        raise unknown_name("TF_CONFIG.task.type", kind, TASK_TYPES)
    index = _whole("TF_CONFIG.task.index", task.get("index", 0))
    unknown = sorted(set(jobs) - set(TASK_TYPES))
    if unknown:
        raise unknown_name("TF_CONFIG.cluster", unknown[0], TASK_TYPES)
    found = {name: _addresses(f"TF_CONFIG.cluster.{name}", tasks) for name, tasks in jobs.items()}
    chiefs = [address for name in CHIEFS for address in found.get(name, {}).values()]
    if len(chiefs) > 1:
        raise UsageError(f"TF_CONFIG.cluster has {len(chiefs)} chiefs, wanted one: {', '.join(chiefs)}")
    _check_chief("TF_CONFIG.task", kind, index)
    workers = {
        **dict(enumerate(chiefs)),
        **{number + len(chiefs): address for number, address in found.get("worker", {}).items()},
    }
    if kind in CHIEFS:
        job = "worker"
    else:
        job, index = kind, index + (len(chiefs) if kind == "worker" else 0)
    cluster = _checked(Cluster(job, index, workers, found.get("ps", {}), "TF_CONFIG"), "TF_CONFIG.task")
    alone = cluster.job == "worker" and len(workers) == 1 and not cluster.parameter_servers
    return None if alone else cluster


def _check_alone(values: Any) -> None:
    """Refuses a task that says its place in a cluster which is not there: each would train alone.

    Raises:
      UsageError: it does.
    """
    task = _get(values, "TF_CONFIG", "task", dict, {})
    kind, index = task.get("type", "worker"), _whole("TF_CONFIG.task.index", task.get("index", 0))
    if kind not in (*CHIEFS, "worker") or index:
        raise UsageError(
            f"TF_CONFIG.task is {kind} {index}, and TF_CONFIG.cluster is missing: give every task the addresses of all"
        )


def _check_chief(field: str, job: str, index: int) -> None:
    if job in CHIEFS and index:
        raise UsageError(f"{field}: {job} {index} is not in the cluster, which has one {job}, {job} 0")


def _get(values: Any, where: str, key: str, kind: type, default: Any) -> Any:
    if not isinstance(values, dict):
        raise UsageError(f"{where}={values!r} is no JSON object")
    value = values.get(key, default)
    if not isinstance(value, kind):
        wanted = "a JSON object" if kind is dict else "a text"
        raise UsageError(f"{where}.{key} is {'missing' if value is None else repr(value)}: wanted {wanted}")
    return value


def _whole(field: str, value: Any) -> int:
    """Reads an index, which some write as a text."""
    if not isinstance(value, bool) and isinstance(value, int | str) and re.fullmatch(r"[0-9]{1,4}", str(value)):
        return int(value)
    raise UsageError(f"{field}={value!r} is no index: wanted a whole number from 0 to {MAX_TASKS - 1:,}")


def _addresses(field: str, tasks: Any) -> dict[int, str]:
    """Reads the addresses of a job: a list, or an object whose keys are indices, of which some may be missing."""
    if isinstance(tasks, str):
        tasks = [tasks]
    if isinstance(tasks, list):
        tasks = dict(enumerate(tasks))
    if not isinstance(tasks, dict):
        raise UsageError(f"{field}={tasks!r} is no list of addresses")
    found = {_whole(field, index): address for index, address in tasks.items()}
    if len(found) < len(tasks):
        raise UsageError(f"{field} names a task twice: {', '.join(map(str, tasks))}")
    for index, address in found.items():
        _check_address(f"{field}[{index}]", address)
    return dict(sorted(found.items()))


def _check_address(field: str, address: Any) -> None:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5})", address) if isinstance(address, str) else None
    if not match or not 0 < int(match[2]) < 65536:
        raise UsageError(f"{field}={address!r} is no address: wanted host:port, as 10.0.0.1:2222")


def _checked(cluster: Cluster, field: str) -> Cluster:
    """Checks that this process is a task of its cluster, and that no two tasks have one address."""
    tasks = {"worker": cluster.workers, "ps": cluster.parameter_servers}.get(cluster.job)
    if tasks is not None and cluster.task_index not in tasks:
        count = f"{len(tasks)} task{'s' if len(tasks) != 1 else ''} of that job"
        raise UsageError(f"{field}: {cluster.task} is not in the cluster, which has {count}")
    if not cluster.workers:
        raise UsageError(f"{cluster.source}: the cluster has no worker")
    addresses = [*cluster.workers.values(), *cluster.parameter_servers.values()]
    for address in addresses:
        if addresses.count(address) > 1:
            raise UsageError(f"{cluster.source}: two tasks have the address {address}; each needs a port of its own")
    return cluster


def parse_slurm(environment: Mapping[str, str]) -> Cluster:
    """Makes every task of a Slurm step a worker, in the order of its number; the ports follow from the job's number.

    `tf.distribute.cluster_resolver.SlurmClusterResolver` sorts n10 before n2 and fails without GPUs.

    Raises:
      UsageError: a variable is missing or illegal.
    """

    def get(name: str) -> str:
        if not environment.get(name):
            raise UsageError(f"{name} is not set: start the tasks with srun, or give --worker_hosts and --task_index")
        return environment[name]

    nodes = expand_nodes(get("SLURM_STEP_NODELIST"))
    counts = expand_counts(get("SLURM_STEP_TASKS_PER_NODE"))
    if len(nodes) != len(counts):
        raise UsageError(f"SLURM_STEP_TASKS_PER_NODE is of {len(counts)} nodes, SLURM_STEP_NODELIST of {len(nodes)}")
    if sum(counts) != _number("SLURM_STEP_NUM_TASKS", get("SLURM_STEP_NUM_TASKS")):
        raise UsageError(f"SLURM_STEP_TASKS_PER_NODE is of {sum(counts)} tasks, SLURM_STEP_NUM_TASKS is another number")
    job = _number("SLURM_JOB_ID", get("SLURM_JOB_ID"))
    step = _number("SLURM_STEP_ID", environment.get("SLURM_STEP_ID") or "0")
    # Jobs may share a node, nodes a host, and steps of one job both.
    base = SLURM_FIRST_PORT + (job + step * NEXT_STEP) * JOB_PORTS % SLURM_PORTS
    places = [node for node, count in zip(nodes, counts, strict=True) for _ in range(count)]
    workers = {number: f"{node}:{base + number}" for number, node in enumerate(places)}
    index = _number("SLURM_PROCID", get("SLURM_PROCID"))
    return _checked(Cluster("worker", index, workers, {}, "Slurm"), "SLURM_PROCID")


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{name}={text!r} is no whole number")
    return int(text)


def expand_nodes(text: str) -> list[str]:
    """Expands Slurm's lists of nodes: `n[1-2,10],m` is n1, n2, n10, m, in that order.

    Raises:
      UsageError: it is no such list.
    """
    error = UsageError(f"SLURM_STEP_NODELIST={text[:80]!r} is no list of nodes")
    if not re.fullmatch(f"{NODES}(,{NODES})*", text):
        raise error
    nodes: list[str] = []
    for part in re.findall(NODES, text):
        for name in _expand_part(part):
            nodes.append(name)
            if len(nodes) > MAX_TASKS:
                raise error
    return nodes


def _expand_part(part: str) -> Iterator[str]:
    match = re.fullmatch(r"([^\[\]]*)\[([0-9,-]+)\](.*)", part)
    if not match:
        yield part
        return
    for piece in match[2].split(","):
        first, _, last = piece.partition("-")
        # Zeros in front are a part of the name.
        for number in range(int(first), int(last or first) + 1):
            for rest in _expand_part(match[3]):
                yield f"{match[1]}{number:0{len(first)}d}{rest}"


def expand_counts(text: str) -> list[int]:
    """Expands Slurm's counts: `2(x3),1` is 2, 2, 2, 1.

    Raises:
      UsageError: it is no such list.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:\(x([0-9]{1,4})\))?", part)
        if not match:
            raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={text[:80]!r} is no list of counts")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
