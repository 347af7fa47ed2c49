"""Batches staged on the towers' devices: while a step computes, the images of the next one are copied there."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.settings.data import queues_batches
from trainer.tf1 import tf


def should_stage(staging: str, source: str, tower_devices: Sequence[str]) -> bool:
    """Reads --staging for an input (--input) and the towers' devices."""
    on_gpu = tower_devices[0].startswith("/gpu")
    return staging == "yes" or (staging == "auto" and on_gpu and queues_batches(source))


class Staging:
    """A first-in, first-out area on each tower's device, by the operations below `StagingArea`, which is not public."""

    def __init__(self) -> None:
        self._puts: list[tf.Operation] = []

    def put_and_take(self, tensors: list[tf.Tensor], tower: int) -> list[tf.Tensor]:
        """Puts tensors into the area of the current device, and takes out those that were put there before.

        Args:
          tensors: of the next step, of known shapes.
          tower: the number of the tower; all that are built for one share its area.
        """
        name = f"staging_{tower}"
        self._puts.append(tf.raw_ops.Stage(values=tensors, shared_name=name))
        taken = tf.raw_ops.Unstage(dtypes=[tensor.dtype for tensor in tensors], shared_name=name)
        for value, tensor in zip(taken, tensors, strict=True):
            value.set_shape(tensor.shape)
        return list(taken)

    def take_puts(self) -> list[tf.Operation]:
        """Returns what puts the batches of the step that has been built last."""
        puts, self._puts = self._puts, []
        return puts
