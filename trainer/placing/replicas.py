"""A replica of the model's variables on each tower's device, and gradients that are summed on all of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trainer.errors import UsageError
from trainer.models.sharing import REPLICA
from trainer.placing.all_reduce import keys_of_graph
from trainer.placing.devices import Placement
from trainer.placing.means_check import difference_from_plain, uniform_values
from trainer.placing.reductions import split_into_buckets, tower_sum
from trainer.tf1 import tf

GROUP_KEY = 1  # of all towers of this process


class Replicas:
    """Gives each tower variables of its own: the first has those that checkpoints hold."""

    def __init__(self, num_towers: int) -> None:
        self.tower = 0  # which is being built
        self._of_tower: list[dict[str, tf.Variable]] = [{} for _ in range(num_towers)]

    def get(self, getter: Callable[..., tf.Variable], name: str, *args: Any, **kwargs: Any) -> tf.Variable:
        """Is a `custom_getter`, outside of all others."""
        if not self.tower:
            return getter(name, *args, **kwargs)
        kwargs |= {
            "trainable": False,
            "collections": [tf.GraphKeys.LOCAL_VARIABLES],
        }
        variable = getter(f"{REPLICA}{self.tower}/{name}", *args, **kwargs)
        self._of_tower[self.tower][name] = variable
        return variable

    def of_tower(self, variables: Sequence[tf.Variable], tower: int) -> list[tf.Variable]:
        """Finds what a tower has for these variables."""
        return [self._of_tower[tower].get(variable.op.name, variable) for variable in variables]

    def name_of(self, variable: tf.Variable) -> str:
        """Names the variable of the first tower that a variable is a replica of."""
        name = str(variable.op.name)
        return name.partition("/")[2] if name.startswith(REPLICA) else name

    def keep_out_of_checkpoints(self) -> None:
        """Makes local what an optimizer has made for the replicas of other towers."""
        everywhere = tf.get_collection_ref(tf.GraphKeys.GLOBAL_VARIABLES)
        local = tf.get_collection_ref(tf.GraphKeys.LOCAL_VARIABLES)
        mine = [variable for variable in everywhere if variable.op.name.startswith(REPLICA)]
        local += mine
        everywhere[:] = [variable for variable in everywhere if not variable.op.name.startswith(REPLICA)]

    def build_sync(self) -> tf.Operation:
        """Builds what makes all replicas equal to the variables of the first tower, after these have their values."""
        originals = {variable.op.name: variable for variable in tf.global_variables()}
        local = tf.get_collection(tf.GraphKeys.LOCAL_VARIABLES)
        mine = [variable for variable in local if variable.op.name.startswith(REPLICA)]
        return tf.group(*(each.assign(originals[self.name_of(each)].read_value()) for each in mine))


def all_reduce_towers(
    tower_gradients: Sequence[Sequence[tf.Tensor]],
    devices: Sequence[str],
    *,
    how: str,
    parameter_device: Placement,
    bucket_bytes: int,
) -> list[list[tf.Tensor]]:
    """Averages each gradient over the towers; every tower gets the mean, the same bits on all.

    Args:
      tower_gradients: of each tower, the gradient of each variable.
      devices: of the towers.
      how: one of REDUCTIONS.
      parameter_device: where `copy` adds.
      bucket_bytes: gradients travel together, up to so many bytes; 0: each by itself.
    """
    count = len(devices)
    shapes = [gradient.shape for gradient in tower_gradients[0]]
    sizes = [int(shape.num_elements()) * 4 for shape in shapes]
    means: list[list[tf.Tensor]] = [[] for _ in devices]
    for bucket in split_into_buckets(sizes, bucket_bytes):
        packed = []
        for device, gradients in zip(devices, tower_gradients, strict=True):
            with tf.device(device), tf.name_scope("pack_gradients"):
                packed.append(tf.concat([tf.reshape(gradients[index], [-1]) for index in bucket], 0))
        summed = packed if count == 1 else REDUCTIONS[how](packed, devices, parameter_device)
        for tower, device in enumerate(devices):
            with tf.device(device), tf.name_scope("unpack_gradients"):
                mean = summed[tower] * (1 / count)
                pieces = tf.split(mean, [int(shapes[index].num_elements()) for index in bucket])
                means[tower] += [tf.reshape(piece, shapes[index]) for piece, index in zip(pieces, bucket, strict=True)]
    return means


def build_means_check(
    shapes: Sequence[tf.TensorShape],
    devices: Sequence[str],
    *,
    how: str,
    parameter_device: Placement,
    bucket_bytes: int,
) -> tf.Tensor:
    """Builds the largest difference between such means of these shapes, on any tower, and plain ones: float32 []."""
    values = []
    for tower, device in enumerate(devices):
        with tf.device(device):
            values.append(uniform_values(shapes, tower))
    means = all_reduce_towers(values, devices, how=how, parameter_device=parameter_device, bucket_bytes=bucket_bytes)
    return tf.reduce_max([difference_from_plain(mean, values) for mean in means])


def _sum_by_copies(
    tensors: Sequence[tf.Tensor], devices: Sequence[str], parameter_device: Placement
) -> list[tf.Tensor]:
    with tf.device(parameter_device), tf.name_scope("copy"):
        total = tower_sum(tensors)
    return [total] * len(devices)


def _sum_by_tree(tensors: Sequence[tf.Tensor], devices: Sequence[str], _: Placement) -> list[tf.Tensor]:
    """Adds pairs of neighbours, then pairs of pairs; the sum goes back the same way."""
    partial, stride = list(tensors), 1
    with tf.name_scope("tree"):
        while stride < len(partial):
            for left in range(0, len(partial) - stride, 2 * stride):
                with tf.device(devices[left]):
                    partial[left] = partial[left] + partial[left + stride]
            stride *= 2
        sums = [partial[0]] * len(partial)
        while stride > 1:
            stride //= 2
            for left in range(0, len(partial) - stride, 2 * stride):
                with tf.device(devices[left + stride]):
                    sums[left + stride] = tf.identity(sums[left])
    return sums


def _sum_collectively(tensors: Sequence[tf.Tensor], devices: Sequence[str], _: Placement) -> list[tf.Tensor]:
    """Adds by TensorFlow's own ring over the devices of this process."""
    key = keys_of_graph().key("towers/all_reduce")
    sums = []
    for tensor, device in zip(tensors, devices, strict=True):
        with tf.device(device):
            total = tf.raw_ops.CollectiveReduce(
                input=tensor,
                group_size=len(devices),
                group_key=GROUP_KEY,
                instance_key=key,
                merge_op="Add",
                final_op="Id",
                subdiv_offsets=[0],
            )
            sums.append(tf.ensure_shape(total, tensor.shape))
    # Whichever of them is fetched, all take part: the others would wait for it without end.
    with tf.control_dependencies(sums):
        return [tf.identity(total) for total in sums]


