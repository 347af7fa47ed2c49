"""Manifests, against the schemas of the operators that read them."""

from __future__ import annotations

import os
from pathlib import Path

import jsonschema
import pytest
import yaml

from launch.command import main
from tests.conftest import REPO
from trainer.errors import ERROR, NOT_FINITE, PEER_LOST, USAGE

CRDS = Path(os.environ.get("CRD_DIR", REPO.parent / "shared" / "data" / "crds"))
FILES = {
    "TFJob": "kubeflow.org_tfjobs.yaml",
    "TrainJob": "trainer.kubeflow.org_trainjobs.yaml",
    "TrainingRuntime": "trainer.kubeflow.org_trainingruntimes.yaml",
}
FULL = ["--workers=3", "--gpus_per_worker=2", "--cpus=4", "--memory=16Gi", "--volume=claim", "--namespace=team"]


def strict(schema):
    """Makes a copy of a schema that allows no field that it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: strict(value) for key, value in schema.items()}
    closed = "properties" in copy and not copy.get("x-kubernetes-preserve-unknown-fields")
    return {"additionalProperties": False, **copy} if closed and isinstance(copy.get("properties"), dict) else copy


@pytest.fixture(scope="module")
def validate():
    if not CRDS.is_dir():
        pytest.skip(f"the operators' schemas are not in {CRDS} (CRD_DIR names their folder)")
    schemas = {}
    for kind, name in FILES.items():
        versions = yaml.load((CRDS / name).read_text(), yaml.CSafeLoader)["spec"]["versions"]
        schema = strict(versions[0]["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[kind] = (versions[0]["name"], schema)

    def check(manifest):
        version, schema = schemas[manifest["kind"]]
        assert manifest["apiVersion"].endswith(f"/{version}")
        jsonschema.validate(manifest, schema)

    return check


@pytest.fixture
def make(capsys):
    def run(*options, args=("--logdir=/data/run",)):
        assert main(["kubernetes", "--image=registry/trainer:1", "--no_check", *options, "--", *args]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return run


@pytest.mark.parametrize("options", [[], FULL, [*FULL, "--evaluator", "--ps=2"]], ids=["least", "full", "all tasks"])
def test_a_tfjob_fits_its_schema(make, validate, options):
    job, policy = make(*options)
    assert (job["kind"], policy["kind"]) == ("TFJob", "NetworkPolicy")
    validate(job)


@pytest.mark.parametrize("options", [[], FULL], ids=["least", "full"])
def test_a_trainjob_and_its_runtime_fit_their_schemas(make, validate, options):
    runtime, job, policy = make("--kind=trainjob", *options)
    assert (runtime["kind"], job["kind"], policy["kind"]) == ("TrainingRuntime", "TrainJob", "NetworkPolicy")
    validate(runtime)
    validate(job)
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]


def test_the_schemas_refuse_what_they_do_not_name(make, validate):
    job, _ = make()
    job["spec"]["tfReplicaSpecs"]["Worker"]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        validate(job)


def test_pods_have_what_was_asked_for(make):
    job, _ = make(*FULL)
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (3, "ExitCode")
    pod = worker["template"]["spec"]
    container = pod["containers"][0]
    assert (container["name"], container["args"]) == ("tensorflow", ["--logdir=/data/run"])
    assert container["ports"] == [{"name": "tfjob-port", "containerPort": 2222}]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2, "memory": "16Gi"}, "requests": {"cpu": "4"}}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/dev/shm", "/data"}
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert pod["terminationGracePeriodSeconds"] > 25  # --grace_seconds of the trainer


def test_servers_are_pods_without_gpus_that_start_again_after_a_loss(make):
    job, _ = make(*FULL, "--ps=2")
    servers = job["spec"]["tfReplicaSpecs"]["PS"]
    assert (servers["replicas"], servers["restartPolicy"]) == (2, "ExitCode")
    limits = servers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in limits
    assert main(["kubernetes", "--image=i", "--kind=trainjob", "--ps=1"]) == 2


def pods_of(manifests):
    job = manifests[0]
    if job["kind"] == "TFJob":
        return [each["template"]["spec"] for each in job["spec"]["tfReplicaSpecs"].values()]
    return [job["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]]


@pytest.mark.parametrize(("options", "user"), [([], 1000), (["--run_as=5000"], 5000)], ids=["default", "another"])
@pytest.mark.parametrize("kind", [["--kind=tfjob", "--ps=1", "--evaluator"], ["--kind=trainjob"]], ids=["v1", "v2"])
def test_pods_keep_to_the_restricted_standard_and_own_their_volume(make, validate, kind, options, user):
    manifests = make(*kind, *FULL, *options)
    for manifest in manifests[:-1]:
        validate(manifest)
    for pod in pods_of(manifests):
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        # All that the standard allows among what is used here.
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim"}


def test_the_images_user_is_that_of_the_pods(make):
    lines = (REPO / "launch" / "Dockerfile").read_text()
    assert "useradd --create-home --uid 1000 --gid 1000 trainer" in lines
    assert lines.count("USER ") == 1 and "\nUSER 1000:1000\n" in lines


@pytest.mark.parametrize("user", ["0", "-1", "root"])
def test_pods_never_run_as_root(user, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["kubernetes", "--image=i", f"--run_as={user}"])
    assert ended.value.code == 2 and "is out of range" in capsys.readouterr().err


LOST = "the run directory is lost with the chief's pod"
UNDER = "under --mount=/data, where the volume is"


@pytest.mark.parametrize(
    ("options", "args", "warnings"),
    [
        (["--workers=2"], [], [f"there is no --volume: {LOST}, and the other pods do not see it; give --volume=CLAIM"]),
        (["--evaluator"], [], [f"there is no --volume: {LOST}, and the other pods do not see it; give --volume=CLAIM"]),
        ([], ["--logdir=/data/run"], [f"there is no --volume: {LOST}; give --volume=CLAIM"]),
        (["--workers=2"], ["--logdir=gs://bucket/run"], []),
        (["--volume=c"], ["--logdir=/data/run", "--data_dir=/data/../data/mnist"], []),
        (["--volume=c"], ["--flagfile=configs/mnist_lenet.flags"], []),
        (["--volume=c", "--mount=/"], ["--logdir=/anything"], []),
        (["--volume=c"], [], [f"there is no --logdir {UNDER}: {LOST}"]),
        (
            ["--volume=c", "--ps=1"],
            ["--logdir", "/data2/run", "--data_dir=mnist"],
            [
                f"--logdir=/data2/run is not {UNDER}: {LOST}, and the other pods do not see it",
                f"--data_dir=mnist is not {UNDER}: each pod needs the data in its image",
            ],
        ),
    ],
)
def test_what_would_be_lost_with_a_pod_is_said_and_the_manifests_printed(options, args, warnings, capsys):
    assert main(["kubernetes", "--image=i", "--no_check", *options, "--", *args]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"warning: {line}" for line in warnings]
    assert next(yaml.safe_load_all(printed.out))["kind"] == "TFJob"


def test_only_the_jobs_own_pods_are_let_in(make):
    _, policy = make("--name=mine")
    pods = {"podSelector": {"matchLabels": {"training.kubeflow.org/job-name": "mine"}}}
    assert policy["spec"] == {**pods, "policyTypes": ["Ingress"], "ingress": [{"from": [pods]}]}


def test_the_nodes_of_a_trainjob_find_each_other(make):
    from trainer.cluster.spec import find_cluster

    runtime, *_ = make("--kind=trainjob", "--workers=2", "--name=mine")
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    args = dict(arg.lstrip("-").split("=", 1) for arg in job["template"]["spec"]["containers"][0]["args"])
    assert args["task_index"] == "$(JOB_COMPLETION_INDEX)"
    found = find_cluster(
        job_name=args["job_name"],
        task_index=1,
        worker_hosts=args["worker_hosts"].split(","),
        ps_hosts=(),
        environment={},
    )
    assert found.workers == {0: "mine-node-0-0.mine:2222", 1: "mine-node-0-1.mine:2222"}


def test_the_exit_codes_are_the_trainers(make):
    runtime, *_ = make("--kind=trainjob")
    rule = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"][0]
    assert rule["onExitCodes"]["values"] == sorted([ERROR, USAGE, NOT_FINITE])
    assert PEER_LOST >= 128  # A TFJob with `ExitCode` starts a pod again from there on.


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--name=Bad", "--name=Bad is no name"),
        ("--image=a b", "--image=a b is no image"),
        ("--memory=lots", "--memory=lots is no quantity"),
        ("--mount=data", "--mount=data is no absolute path"),
        ("--volume=../x", "is no name of a PersistentVolumeClaim"),
    ],
)
def test_illegal_values_are_refused(option, message, capsys):
    assert main(["kubernetes", "--image=i", option]) == 2
    assert message in capsys.readouterr().err


def test_the_dockerfile_copies_what_is_there():
    lines = (REPO / "launch" / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert copied and all((REPO / source).exists() for source in copied)


def test_the_command_of_each_host(capsys):
    args = ["hosts", "--hosts=127.0.0.1,10.1.2.3", "--dry_run", "--no_check", "--", "--logdir=/data/my run"]
    assert main(args) == 0
    assert capsys.readouterr().out.splitlines() == [
        "# TensorFlow's servers listen on every interface of these hosts, without authentication:",
        "#   127.0.0.1:2222 (127.0.0.1)",
        "#   10.1.2.3:2222 (10.1.2.3)",
        "# on 127.0.0.1:",
        "python -m trainer '--logdir=/data/my run' --worker_hosts=127.0.0.1:2222,10.1.2.3:2222 --job_name=worker "
        "--task_index=0",
        "# on 10.1.2.3:",
        "python -m trainer '--logdir=/data/my run' --worker_hosts=127.0.0.1:2222,10.1.2.3:2222 --job_name=worker "
        "--task_index=1",
    ]


def test_public_addresses_are_refused_until_they_are_said_to_be_isolated(capsys):
    args = ["hosts", "--hosts=127.0.0.1,8.8.8.8", "--dry_run", "--no_check"]
    assert main(args) == 2
    assert "8.8.8.8 has the public address 8.8.8.8" in capsys.readouterr().err
    assert main([*args, "--network_is_isolated"]) == 0
    assert capsys.readouterr().out.count("--network_is_isolated") == 2


@pytest.mark.parametrize("hosts", ["a,a", "a,,b", ""])
def test_lists_of_hosts_that_are_none(hosts, capsys):
    assert main(["hosts", f"--hosts={hosts}", "--dry_run"]) == 2
    assert "is no list of different hosts" in capsys.readouterr().err


def test_hosts_of_servers_have_commands_too(capsys):
    assert main(["hosts", "--hosts=127.0.0.1", "--ps_hosts=10.1.2.3", "--dry_run", "--no_check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shared = "--worker_hosts=127.0.0.1:2222 --ps_hosts=10.1.2.3:2222"
    assert lines[-4:] == [
        "# on 127.0.0.1:",
        f"python -m trainer {shared} --job_name=worker --task_index=0",
        "# on 10.1.2.3:",
        f"python -m trainer {shared} --job_name=ps --task_index=0",
    ]
    assert main(["hosts", "--hosts=a", "--ps_hosts=a", "--dry_run"]) == 2
