"""Towers on the devices that are there: GPUs, virtual GPUs, or virtual CPU devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trainer.errors import TrainerError, UsageError
from trainer.tf1 import tf

VIRTUAL_GPU_SHARE = 0.9  # of a split GPU's memory; the rest is for CUDA's own needs

Placement = str | Callable[[tf.Operation], str]  # as `tf.device` takes it


def server_of(op: tf.Operation) -> str:
    """Finds the parameter server on which the first input of an operation lives; "" where that is elsewhere."""
    device = str(op.inputs[0].device) if len(op.inputs) else ""
    return device if is_server(device) else ""


def is_server(device: str) -> bool:
    return device.startswith("/job:ps")


def is_one_cpu(variables: Sequence[tf.Variable]) -> bool:
    """Are all variables on the CPU of one process that trains?"""
    devices = {tf.DeviceSpec.from_string(variable.device).to_string() for variable in variables}
    return len(devices) == 1 and devices.pop().endswith("/device:CPU:0") and not is_server(variables[0].device)


class Devices(NamedTuple):
    """Where towers and variables live."""

    towers: list[str]  # a device for each tower
    parameters: str  # the device of the variables, where these are not on servers
    virtual_gpus: tuple[int, ...] = ()  # into how many each GPU is split; empty: none is split
    note: str = ""  # what the user should know about the choice


def choose_devices(
    num_towers: int, *, num_gpus: int, device: str, virtual_gpus: bool, parameter_device: str
) -> Devices:
    """Gives each tower a device.

    Args:
      num_towers: wanted towers.
      num_gpus: GPUs of the machine.
      device: "gpu", or "cpu" to leave GPUs alone.
      virtual_gpus: may GPUs be split.
      parameter_device: "cpu", "gpu" for the first tower's device, or "auto" for that where it is a GPU.

    Raises:
      UsageError: there are GPUs, but fewer than towers, and they may not be split.
    """
    kind, note = "gpu", ""
    split: tuple[int, ...] = ()
    if device == "cpu" or not num_gpus:
        kind = "cpu"
        reason = "--device=cpu" if device == "cpu" else "this machine has no GPU that TensorFlow can use"
        note = f"{reason}: training on {num_towers} virtual CPU device{'s' if num_towers > 1 else ''}"
    elif num_towers > num_gpus:
        if not virtual_gpus:
            raise UsageError(
                f"num_gpus={num_towers}, but this machine has {num_gpus}: use --num_gpus={num_gpus}, "
                "--virtual_gpus to split them, or --device=cpu"
            )
        split = tuple(num_towers // num_gpus + (gpu < num_towers % num_gpus) for gpu in range(num_gpus))
        gpus = f"{num_gpus} GPU{'s' if num_gpus > 1 else ''}"
        note = f"{gpus} split into {num_towers} virtual ones: {', '.join(str(count) for count in split)}"
    towers = [f"/{kind}:{index}" for index in range(num_towers)]
    on_tower = parameter_device == "gpu" or (parameter_device == "auto" and kind == "gpu")
    return Devices(towers, towers[0] if on_tower else "/cpu:0", split, note)


def make_session_config(
    devices: Devices,
    *,
    intra_op_threads: int,
    inter_op_threads: int,
    deterministic: bool,
    allow_soft_placement: bool,
    log_device_placement: bool,
    gpu_memory_mib: Callable[[], Sequence[float]],
) -> tf.ConfigProto:
    """Makes the session's settings: virtual CPU devices, or GPUs whose memory grows with need.

    Args:
      devices: from `choose_devices`.
      intra_op_threads: threads of one operation; 0 is TensorFlow's choice.
      inter_op_threads: operations at once; -1 runs those of a step in the thread that runs the step, 0 does so where
        all towers are on CPU devices, and leaves the choice to TensorFlow elsewhere.
      deterministic: all operations run in TensorFlow's own threads, which take numbers below 1.2e-38 for 0; others do
        not, and which thread goes on with a step that waited for its input is chance.
      allow_soft_placement: may an operation without a kernel for its device run elsewhere.
      log_device_placement: does TensorFlow print every operation's device.
      gpu_memory_mib: asks for the memory of each GPU, in MiB; only called where GPUs are split.
    """
    on_cpu = devices.towers[0].startswith("/cpu")
    config = tf.ConfigProto(
        intra_op_parallelism_threads=intra_op_threads,
        # The queue runners then do not take turns with the training step in one pool of threads.
        inter_op_parallelism_threads=inter_op_threads or (-1 if on_cpu and not deterministic else 0),
        allow_soft_placement=allow_soft_placement,
        log_device_placement=log_device_placement,
    )
    config.gpu_options.allow_growth = True
    if on_cpu:
        config.device_count["CPU"] = len(devices.towers)
        config.device_count["GPU"] = 0
    if devices.virtual_gpus:
        for memory, count in zip(gpu_memory_mib(), devices.virtual_gpus, strict=False):
            virtual = config.gpu_options.experimental.virtual_devices.add()
            virtual.memory_limit_mb.extend([memory * VIRTUAL_GPU_SHARE / count] * count)
    return config


def gpu_memory_mib() -> list[float]:
    """Asks the driver for the memory of each visible GPU, in MiB.

    Raises:
      TrainerError: it does not answer.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        # TensorFlow itself could only tell after it has taken the memory.
        output = subprocess.run(query, check=True, capture_output=True, text=True)
        rows = [line.split(", ") for line in output.stdout.splitlines()]
        return visible_memory(os.environ.get("CUDA_VISIBLE_DEVICES"), [(a, b, float(c)) for a, b, c in rows])
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise TrainerError(
            f"--virtual_gpus: the size of the GPUs is unknown, {' '.join(query)} failed: {error}"
        ) from error


def visible_memory(visible: str | None, gpus: Sequence[tuple[str, str, float]]) -> list[float]:
    """Picks the memory of the GPUs that CUDA_VISIBLE_DEVICES names, in its order.

    As for CUDA, the list ends at the first entry that names no device, as -1 or NoDevFiles.

    Args:
      visible: the variable; None: all.
      gpus: number, UUID and memory of each GPU.
    """
    if visible is None:
        return [memory for _, _, memory in gpus]
    found = []
    for name in (each.strip() for each in visible.split(",")):
        named = [memory for number, uuid, memory in gpus if name == number or (name and uuid.startswith(name))]
        if len(named) != 1:
            break
        found += named
    return found
