"""A job under Kubernetes: manifests of Kubeflow's TFJob, or of a TrainJob with its runtime, and who may talk to it."""

from __future__ import annotations

import argparse
import posixpath
import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from launch.checking import check_flags, flag_value

PORT = 2222  # that of Kubeflow's TF_CONFIG
SAVE_SECONDS = 60  # from a pod's SIGTERM to its SIGKILL
PERMANENT = [1, 2, 3]  # exit codes of the trainer that another start would not change
NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")  # with what Kubernetes adds, at most 63
CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


class PlainDumper(yaml.SafeDumper):
    """Writes what is there twice out twice, for who edits it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Manifest = dict[str, Any]


def run(options: argparse.Namespace, args: Sequence[str]) -> int:
    """Prints the manifests; returns the exit code.

    Raises:
      ValueError: an option is no legal value of Kubernetes.
    """
    manifests = make_manifests(options, args)
    if not options.no_check:
        # The pods' data are not here.
        number = {"workers": options.workers, "servers": options.ps}
        if code := check_flags(sys.executable, args, with_data=False, **number):
            return code
    for line in find_risks(options, args):
        print(f"warning: {line}", file=sys.stderr)
    print(yaml.dump_all(manifests, Dumper=PlainDumper, sort_keys=False), end="")
    return 0


def find_risks(options: argparse.Namespace, args: Sequence[str]) -> list[str]:
    """Finds what the job may lose, one line each: files that lie in a pod are lost with it, and no other sees them.

    Args:
      options: of the command line.
      args: of `python -m trainer`.
    """
    several = options.workers + options.ps + options.evaluator > 1
    lost = "the run directory is lost with the chief's pod" + (", and the other pods do not see it" if several else "")
    logdir, data_dir = flag_value(args, "logdir"), flag_value(args, "data_dir")
    if not options.volume:
        lasts = logdir is not None and "://" in logdir
        return [] if lasts else [f"there is no --volume: {lost}; give --volume=CLAIM"]
    risks = []
    where = f"under --mount={options.mount}, where the volume is"
    if logdir is not None and not _lasts(options.mount, logdir):
        risks.append(f"--logdir={logdir} is not {where}: {lost}")
    if logdir is None and flag_value(args, "flagfile") is None:  # It lies in the image, and may say where.
        risks.append(f"there is no --logdir {where}: {lost}")
    if data_dir is not None and not _lasts(options.mount, data_dir):
        risks.append(f"--data_dir={data_dir} is not {where}: each pod needs the data in its image")
    return risks


def _lasts(mount: str, path: str) -> bool:
    """Returns whether a path lies on the volume, or outside all pods."""
    return "://" in path or (posixpath.normpath(path) + "/").startswith(posixpath.normpath(mount).rstrip("/") + "/")


def make_manifests(options: argparse.Namespace, args: Sequence[str]) -> list[Manifest]:
    """Makes the manifests of a job.

    Args:
      options: of the command line.
      args: of `python -m trainer`.

    Raises:
      ValueError: an option is no legal value of Kubernetes.
    """
    _check(options)
    if flag_value(args, "resume") == "never":
        raise ValueError("--resume=never would move the run aside at each start of a pod: use --resume=auto")
    if options.kind == "tfjob":
        return [_tfjob(options, args), _network_policy(options, "training.kubeflow.org/job-name")]
    if options.evaluator or options.ps:
        option = "--evaluator" if options.evaluator else "--ps"
        raise ValueError(f"{option} needs --kind=tfjob: all nodes of a TrainJob are workers")
    policy = _network_policy(options, "jobset.sigs.k8s.io/jobset-name")
    return [_runtime(options, args), _trainjob(options), policy]


def _check(options: argparse.Namespace) -> None:
    if not NAME.fullmatch(options.name):
        raise ValueError(f"--name={options.name} is no name: wanted 1 to 47 of a-z, 0-9 and -, beginning with a letter")
    if not options.image or re.search(r"\s", options.image):
        raise ValueError(f"--image={options.image} is no image: wanted a name as registry/trainer:1")
    for name in ("cpus", "memory", "shared_memory"):
        value = getattr(options, name)
        if (value or name == "shared_memory") and not QUANTITY.fullmatch(value):
            raise ValueError(f"--{name}={value} is no quantity: wanted a number as 4, 500m or 16Gi")
    if options.namespace and not NAME.fullmatch(options.namespace):
        raise ValueError(f"--namespace={options.namespace} is no name of a namespace")
    if options.volume and not CLAIM.fullmatch(options.volume):
        raise ValueError(f"--volume={options.volume} is no name of a PersistentVolumeClaim")
    if not options.mount.startswith("/"):
        raise ValueError(f"--mount={options.mount} is no absolute path")


def _metadata(options: argparse.Namespace) -> Manifest:
    return {"name": options.name} | ({"namespace": options.namespace} if options.namespace else {})


def _pod(options: argparse.Namespace, container: str, args: Sequence[str], *, gpus: int) -> Manifest:
    """Makes a pod of one trainer."""
    limits: Manifest = {"nvidia.com/gpu": gpus} if gpus else {}
    limits |= {"memory": options.memory} if options.memory else {}
    resources = {"limits": limits} if limits else {}
    resources |= {"requests": {"cpu": options.cpus}} if options.cpus else {}
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    volumes: list[Manifest] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": options.shared_memory}}
    ]
    if options.volume:
        mounts.append({"name": "data", "mountPath": options.mount})
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": options.volume}})
    trainer = {
        "name": container,
        "image": options.image,
        "command": ["python", "-m", "trainer"],
        "args": list(args),
        "ports": [{"name": "tfjob-port", "containerPort": PORT}],
        "resources": resources,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
    return {
        "securityContext": _security(options.run_as),
        "terminationGracePeriodSeconds": SAVE_SECONDS,
        "containers": [trainer],
        "volumes": volumes,
    }


def _security(user: int) -> Manifest:
    """Makes what the Pod Security Standard "restricted" asks of a pod, and gives the volume to its user."""
    ids = {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}}


def _tfjob(options: argparse.Namespace, args: Sequence[str]) -> Manifest:
    def replicas(count: int, gpus: int) -> Manifest:
        # The exit codes from 128 on start a pod again: killed, stopped, or another one was lost.
        pod = _pod(options, "tensorflow", args, gpus=gpus)
        return {"replicas": count, "restartPolicy": "ExitCode", "template": {"spec": pod}}

    specs = {"Worker": replicas(options.workers, options.gpus_per_worker)}
    if options.ps:
        specs["PS"] = replicas(options.ps, 0)
    if options.evaluator:
        specs["Evaluator"] = replicas(1, 0)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "TFJob",
        "metadata": _metadata(options),
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": options.max_restarts},
            "tfReplicaSpecs": specs,
        },
    }


def _runtime(options: argparse.Namespace, args: Sequence[str]) -> Manifest:
    """Makes a runtime of Kubeflow Trainer v2, which has none for TensorFlow: the nodes are told their cluster."""
    count = options.workers
    hosts = ",".join(f"{options.name}-node-0-{index}.{options.name}:{PORT}" for index in range(count))
    cluster = ["--job_name=worker", "--task_index=$(JOB_COMPLETION_INDEX)", f"--worker_hosts={hosts}"]
    pod = _pod(options, "node", [*args, *(cluster if count > 1 else [])], gpus=options.gpus_per_worker)
    pod["restartPolicy"] = "Never"
    permanent = {"containerName": "node", "operator": "In", "values": PERMANENT}
    job = {
        "backoffLimit": options.max_restarts,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": permanent}]},
        "template": {"spec": pod},
    }
    node = {
        "name": "node",
        "template": {"metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}, "spec": job},
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": _metadata(options),
        "spec": {"mlPolicy": {"numNodes": count}, "template": {"spec": {"replicatedJobs": [node]}}},
    }


def _trainjob(options: argparse.Namespace) -> Manifest:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(options),
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": options.name},
            "trainer": {"numNodes": options.workers},
        },
    }


def _network_policy(options: argparse.Namespace, label: str) -> Manifest:
    """Lets in only the job's own pods: whoever reaches a TensorFlow server can run code as its user."""
    pods = {"podSelector": {"matchLabels": {label: options.name}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(options),
        "spec": {**pods, "policyTypes": ["Ingress"], "ingress": [{"from": [pods]}]},
    }
