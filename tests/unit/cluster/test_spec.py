"""The place of a process in its cluster, in all dialects."""

import json
import re

import pytest

from trainer.cluster.spec import Cluster, expand_counts, expand_nodes, find_cluster, parse_tf_config
from trainer.errors import UsageError

NO_FLAGS = {"job_name": "", "task_index": 0, "worker_hosts": (), "ps_hosts": ()}


def find(environment=None, **flags):
    return find_cluster(**{**NO_FLAGS, **flags}, environment=environment or {})


def from_tf_config(value):
    return find({"TF_CONFIG": value if isinstance(value, str) else json.dumps(value)})


def test_a_process_without_any_of_it_is_alone():
    assert find() is None
    assert find({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    assert find({"TF_CONFIG": " "}) is None


def test_flags():
    found = find(job_name="worker", task_index=1, worker_hosts=("a:1", "b:2"), ps_hosts=("c:3",))
    assert found == Cluster("worker", 1, {0: "a:1", 1: "b:2"}, {0: "c:3"}, "the flags")
    assert not found.is_chief and not found.is_sparse and found.num_workers == 2 and found.task == "worker 1"


def test_flags_win_over_the_environment():
    tf_config = json.dumps({"cluster": {"worker": ["x:1", "y:1"]}, "task": {"type": "worker", "index": 0}})
    found = find({"TF_CONFIG": tf_config}, job_name="chief", worker_hosts=("a:1", "b:2"))
    assert found == Cluster("worker", 0, {0: "a:1", 1: "b:2"}, {}, "the flags") and found.is_chief


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(
            {
                "cluster": {"chief": ["c:1"], "evaluator": ["e:1"], "ps": ["p:1", "q:1"], "worker": ["w:1", "v:1"]},
                "task": {"type": "worker", "index": 1},
                "environment": "cloud",
            },
            Cluster("worker", 2, {0: "c:1", 1: "w:1", 2: "v:1"}, {0: "p:1", 1: "q:1"}, "TF_CONFIG"),
            id="Kubeflow",
        ),
        pytest.param(
            {"cluster": {"worker": {"1": "w:2222"}, "ps": ["p:2222"]}, "task": {"type": "worker", "index": 1}},
            Cluster("worker", 1, {1: "w:2222"}, {0: "p:2222"}, "TF_CONFIG"),
            id="Kubeflow, sparse",
        ),
        pytest.param(
            {"cluster": {"worker": ["10.0.0.1:5", "10.0.0.2:6"]}, "task": {"type": "worker", "index": 0}},
            Cluster("worker", 0, {0: "10.0.0.1:5", 1: "10.0.0.2:6"}, {}, "TF_CONFIG"),
            id="Ray",
        ),
        pytest.param(
            {
                "cluster": {"master": ["algo-1:2222"], "worker": ["algo-2:2222"], "ps": ["algo-1:2223"]},
                "task": {"type": "master", "index": 0},
                "environment": "cloud",
            },
            Cluster("worker", 0, {0: "algo-1:2222", 1: "algo-2:2222"}, {0: "algo-1:2223"}, "TF_CONFIG"),
            id="SageMaker",
        ),
        pytest.param(
            {
                "cluster": {"chief": ["cmle-training-chief-0:2222"], "ps": ["cmle-training-ps-0:2222"]},
                "task": {"type": "ps", "index": "0", "trial": "1", "cloud": "abc"},
                "environment": "cloud",
                "job": '{"scale_tier": "CUSTOM"}',
            },
            Cluster("ps", 0, {0: "cmle-training-chief-0:2222"}, {0: "cmle-training-ps-0:2222"}, "TF_CONFIG"),
            id="Vertex",
        ),
        pytest.param(
            {"cluster": {"chief": ["c:1"], "worker": ["w:1"]}, "task": {"type": "evaluator", "index": 0}},
            Cluster("evaluator", 0, {0: "c:1", 1: "w:1"}, {}, "TF_CONFIG"),
            id="evaluator outside of the cluster",
        ),
    ],
)
def test_dialects_of_tf_config(value, expected):
    assert from_tf_config(value) == expected


@pytest.mark.parametrize(
    "value", ["{}", {"cluster": {}}, {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}]
)
def test_a_tf_config_of_one_task_is_none(value):
    assert from_tf_config(value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"task": {"type": "worker", "index": 1}}, "TF_CONFIG.task is worker 1, and TF_CONFIG.cluster is missing"),
        ({"cluster": {}, "task": {"type": "ps", "index": 0}}, "TF_CONFIG.task is ps 0, and TF_CONFIG.cluster"),
        ({"sparseCluster": {"worker": {"0": "a:1"}}, "task": {"type": "worker"}}, "TF_CONFIG.sparseCluster"),
    ],
)  # fmt: skip
def test_a_task_does_not_train_alone_because_its_cluster_is_not_known(value, message):
    with pytest.raises(UsageError, match=message):
        parse_tf_config(json.dumps(value))


def test_a_sparse_cluster_knows_it():
    value = {"cluster": {"worker": {"1": "w:2"}, "ps": ["p:2"]}, "task": {"type": "worker", "index": 1}}
    assert from_tf_config(value).is_sparse


