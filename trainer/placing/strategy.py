"""What the workers of a training have to do with each other in a step: one protocol, which each strategy fills in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from trainer.tf1 import tf

STOP, SAVE, END = 0, 1, 2  # indices of votes
NUM_VOTES = 3


@dataclass(frozen=True)
class Workers:
    """Which of how many workers this process is."""

    index: int = 0
    count: int = 1


class Votes(NamedTuple):
    """What any worker wants, known to all of them after the same step."""

    # float32 [3] each. STOP: above 0 where a worker was told to stop; SAVE: grows with each vote for a checkpoint;
    # END: above 0 where the training is to end as if this were its last step.
    agreed: tf.Tensor
    own: tf.Tensor  # placeholder: what this worker wants
    cast: tf.Operation  # makes `own` a part of the next steps


class MeansCheck(NamedTuple):
    """The check of the means of known numbers, before the first step."""

    run: tf.Tensor | tf.Operation  # float32 [], the largest difference from plain means, where this worker computes it
    ready: Sequence[tf.Tensor] = ()  # int32 [] each, how many other workers' numbers are there
    close: Sequence[tf.Operation] = ()  # frees what the check has used


class Strategy(Protocol):
    """How the gradients of all workers become an update.

    The first worker is the chief. What is built in the graph of one worker meets what the others build by its name.
    """

    workers: Workers
    votes: Votes | None  # once a step is built; None in one process
    applies_updates: bool  # does this worker update variables itself; else it hands its gradients to the chief
    is_asynchronous: bool  # may others have made updates since this worker read the variables
    position: tf.Variable | None  # examples consumed, where each worker counts its own; None: the checkpoint's counter

    def average(self, tensors: Sequence[tf.Tensor], devices: Sequence[str]) -> list[tf.Tensor]:
        """Averages float32 tensors over all workers, and sends this worker's votes with them.

        Args:
          tensors: of the same shapes on all workers.
          devices: where the mean of each is wanted.
        """

    def hand_over(
        self, tensors: Sequence[tf.Tensor], devices: Sequence[str], *, batch_size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Hands this worker's tensors to the chief, where `applies_updates` is not, and waits for what it publishes.

        Args:
          tensors: as on the chief.
          devices: as on the chief.
          batch_size: examples that a step consumes.

        Returns:
          The chief's loss, and what of its step is not finite.
        """

    def publish(self, loss: tf.Tensor, not_finite: tf.Tensor, position: tf.Variable) -> tf.Tensor:
        """Tells the others what a step has come to, after its update; returns `not_finite`, after that."""

    def build_means_check(self, shapes: Sequence[tf.TensorShape], devices: Sequence[str]) -> MeansCheck | None:
        """Builds a mean of known numbers, of the shapes of the gradients; None where nothing is averaged."""

    def build_barrier(self) -> tf.Tensor | None:
        """Builds what ends when all workers have come to it; None where nobody waits for others at the end."""

    def build_wake(self) -> list[tf.Operation]:
        """Builds what makes a step fail that waits for other workers."""


class OneProcess:
    """The strategy of a process that is alone."""

    workers = Workers()
    votes: Votes | None = None
    applies_updates = True
    is_asynchronous = False
    position: tf.Variable | None = None

    def average(self, tensors: Sequence[tf.Tensor], devices: Sequence[str]) -> list[tf.Tensor]:
        return list(tensors)

    def hand_over(
        self, tensors: Sequence[tf.Tensor], devices: Sequence[str], *, batch_size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        raise AssertionError("this worker applies its updates itself")

    def publish(self, loss: tf.Tensor, not_finite: tf.Tensor, position: tf.Variable) -> tf.Tensor:
        return not_finite

    def build_means_check(self, shapes: Sequence[tf.TensorShape], devices: Sequence[str]) -> MeansCheck | None:
        return None

    def build_barrier(self) -> tf.Tensor | None:
        return None

    def build_wake(self) -> list[tf.Operation]:
        return []
