"""The towers of a step: a replica of the model on each device, on its shard of the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from trainer.errors import UsageError, reason
from trainer.inputs.batch import Features
from trainer.learning import freezing, losses, updates
from trainer.learning.loss_scaling import LossScale
from trainer.learning.task import Task
from trainer.models import layers
from trainer.models.normalization import CrossMean
from trainer.models.outputs import ModelOutput
from trainer.placing.all_reduce import keys_of_graph
from trainer.placing.devices import Placement
from trainer.placing.replicas import Replicas, check_reduce
from trainer.placing.staging import Staging, should_stage
from trainer.placing.strategy import Strategy
from trainer.placing.tower_means import TowerMeans
from trainer.placing.towers import for_each_tower
from trainer.settings.config import Config
from trainer.subgraphs import ancestors, copy_of
from trainer.tf1 import tf

LOSS = "loss"  # among the scalars of a step


class TowerResult(NamedTuple):
    """What a tower computes; also the means over towers, and over those of all workers."""

    scalars: dict[str, tf.Tensor]  # float32 [] each: LOSS, and what the task adds
    updates: dict[str, tf.Tensor]  # float32, by variable: what the model makes of it, see `updates.py`
    gradients: list[tf.Tensor]  # of each trainable variable

    def flat(self) -> list[tf.Tensor]:
        return [*self.scalars.values(), *self.updates.values(), *self.gradients]

    def checked(self) -> list[tf.Tensor]:
        """Returns what has to be finite for an update."""
        return [self.scalars[LOSS], *self.updates.values(), *self.gradients]

    def unflatten(self, tensors: list[tf.Tensor]) -> TowerResult:
        first, last = len(self.scalars), len(self.scalars) + len(self.updates)
        return TowerResult(
            dict(zip(self.scalars, tensors[:first], strict=True)),
            dict(zip(self.updates, tensors[first:last], strict=True)),
            tensors[last:],
        )


class Regularization(NamedTuple):
    """Losses that depend on variables alone: float32 [] each."""

    decay: list[tf.Tensor]  # of --weight_decay
    own: list[tf.Tensor]  # of the model's
    weight_decay: float

    def decays(self, variables: Sequence[tf.Variable]) -> list[float]:
        """Lists --weight_decay as it is of each variable."""
        return [self.weight_decay if losses.is_decayed(variable) else 0.0 for variable in variables]

    def add_to(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Adds the gradients of these losses: with those of the model's alone, and of all."""
        plain = whole = list(gradients)
        if self.own:
            plain = whole = _add_gradients(plain, self.own, variables)
        if self.decay:
            whole = _add_gradients(plain, self.decay, variables)
        return plain, whole


def _add_gradients(
    gradients: Sequence[tf.Tensor], losses: Sequence[tf.Tensor], variables: Sequence[tf.Variable]
) -> list[tf.Tensor]:
    extra = tf.gradients(tf.add_n(losses), variables)
    return [gradient if more is None else gradient + more for gradient, more in zip(gradients, extra, strict=True)]


@dataclasses.dataclass(frozen=True)
class StepPlaces:
    """Where the parts of a step are."""

    towers: list[str]  # a device for each
    parameters: Placement  # of the variables
    caching_device: str | None = None  # gets the weights once a step, for all towers; None: each tower reads them