def _sum_by_nccl(tensors: Sequence[tf.Tensor], devices: Sequence[str], _: Placement) -> list[tf.Tensor]:
    """Adds by NVIDIA's library, between GPUs."""
    name = f"all_reduce_{keys_of_graph().key('towers/all_reduce')}"
    sums = []
    for tensor, device in zip(tensors, devices, strict=True):
        with tf.device(device):
            total = tf.raw_ops.NcclAllReduce(input=tensor, reduction="sum", num_devices=len(devices), shared_name=name)
            sums.append(tf.ensure_shape(total, tensor.shape))
    with tf.control_dependencies(sums):
        return [tf.identity(total) for total in sums]


REDUCTIONS: dict[str, Callable[[Sequence[tf.Tensor], Sequence[str], Placement], list[tf.Tensor]]] = {
    "copy": _sum_by_copies,
    "tree": _sum_by_tree,
    "collective": _sum_collectively,
    "nccl": _sum_by_nccl,
}


def check_reduce(how: str, devices: Sequence[str]) -> None:
    """Checks that the devices can do what --reduce names.

    Raises:
      UsageError: NVIDIA's library is asked for without GPUs.
    """
    if how == "nccl" and not devices[0].startswith("/gpu"):
        raise UsageError(f"--reduce=nccl is for GPUs, and the towers are on {devices[0]}: use copy, tree or collective")
