"""Settings of the placement: towers, devices, and how gradients meet."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.grammars import MAX_COUNT, MAX_RATE, MAX_STEPS
from trainer.settings.fields import TASK, Legal, between, option

REDUCTIONS = ("copy", "tree", "collective", "nccl")
STRATEGIES = ("auto", "parameter_device", "replicated", "collective", "ps_sync", "ps_async")
BUCKET_MB = Legal(lambda value: value in (-1.0, 0.0) or 0 < value <= MAX_RATE, f"-1, or 0 to {MAX_RATE:g}")


@dataclass(frozen=True)
class PlacementSettings:
    """Towers, devices, and how gradients meet."""

    num_gpus: int = option(
        1,
        "towers of this process, one for each GPU; without GPUs, virtual CPU devices",
        legal=between(1, MAX_COUNT),
    )
    device: str = option("gpu", "cpu: hide the GPUs and use virtual CPU devices", ("gpu", "cpu"))
    virtual_gpus: bool = option(False, "split the GPUs that are there into --num_gpus virtual ones")
    parameter_device: str = option(
        "auto",
        "where the variables live: cpu; gpu: the first tower's device; auto: gpu where the towers are on GPUs",
        ("auto", "cpu", "gpu"),
    )
    staging: str = option(
        "auto", "copy the next batch to the towers' devices while a step computes; auto: on GPUs", ("auto", "yes", "no")
    )
    data_format: str = option(
        "auto",
        "what convolutions compute in; auto: channels_first on GPUs, channels_last on CPU devices",
        ("auto", "channels_first", "channels_last"),
    )
    strategy: str = option(
        "auto",
        "parameter_device: one process, variables on one device; replicated: a replica of them on each tower's; "
        "collective: each worker of a cluster has its own, gradients are all-reduced; ps_sync: variables on parameter "
        "servers, one update of all workers' gradients; ps_async: each worker makes its own updates there; auto: "
        "ps_sync with --ps_hosts, else collective, alone parameter_device",
        STRATEGIES,
    )
    reduce: str = option(
        "copy",
        "how --strategy=replicated adds gradients: copy: on --parameter_device; tree: in pairs; collective: in a ring; "
        "nccl: by NVIDIA's library",
        REDUCTIONS,
    )
    bucket_mb: float = option(
        -1.0,
        "megabytes of gradients that travel together, from each tower to the mean and from worker to worker; "
        "0: each by itself; -1: 32 between workers, 0 in one process",
        legal=BUCKET_MB,
    )
    steps_per_loop: int = option(
        1,
        "most steps that TensorFlow runs by itself, without Python between them; fewer where anything is due, and "
        "where they would take over a quarter of a second",
        legal=between(1, MAX_COUNT),
    )
    ops: str = option(
        "auto",
        "auto: the trainer's own operations, in C++, where they can be built, which gives the same results in less "
        "time; off: TensorFlow's alone",
        ("auto", "off"),
    )
    intra_op_threads: int = option(
        0, "threads that one operation may use; 0: as many as cores", scope=TASK, legal=between(0, MAX_STEPS)
    )
    inter_op_threads: int = option(
        0,
        "operations that may run at once; 0: chosen, see benchmarks/README.md; -1: a step's own thread runs them",
        scope=TASK,
        legal=between(-1, MAX_COUNT),
    )
    allow_soft_placement: bool = option(True, "let an operation without a kernel for its device run elsewhere")
    log_device_placement: bool = option(False, "print the device of every operation", scope=TASK)