WORKERS = {"cluster": {"worker": ["a:1", "b:1"]}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "TF_CONFIG is no JSON"),
        ("[]", "TF_CONFIG=[] is no JSON object"),
        ({"cluster": []}, "TF_CONFIG.cluster is []: wanted a JSON object"),
        (WORKERS, "TF_CONFIG.task is missing"),
        ({**WORKERS, "task": {}}, "TF_CONFIG.task.type is missing: wanted a text"),
        ({**WORKERS, "task": {"type": "wroker"}}, "TF_CONFIG.task.type=wroker is unknown"),
        ({**WORKERS, "task": {"type": "worker", "index": -1}}, "TF_CONFIG.task.index=-1 is no index"),
        ({**WORKERS, "task": {"type": "worker", "index": True}}, "TF_CONFIG.task.index=True is no index"),
        ({**WORKERS, "task": {"type": "worker", "index": 2}}, "TF_CONFIG.task: worker 2 is not in the cluster"),
        ({**WORKERS, "task": {"type": "ps", "index": 0}}, "ps 0 is not in the cluster, which has 0 tasks"),
        (
            {"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker"}},
            "TF_CONFIG.cluster.worker[1]='b' is no address",
        ),
        ({"cluster": {"worker": ["a:1", "b:70000"]}, "task": {"type": "worker"}}, "'b:70000' is no address"),
        ({"cluster": {"worker": ["a:1", 3]}, "task": {"type": "worker"}}, "worker[1]=3 is no address"),
        ({"cluster": {"worker": 3}, "task": {"type": "worker"}}, "TF_CONFIG.cluster.worker=3 is no list"),
        ({"cluster": {"worker": {"x": "a:1"}}, "task": {"type": "worker"}}, "TF_CONFIG.cluster.worker='x' is no index"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker"}}, "two tasks have the address a:1"),
        ({"cluster": {"workers": ["a:1"]}, "task": {"type": "worker"}}, "did you mean worker?"),
        ({"cluster": {"ps": ["a:1"]}, "task": {"type": "ps"}}, "the cluster has no worker"),
        ({"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief"}}, "TF_CONFIG.cluster has 2 chiefs"),
        ({"cluster": {"chief": ["a:1"], "master": ["b:1"]}, "task": {"type": "chief"}}, "has 2 chiefs"),
        (
            {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 1}},
            "chief 1 is not in",
        ),
        ({"cluster": {"worker": {"0": "a:1", "00": "b:1"}}, "task": {"type": "worker"}}, "names a task twice: 0, 00"),
        ({"cluster": {"worker": ["a:1", "b:\u0663"]}, "task": {"type": "worker"}}, "is no address"),
        ("[" * 100_000, "TF_CONFIG is no JSON"),
    ],
)
def test_bad_tf_configs_name_the_field(value, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        from_tf_config(value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"job_name": "worker"}, "--worker_hosts is missing"),
        ({"worker_hosts": ("a:1",)}, "job_name= is unknown"),
        ({"worker_hosts": ("a:1",), "job_name": "worker", "task_index": 1}, "--task_index: worker 1 is not in"),
        ({"worker_hosts": ("a",), "job_name": "worker"}, "--worker_hosts[0]='a' is no address"),
        ({"worker_hosts": ("a:1", "b:1"), "job_name": "chief", "task_index": 1}, "chief 1 is not in the cluster"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        find(**flags)


SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "n[2,10],m",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}


def test_slurm_keeps_the_order_of_the_nodes():
    port = 20_000 + 4711 * 100 % 10_000
    workers = [f"n2:{port}", f"n2:{port + 1}", f"n10:{port + 2}", f"n10:{port + 3}", f"m:{port + 4}"]
    assert find(SLURM) == Cluster("worker", 3, dict(enumerate(workers)), {}, "Slurm")


def test_steps_of_one_slurm_job_have_ports_of_their_own():
    ports = [
        {address.partition(":")[2] for address in find({**SLURM, "SLURM_STEP_ID": step}).workers.values()}
        for step in "012"
    ]
    assert len(set.union(*ports)) == 3 * 5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SLURM_STEP_NODELIST", "", "SLURM_STEP_NODELIST is not set"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x4)", "is of 4 nodes, SLURM_STEP_NODELIST of"),
        ("SLURM_STEP_NODELIST", f"n[{'9' * 5000}]", "is no list of nodes"),
        ("SLURM_STEP_ID", "one", "SLURM_STEP_ID='one' is no whole number"),
        ("SLURM_STEP_TASKS_PER_NODE", "two", "is no list of counts"),
        ("SLURM_STEP_NODELIST", "n[1,,2]", "SLURM_STEP_NODELIST='n[1,,2]' is no list of nodes"),
        ("SLURM_STEP_NODELIST", "n[--]", "is no list of nodes"),
        ("SLURM_STEP_NODELIST", "n[1-2", "is no list of nodes"),
        ("SLURM_STEP_NODELIST", "n[1-99999999999]", "is no list of nodes"),
        ("SLURM_STEP_NUM_TASKS", "abc", "SLURM_STEP_NUM_TASKS='abc' is no whole number"),
        ("SLURM_STEP_NUM_TASKS", "4", "is of 5 tasks, SLURM_STEP_NUM_TASKS is another number"),
        ("SLURM_PROCID", "9", "worker 9 is not in the cluster"),
        ("SLURM_JOB_ID", "x", "SLURM_JOB_ID='x' is no whole number"),
    ],
)
def test_bad_slurm_variables_are_named(name, value, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        find({**SLURM, name: value})


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,12]", ["n08", "n09", "n10", "n12"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("a,b[1,3]-x,c", ["a", "b1-x", "b3-x", "c"]),
    ],
)
def test_lists_of_nodes(text, nodes):
    assert expand_nodes(text) == nodes


def test_lists_of_counts():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
