"""One training step: towers, averaged and clipped gradients, and the update that happens if all of it is finite."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainer import grammars
from trainer.graph.learning_rate import LearningRate
from trainer.graph.tower import LOSS, StepPlaces, TowerBuilder, TowerResult, variables_by_name
from trainer.graph.update import TO_ZERO, Counters, Gradients, Proposed, Updater
from trainer.inputs.batch import Features
from trainer.learning import finiteness, loss_scaling
from trainer.learning.task import Task
from trainer.learning.updates import build_updates
from trainer.placing.devices import Placement
from trainer.placing.ps_exchange import ps_device
from trainer.placing.reductions import average_gradients, tower_mean
from trainer.placing.replicas import all_reduce_towers
from trainer.placing.strategy import Strategy, Votes
from trainer.settings.config import Config
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf


class Checked(NamedTuple):
    """Names of what a step looks at, for NaN and infinity."""

    rows: list[str]  # the towers, the mean
    columns: list[str]  # the loss, updates, gradients
    outlier: str | None = None  # what the column behind these says, where outliers are not applied


class Step(NamedTuple):
    """The tensors of one step."""

    scalars: dict[
        str, tf.Tensor
    ]  # float32 [] each: LOSS with the regularization, and what the task adds; means over towers
    gradients: list[tf.Tensor]  # of each trainable variable, mean over towers, before clipping
    learning_rate: tf.Tensor  # float32 [], of this update
    not_finite: tf.Tensor  # int64 [n, 2], row and column in `checked` of what forbade the update; after the update
    checked: Checked
    stage_first: list[tf.Operation]  # to run once, before the first step; empty: batches are not staged
    votes: Votes | None  # of the workers of a cluster
    loss_scale: tf.Tensor | None = None  # float32 [], of float16
    staleness: tf.Tensor | None = None  # float32 [], updates of others between the reading of the weights and this one

    @property
    def loss(self) -> tf.Tensor:
        return self.scalars[LOSS]


class Replica(NamedTuple):
    """The trainable variables, those that checkpoints hold or those of another tower."""

    device: Placement  # of what is computed for them
    variables: list[tf.Variable]


class Mean(NamedTuple):
    """The means over all towers and workers."""

    result: TowerResult  # with the regularization
    gradients: Gradients


class StepBuilder:
    """Builds steps on the same variables: the first makes weights, optimizer slots and averages, others share them."""

    def __init__(
        self,
        config: Config,
        task: Task,
        counters: Counters,
        strategy: Strategy,
        *,
        places: StepPlaces,
        train_steps: int,
        steps_per_epoch: float,
        steps_ahead: int = 0,
        code: UserCode | None = None,
        update_operation: Any = None,
    ) -> None:
        """Takes what all steps share.

        Args:
          config: of the run.
          task: what is learned.
          counters: from `build_counters`.
          strategy: of the workers.
          places: of the towers and variables.
          train_steps: the last step, where a cosine decay ends.
          steps_per_epoch: turns epochs into steps.
          steps_ahead: of the schedule, where earlier steps had batches of another size.
          code: loads an optimizer of the user's; None: from where its name says.
          update_operation: module of `ops.update`; None: TensorFlow's operations update.
        """
        self._config, self._counters, self._strategy, self._places = config, counters, strategy, places
        self._bucket_bytes = int(max(0.0, config.bucket_mb) * 1e6)
        self._towers = TowerBuilder(config, task, counters.step, strategy, places)
        self.replicas = self._towers.replicas
        self._rate: tf.Tensor | None = None  # of the step that is being built
        with tf.device(places.parameters):
            self._loss_scale = loss_scaling.LossScale() if config.precision == "float16" else None
        self._updater = Updater(
            config, counters, lambda: self._rate, self._loss_scale, code or UserCode(), update_operation
        )
        self.averages = self._updater.averages
        self._learning_rate = LearningRate(
            config,
            counters.step,
            strategy,
            parameter_device=places.parameters,
            train_steps=train_steps,
            steps_per_epoch=steps_per_epoch,
            steps_ahead=steps_ahead,
        )
        self.plateau = self._learning_rate.plateau
        self.notes = self._towers.notes

    def build(self, batch: Features) -> Step:
        """Builds a step on a batch."""
        towers = self._towers.build(batch, self._loss_scale)
        with tf.device(self._places.parameters):
            if self._strategy.applies_updates:
                return self._build_updating(towers)
            return self._build_handing_over(towers)

    def _build_updating(self, towers: list[TowerResult]) -> Step:
        """Builds the step of a worker that updates the variables."""
        variables, strategy = tf.trainable_variables(), self._strategy
        read_step = self._counters.step.read_value()
        replicas = self._replicas_of(variables)
        means = self._reduce(towers, replicas)
        self._rate = self._learning_rate.build(means[0].result.scalars)
        mean, puts = means[0].result, self._towers.take_puts()
        # One tower is its own mean.
        several = len(towers) * strategy.workers.count > 1
        rows = [tower.checked() for tower in towers if several]
        not_finite = self._updater.build(
            Proposed(
                towers=rows,
                first=[mean.scalars[LOSS], *mean.updates.values()],
                replicas=[each.gradients for each in means],
                before=puts,
                of_model=lambda: self._build_updates(mean.updates),
                updated=list(mean.updates),
            )
        )
        if self.replicas:
            self.replicas.keep_out_of_checkpoints()
        loss_scale = self._loss_scale.scale.read_value() if self._loss_scale else None
        not_finite = strategy.publish(mean.scalars[LOSS], not_finite, self._counters.position)
        return Step(
            scalars=mean.scalars,
            gradients=mean.gradients,
            learning_rate=self._rate,
            not_finite=not_finite,
            checked=self._names_of(len(rows) + 1, towers[0], strategy.workers.index * len(towers)),
            stage_first=puts,
            votes=strategy.votes,
            loss_scale=loss_scale,
            staleness=self._build_staleness(read_step, not_finite) if strategy.is_asynchronous else None,
        )

    def _build_staleness(self, read_step: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([after]):
            others = self._counters.step.read_value() - read_step - 1
        return tf.cast(tf.maximum(others, 0), tf.float32)

    def _build_handing_over(self, towers: list[TowerResult]) -> Step:
        """Builds the step of a worker whose gradients the chief applies."""
        variables, mean = tf.trainable_variables(), self._mean_of_towers(towers)
        puts = self._towers.take_puts()
        with tf.control_dependencies(puts):
            loss, not_finite = self._strategy.hand_over(
                mean.flat(), self._devices_of_means(mean, variables), batch_size=self._config.batch_size
            )
        return Step(
            scalars={**mean.scalars, LOSS: loss},
            gradients=mean.gradients,
            learning_rate=self._learning_rate.build(mean.scalars),
            not_finite=not_finite,
            # What the chief looks at are its own towers, and the mean.
            checked=self._names_of(len(towers) + 1, mean, 0),
            stage_first=puts,
            votes=self._strategy.votes,
        )

    def _names_of(self, num_rows: int, tower: TowerResult, first_tower: int) -> Checked:
        columns = ["the loss", *(f"the update of {name}" for name in tower.updates)]
        columns += [f"the gradient of {variable.op.name}" for variable in tf.trainable_variables()]
        kind, maximum = grammars.parse_clip(self._config.clip)
        outlier = f"the norm of all gradients is above {maximum:g}" if kind == TO_ZERO else None
        return Checked(finiteness.names_of_rows(num_rows, first_tower), columns, outlier)

    def _build_updates(self, means: dict[str, tf.Tensor]) -> list[tf.Operation]:
        replicas = self.replicas

        def everywhere(variable: tf.Variable) -> list[tf.Variable]:
            if replicas is None:
                return [variable]
            return [replicas.of_tower([variable], tower)[0] for tower in range(len(self._places.towers))]

        return build_updates(means, variables_by_name(), everywhere, as_differences=self._strategy.is_asynchronous)

    def _mean_of_towers(self, towers: list[TowerResult]) -> TowerResult:
        with tf.name_scope("loss"):
            scalars = {name: tower_mean([tower.scalars[name] for tower in towers]) for name in towers[0].scalars}
        with tf.name_scope("updates"):
            updates = {name: tower_mean([tower.updates[name] for tower in towers]) for name in towers[0].updates}
        scalars |= self._learning_rate.scalars()
        if self.replicas:
            return TowerResult(scalars, updates, [])  # The gradients' means are not in one place.
        gradients = average_gradients(
            [tower.gradients for tower in towers],
            self._places.parameters,
            tower_devices=self._places.towers,
            bucket_bytes=self._bucket_bytes,
        )
        return TowerResult(scalars, updates, gradients)

    def _devices_of_means(self, mean: TowerResult, variables: list[tf.Variable]) -> list[str]:
        """Names the devices of the means of scalars, updates and gradients, where there are parameter servers."""
        updated = variables_by_name() if mean.updates else {}
        devices = [*(ps_device(0) for _ in mean.scalars), *(updated[name].device for name in mean.updates)]
        return [*devices, *(variable.device for variable in variables)]

    def _replicas_of(self, variables: list[tf.Variable]) -> list[Replica]:
        replicas = self.replicas
        if replicas is None:
            return [Replica(self._places.parameters, variables)]
        towers = enumerate(self._places.towers)
        return [Replica(device, replicas.of_tower(variables, tower)) for tower, device in towers]

    def _reduce(self, towers: list[TowerResult], replicas: list[Replica]) -> list[Mean]:
        """Averages over the towers, then over the workers, for each replica; adds the regularization."""
        mean = self._mean_of_towers(towers)
        devices = self._devices_of_means(mean, replicas[0].variables)
        mean = mean.unflatten(self._strategy.average(mean.flat(), devices))
        every = [mean.gradients]
        if self.replicas:
            every = all_reduce_towers(
                [tower.gradients for tower in towers],
                self._places.towers,
                how=self._config.reduce,
                parameter_device=self._places.parameters,
                bucket_bytes=self._bucket_bytes,
            )
        pairs = zip(every, replicas, strict=True)
        return [self._regularized(mean._replace(gradients=gradients), replica) for gradients, replica in pairs]

    def _regularized(self, mean: TowerResult, replica: Replica) -> Mean:
        """Takes the loss scale out, and adds the regularization, which is the same on all workers, once."""
        gradients = mean.gradients
        with tf.device(replica.device):
            if self._loss_scale:
                with tf.name_scope("loss_scale"):
                    gradients = self._loss_scale.divide(gradients)
            with tf.name_scope("regularization"):
                regularization = self._towers.build_regularization(replica.variables)
                plain, whole = regularization.add_to(gradients, replica.variables)
                scalars = dict(mean.scalars)
                if losses := [*regularization.own, *regularization.decay]:
                    scalars[LOSS] = scalars[LOSS] + tf.add_n(losses)
        decays = regularization.decays(replica.variables)
        return Mean(
            mean._replace(scalars=scalars, gradients=whole),
            Gradients(replica.device, replica.variables, whole, plain, decays),
        )