def variables_by_name() -> dict[str, tf.Variable]:
    return {variable.op.name: variable for variable in [*tf.local_variables(), *tf.global_variables()]}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class TowerBuilder:
    """Builds the towers of one step after another, on the same variables."""

    def __init__(self, config: Config, task: Task, step: tf.Variable, strategy: Strategy, places: StepPlaces) -> None:
        """Takes what the towers of all steps share.

        Args:
          config: of the run.
          task: what is learned.
          step: int64 [], finished updates.
          strategy: of the workers.
          places: of towers and variables.

        Raises:
          UsageError: --reduce is not for these devices.
        """
        self._config, self._task, self._step, self._strategy, self._places = config, task, step, strategy, places
        self._freeze = freezing.freezing_getter(config.trainable_scopes, config.freeze_scopes)
        self._staging = Staging()
        self._staged = should_stage(config.staging, config.input, places.towers)
        self.first: ModelOutput | None = None  # of the first tower of the first step
        self.untrained: set[str] = set()  # variables that no gradient reaches
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
        means = self._make_tower_means()
        with tf.name_scope("split_batch"):
            shards = {name: tf.split(batch[name], len(devices)) for name in self._task.features}

        def build_tower(index: int) -> TowerResult:
            if self.replicas:
                self.replicas.tower = index
            mine = [shard[index] for shard in shards.values()]
            if self._staged:
                mine = self._staging.put_and_take(mine, index)
            cross_mean = means.of_tower() if means else None
            return self._build_pieces(dict(zip(shards, mine, strict=True)), index, loss_scale, cross_mean)

        with (
            tf.variable_scope("", custom_getter=self.replicas.get if self.replicas else None),
            tf.variable_scope("", custom_getter=self._freeze, caching_device=self._places.caching_device),
        ):
            towers = for_each_tower(devices, None if self.replicas else self._places.parameters, build_tower)
        if means and not means.check():
            raise UsageError(
                f"--batch_norm=sync: {self._config.model} trains no trainer.models.layers.batch_norm: leave it out"
            )
        return towers

    def _make_tower_means(self) -> TowerMeans | None:
        """Makes the means over towers of this step, which --batch_norm=sync takes."""
        if self._config.batch_norm != "sync":
            return None
        return TowerMeans(keys_of_graph(), len(self._places.towers) * self._strategy.workers.count)

    def build_regularization(self, replica: Sequence[tf.Variable]) -> Regularization:
        """Builds --weight_decay, and what the model has collected of losses that depend on variables alone.

        Such a loss of a model belongs to its first building, and would stay what it was in a loop over steps.

        Args:
          replica: the trainable variables, or those of a tower that has its own.
        """
        weight_decay = self._task.weight_decay
        built = []
        own = {
            variable.handle.name: mine.handle for variable, mine in zip(tf.trainable_variables(), replica, strict=True)
        }
        for loss in self.first.regularization if self.first else ():
            operations = {op for op in ancestors([loss]) if op.type != "VarHandleOp"}
            built.append(copy_of(loss, operations, instead=own, name="regularization"))
        return Regularization(losses.l2_losses(replica, weight_decay) if weight_decay else [], built, weight_decay)

    def notes(self) -> list[str]:
        """Says what the user should know about the model."""
        name, notes = self._config.model, []
        if self.first and self.first.draws:
            notes.append(
                f"{name} draws random numbers by {_some(self.first.draws)}, which no run repeats: a resumed one goes "
                "on with others; trainer.models.layers.dropout and tf.random.stateless_* repeat theirs"
            )
        if self.first and self.first.idle:
            notes.append(
                f"{name} makes updates of {_some(self.first.idle)} that nobody runs: put them into the collection "
                "UPDATE_OPS, or behind a control dependency of the logits"
            )
        if self.untrained:
            notes.append(f"no gradient reaches {_some(sorted(self.untrained))}, which keep their initial values")
        return notes

    def take_puts(self) -> list[tf.Operation]:
        """Returns what stages the next batch of the step that has been built last; nothing where none is staged."""
        return self._staging.take_puts()

    def _build_pieces(
        self, features: Features, index: int, loss_scale: LossScale | None, cross_mean: CrossMean | None
    ) -> TowerResult:
        """Builds a tower, --accumulate times on a piece of its shard, one after the other; returns the mean."""
        count, total = self._config.accumulate, None
        if count == 1:
            return self._build_one(features, index, loss_scale, cross_mean)
        pieces = {name: tf.split(shard, count) for name, shard in features.items()}
        for number in range(count):
            piece = {name: shards[number] for name, shards in pieces.items()}
            with tf.name_scope(f"piece_{number}"):
                if total is not None:
                    # Only then: what the piece before has kept for its gradients is free.
                    with tf.control_dependencies(total.flat()):
                        piece = {name: tf.identity(tensor) for name, tensor in piece.items()}
                found = self._build_one(piece, index * count + number, loss_scale, cross_mean)
                parts = [tensor * (1 / count) for tensor in found.flat()]
                sums = parts if total is None else [a + b for a, b in zip(total.flat(), parts, strict=True)]
                total = found.unflatten(sums)
        assert total is not None
        return total

    def _build_one(
        self, features: Features, piece: int, loss_scale: LossScale | None, cross_mean: CrossMean | None
    ) -> TowerResult:
        """Builds the model, its loss and gradients on a piece of the batch; `piece` counts over all towers."""
        task, config, index = self._task, self._config, piece // self._config.accumulate
        # Each piece drops other units: its masks depend on its number too.
        num_pieces = len(self._places.towers) * config.accumulate
        number = self._strategy.workers.index * num_pieces + piece
        draw = self._step.read_value() * (num_pieces * self._strategy.workers.count) + number
        data_format = layers.layout(config.data_format, self._places.towers[index])
        built = task.build(features, training=True, data_format=data_format, draw=draw, cross_mean=cross_mean)
        if self.first is None:
            self.first = built
            self._check(built)
        loss = tf.add_n([tf.reduce_mean(task.loss(built, features)), *built.losses])
        scaled = loss_scale.multiply(loss) if loss_scale else loss
        variables = tf.trainable_variables()
        mine = self.replicas.of_tower(variables, index) if self.replicas else variables
        try:
            found = tf.gradients(scaled, mine)
        except LookupError as error:
            raise UsageError(
                f"{config.model}: {reason(error)}; give it one by @tf.RegisterGradient, or by tf.custom_gradient"
            ) from error
        gradients = [self._dense(*pair) for pair in zip(found, mine, strict=True)]
        scalars = {LOSS: loss, **task.scalars(built.logits, features)}
        return TowerResult(scalars, self._updates_of(built), gradients)

    def _updates_of(self, built: ModelOutput) -> dict[str, tf.Tensor]:
        scopes = self._config.trainable_scopes, self._config.freeze_scopes
        wanted = {name: value for name, value in built.updates.items() if not freezing.is_frozen(name, *scopes)}
        return updates.as_floats(wanted, variables_by_name(), as_differences=self._strategy.is_asynchronous)

    def _dense(self, gradient: tf.Tensor | tf.IndexedSlices | None, variable: tf.Variable) -> tf.Tensor:
        """Makes a gradient a tensor of the variable's shape."""
        if gradient is None:
            self.untrained.add(self.replicas.name_of(variable) if self.replicas else variable.op.name)
            return tf.zeros(variable.shape, variable.dtype.base_dtype)
        return tf.convert_to_tensor(gradient)

    def _check(self, built: ModelOutput) -> None:
        """Looks at the model of the first tower.

        Raises:
          UsageError: there is nothing to train, or it cannot be repeated.
        """
        if built.draws and self._config.deterministic:
            raise UsageError(
                f"--deterministic: {self._config.model} draws random numbers by {', '.join(built.draws[:5])}, which no "
                "run repeats; trainer.models.layers.dropout draws the same in each, tf.random.stateless_* too"
            )
        if built.own_statistics and self._config.batch_norm == "sync":
            raise UsageError(
                f"--batch_norm=sync: {self._config.model} normalizes by {_some(built.own_statistics)}, whose "
                "statistics are those of a tower: use trainer.models.layers.batch_norm"
            )
        names = [variable.op.name for variable in tf.get_collection(tf.GraphKeys.MODEL_VARIABLES)]
        if not tf.trainable_variables() and not (self._config.trainable_scopes or self._config.freeze_scopes):
            raise UsageError(f"{self._config.model} makes no variable that can be trained")
        freezing.check_scopes(names, self._config.trainable_scopes, self._config.freeze_scopes)
