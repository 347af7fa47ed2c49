"""The towers of a step: a replica of the model on each device, on its shard of the batch."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from trainer.inputs.batch import Features
from trainer.learning import freezing, losses
from trainer.learning.loss_scaling import LossScale
from trainer.learning.task import Task
from trainer.models import layers
from trainer.models.inference import channels_first
from trainer.placing.devices import Placement
from trainer.placing.replicas import Replicas, check_reduce
from trainer.placing.staging import Staging, should_stage
from trainer.placing.strategy import Workers
from trainer.placing.towers import for_each_tower
from trainer.settings.config import Config
from trainer.tf1 import tf

LOSS = "loss"  # among the scalars of a step


class TowerResult(NamedTuple):
    """What a tower computes; also the means over towers, and over those of all workers."""

    scalars: dict[str, tf.Tensor]  # float32 [] each: LOSS, and what the task adds
    gradients: list[tf.Tensor]  # of each trainable variable

    def flat(self) -> list[tf.Tensor]:
        return [*self.scalars.values(), *self.gradients]

    def unflatten(self, tensors: list[tf.Tensor]) -> TowerResult:
        count = len(self.scalars)
        return TowerResult(dict(zip(self.scalars, tensors[:count], strict=True)), tensors[count:])


@dataclasses.dataclass(frozen=True)
class StepPlaces:
    """Where the parts of a step are."""

    towers: list[str]  # a device for each
    parameters: Placement  # of the variables
    caching_device: str | None = None  # gets the weights once a step, for all towers; None: each tower reads them


class TowerBuilder:
    """Builds the towers of one step after another, on the same variables."""

    def __init__(self, config: Config, task: Task, step: tf.Variable, workers: Workers, places: StepPlaces) -> None:
        """Takes what the towers of all steps share.

        Args:
          config: of the run.
          task: what is learned.
          step: int64 [], finished updates.
          workers: of the cluster.
          places: of towers and variables.

        Raises:
          UsageError: --reduce is not for these devices.
        """
        self._config, self._task, self._step, self._workers, self._places = config, task, step, workers, places
        self._freeze = freezing.freezing_getter(config.trainable_scopes, config.freeze_scopes)
        self._staging = Staging()
        self._staged = should_stage(config.staging, config.input, places.towers)
        self.regularizer = losses.L2(config.weight_decay)
        self.replicas: Replicas | None = None
        if config.strategy == "replicated":
            check_reduce(config.reduce, places.towers)
            self.replicas = Replicas(len(places.towers))

    def build(self, batch: Features, loss_scale: LossScale | None) -> list[TowerResult]:
        """Builds a tower for each device, on its shard of a batch.

        Args:
          batch: of this worker.
          loss_scale: of float16.
        """
        devices = self._places.towers
        with tf.name_scope("split_batch"):
            shards = {name: tf.split(batch[name], len(devices)) for name in self._task.features}

        def build_tower(index: int) -> TowerResult:
            if self.replicas:
                self.replicas.tower = index
            mine = [shard[index] for shard in shards.values()]
            if self._staged:
                mine = self._staging.put_and_take(mine, index)
            return self._build_one(dict(zip(shards, mine, strict=True)), index, loss_scale)

        with (
            tf.variable_scope("", custom_getter=self.replicas.get if self.replicas else None),
            tf.variable_scope(
                "",
                regularizer=self.regularizer,
                custom_getter=self._freeze,
                caching_device=self._places.caching_device,
            ),
        ):
            return for_each_tower(devices, None if self.replicas else self._places.parameters, build_tower)

    def take_puts(self) -> list[tf.Operation]:
        """Returns what stages the next batch of the step that has been built last; nothing where none is staged."""
        return self._staging.take_puts()

    def _build_one(self, features: Features, index: int, loss_scale: LossScale | None) -> TowerResult:
        task, config, num_towers = self._task, self._config, len(self._places.towers)
        # Each tower drops other units: its masks depend on its number too.
        number = self._workers.index * num_towers + index
        draw = self._step.read_value() * (num_towers * self._workers.count) + number
        outputs = task.build(
            features,
            training=True,
            channels_first=channels_first(config.data_format, self._places.towers[index]),
            dropout=layers.make_dropout(config.seed, draw),
        )
        self._check_scopes()
        loss = tf.reduce_mean(task.loss(outputs, features))
        scaled = loss_scale.multiply(loss) if loss_scale else loss
        variables = tf.trainable_variables()
        gradients = tf.gradients(scaled, self.replicas.of_tower(variables, index) if self.replicas else variables)
        return TowerResult({LOSS: loss, **task.scalars(outputs, features)}, gradients)

    def _check_scopes(self) -> None:
        names = [variable.op.name for variable in tf.get_collection(tf.GraphKeys.MODEL_VARIABLES)]
        freezing.check_scopes(names, self._config.trainable_scopes, self._config.freeze_scopes)
