"""One training step: towers, averaged and clipped gradients, and the update that happens if all of it is finite."""

from __future__ import annotations

from typing import NamedTuple

from trainer import grammars
from trainer.config import Config
from trainer.inputs.batch import Batch
from trainer.learning import (
    clipping,
    finiteness,
    freezing,
    loss_scaling,
    losses,
    metrics,
    schedules,
)
from trainer.models import layers
from trainer.models.inference import channels_first, inference
from trainer.placing.devices import Placement
from trainer.placing.parameter_servers import GradientQueues, OwnUpdates, ps_device
from trainer.placing.reductions import average_gradients, tower_mean
from trainer.placing.replicas import Replicas, all_reduce_towers, check_reduce
from trainer.placing.staging import Staging, should_stage
from trainer.placing.strategies import AllReduce, Wishes, Workers
from trainer.placing.towers import for_each_tower
from trainer.tf1 import tf
from trainer.update import Counters, Updater

Exchange = AllReduce | GradientQueues | OwnUpdates  # what workers have to do with each other in a step


class Step(NamedTuple):
    """The tensors of one step."""

    loss: tf.Tensor  # float32 [], cross entropy, mean over towers, plus regularization
    accuracy: tf.Tensor  # float32 [], mean over towers
    learning_rate: tf.Tensor  # float32 [], of this update
    gradients: list[tf.Tensor]  # of each trainable variable, mean over towers, before clipping
    loss_scale: tf.Tensor | None  # float32 [], of float16
    not_finite: tf.Tensor  # int64 [n, 2], row and column in `checked` of what forbade the update; after the update
    stage_first: list[tf.Operation]  # to run once, before the first step; empty: batches are not staged
    checked: tuple[list[str], list[str]]  # names of the rows (towers, mean) and columns (loss, gradients)
    wishes: Wishes | None  # of the workers of a cluster
    staleness: tf.Tensor | None = None  # float32 [], updates of others between the reading of the weights and this one


class TowerResult(NamedTuple):
    loss: tf.Tensor
    accuracy: tf.Tensor
    gradients: list[tf.Tensor]


class Copy(NamedTuple):
    """The trainable variables, or a copy of them."""

    device: Placement  # of what is computed for them
    variables: list[tf.Variable]


class Mean(NamedTuple):
    """Means over all towers of all workers."""

    loss: tf.Tensor
    accuracy: tf.Tensor
    gradients: list[tf.Tensor]


class StepBuilder:
    """Builds steps on the same variables: the first makes weights, optimizer slots and averages, others share them."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        *,
        num_classes: int,
        tower_devices: list[str],
        parameter_device: Placement,
        train_steps: int,
        steps_per_epoch: float,
        exchange: Exchange | None = None,
        caching_device: str | None = None,
    ) -> None:
        """Takes what all steps share.

        Args:
          config: of the run.
          counters: from `build_counters`.
          num_classes: width of the logits.
          tower_devices: one for each tower.
          parameter_device: of the variables.
          train_steps: the last step, where a cosine decay ends.
          steps_per_epoch: turns epochs into steps.
          exchange: of the workers of a cluster; None: there is one.
          caching_device: to which the weights are copied once a step, for all towers; None: each tower reads them.
        """
        self._exchange = exchange
        self._workers = exchange.workers if exchange else Workers()
        self._caching_device = caching_device
        self._config = config
        self._counters = counters
        self._num_classes = num_classes
        self._tower_devices = tower_devices
        self._parameter_device = parameter_device
        self._bucket_bytes = int(max(0.0, config.bucket_mb) * 1e6)
        self._train_steps = train_steps
        self._steps_per_epoch = steps_per_epoch
        self._regularizer = losses.L2(config.weight_decay)
        self._freeze = freezing.freezing_getter(config.trainable_scopes, config.freeze_scopes)
        self._rate: tf.Tensor | None = None  # of the step that is being built
        self.replicas: Replicas | None = None
        if config.strategy == "replicated":
            check_reduce(config.reduce, tower_devices)
            self.replicas = Replicas(len(tower_devices))
        self._staging = Staging()
        self._staged = should_stage(config.staging, config.input, tower_devices)
        with tf.device(parameter_device):
            self._loss_scale = loss_scaling.LossScale() if config.precision == "float16" else None
        self._updater = Updater(config, counters, lambda: self._rate, self._loss_scale)
        self.averages = self._updater.averages

    def build(self, batch: Batch) -> Step:
        """Builds a step on a batch."""
        exchange = self._exchange
        with (
            tf.variable_scope("", custom_getter=self.replicas.get if self.replicas else None),
            tf.variable_scope(
                "", regularizer=self._regularizer, custom_getter=self._freeze, caching_device=self._caching_device
            ),
        ):
            towers = self._build_towers(batch)
        variables = tf.trainable_variables()
        with tf.device(self._parameter_device):
            if isinstance(exchange, GradientQueues) and not exchange.leads:
                return self._follow(exchange, towers, variables)
            read_step = self._counters.step.read_value()
            copies = self._copies(variables)
            means = self._reduce(towers, copies)
            loss, accuracy, gradients = means[0]
            clip = grammars.parse_clip(self._config.clip)
            clipped = []
            for mean, copy in zip(means, copies, strict=True):
                with tf.device(copy.device), tf.name_scope("clip"):
                    clipped.append(clipping.clip_gradients(mean.gradients, *clip))
            self._rate = self._build_rate()
            # Clipping by value would make a number of infinity; a norm that overflows makes NaN of numbers.
            last = [loss, *(gradients if clip[0] == "value" else clipped[0])]
            # One tower is its own mean.
            several = len(towers) * self._workers.count > 1
            rows = [*([tower.loss, *tower.gradients] for tower in towers if several), last]
            puts = self._staging.take_puts()
            every = [variable for copy in copies for variable in copy.variables]
            flat = [gradient for mine in clipped for gradient in mine]
            pairs = list(zip(flat, every, strict=True))
            not_finite = self._updater.build(rows, pairs, [*puts, *(gradient.op for gradient in flat)])
            if self.replicas:
                self.replicas.keep_out_of_checkpoints()
            loss_scale = self._loss_scale.scale.read_value() if self._loss_scale else None
            staleness = None
            if isinstance(exchange, GradientQueues):
                not_finite = exchange.answer(loss, not_finite, self._counters.position)
            elif isinstance(exchange, OwnUpdates):
                not_finite = exchange.finish(not_finite)
                staleness = self._build_staleness(read_step, not_finite)
        names = finiteness.names_of_rows(rows, variables, self._workers.index * len(towers))
        wishes = exchange.wishes if exchange else None
        return Step(loss, accuracy, self._rate, gradients, loss_scale, not_finite, puts, names, wishes, staleness)

    def _build_staleness(self, read_step: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([after]):
            others = self._counters.step.read_value() - read_step - 1
        return tf.cast(tf.maximum(others, 0), tf.float32)

    def _follow(self, exchange: GradientQueues, towers: list[TowerResult], variables: list[tf.Variable]) -> Step:
        """Builds the step of a worker whose gradients the chief applies."""
        mean = self._mean_of_towers(towers)
        devices = self._devices_of_means(variables)
        tensors = [mean.loss, mean.accuracy, *mean.gradients]
        puts = self._staging.take_puts()
        with tf.control_dependencies(puts):
            loss, not_finite = exchange.follow(tensors, devices, batch_size=self._config.batch_size)
        # What the chief looks at are its own towers, and the mean.
        rows = [[tower.loss, *tower.gradients] for tower in towers] + [tensors]
        names = finiteness.names_of_rows(rows, variables, 0)
        rate = self._build_rate()
        return Step(loss, mean.accuracy, rate, mean.gradients, None, not_finite, puts, names, exchange.wishes)

    def _build_towers(self, batch: Batch) -> list[TowerResult]:
        config, devices = self._config, self._tower_devices
        with tf.name_scope("split_batch"):
            images, labels = tf.split(batch.images, len(devices)), tf.split(batch.labels, len(devices))

        def build(index: int) -> TowerResult:
            if self.replicas:
                self.replicas.tower = index
            mine = [images[index], labels[index]]
            if self._staged:
                mine = self._staging.pass_on(mine, index)
            # Each tower drops other units: its masks depend on its number too.
            number = self._workers.index * len(devices) + index
            draw = self._counters.step.read_value() * (len(devices) * self._workers.count) + number
            logits = inference(
                mine[0],
                model=config.model,
                num_classes=self._num_classes,
                hidden_sizes=config.hidden_sizes,
                precision=config.precision,
                channels_first=channels_first(config.data_format, devices[index]),
                input_dropout=config.input_dropout,
                hidden_dropout=config.dropout,
                dropout=layers.make_dropout(config.seed, draw),
            )
            self._check_scopes()
            loss = losses.cross_entropy(logits, mine[1])
            scaled = self._loss_scale.multiply(loss) if self._loss_scale else loss
            variables = tf.trainable_variables()
            gradients = tf.gradients(scaled, self.replicas.copies_of(variables, index) if self.replicas else variables)
            return TowerResult(loss, metrics.accuracy(logits, mine[1]), gradients)

        return for_each_tower(devices, None if self.replicas else self._parameter_device, build)

    def _check_scopes(self) -> None:
        names = [variable.op.name for variable in tf.get_collection(tf.GraphKeys.MODEL_VARIABLES)]
        freezing.check_scopes(names, self._config.trainable_scopes, self._config.freeze_scopes)

    def _mean_of_towers(self, towers: list[TowerResult]) -> Mean:
        with tf.name_scope("loss"):
            loss = tower_mean([tower.loss for tower in towers])
        accuracy = tower_mean([tower.accuracy for tower in towers])
        if self.replicas:
            return Mean(loss, accuracy, [])  # Those of the gradients are not in one place.
        every, devices = [tower.gradients for tower in towers], self._tower_devices
        gradients = average_gradients(
            every, self._parameter_device, tower_devices=devices, bucket_bytes=self._bucket_bytes
        )
        return Mean(loss, accuracy, gradients)

    def _devices_of_means(self, variables: list[tf.Variable]) -> list[str]:
        """Names the devices of the means of loss, accuracy and gradients, where there are parameter servers."""
        return [ps_device(0), ps_device(0), *(variable.device for variable in variables)]

    def _copies(self, variables: list[tf.Variable]) -> list[Copy]:
        replicas, devices = self.replicas, enumerate(self._tower_devices)
        if replicas is None:
            return [Copy(self._parameter_device, variables)]
        return [Copy(device, replicas.copies_of(variables, tower)) for tower, device in devices]

    def _reduce(self, towers: list[TowerResult], copies: list[Copy]) -> list[Mean]:
        """Means over the towers, then over the workers, for each copy of the variables; adds the regularization."""
        mean = self._mean_of_towers(towers)
        loss, accuracy, gradients = mean
        if isinstance(self._exchange, AllReduce | GradientQueues):
            tensors = [loss, accuracy, *gradients]
            means = self._exchange.mean_with_wishes(tensors, self._devices_of_means(copies[0].variables))
            loss, accuracy, gradients = means[0], means[1], means[2:]
        every = [gradients]
        if self.replicas:
            every = all_reduce_towers(
                [tower.gradients for tower in towers],
                self._tower_devices,
                how=self._config.reduce,
                parameter_device=self._parameter_device,
                bucket_bytes=self._bucket_bytes,
            )
        pairs = zip(every, copies, strict=True)
        return [self._regularized(Mean(loss, accuracy, gradients), copy) for gradients, copy in pairs]

    def _regularized(self, mean: Mean, copy: Copy) -> Mean:
        """Takes the loss scale out, and adds the regularization, which is the same on all workers, once."""
        loss, accuracy, gradients = mean
        with tf.device(copy.device):
            if self._loss_scale:
                with tf.name_scope("loss_scale"):
                    gradients = self._loss_scale.divide(gradients)
            with tf.name_scope("regularization"):
                names = [variable.op.name for variable in tf.trainable_variables()]
                regularization = self._regularizer.loss(dict(zip(names, copy.variables, strict=True)))
                if regularization is None:
                    return Mean(loss, accuracy, gradients)
                extra = tf.gradients(regularization, copy.variables)
                both = zip(gradients, extra, strict=True)
                gradients = [gradient if more is None else gradient + more for gradient, more in both]
                return Mean(loss + regularization, accuracy, gradients)

    def _build_rate(self) -> tf.Tensor:
        config = self._config
        with tf.name_scope("learning_rate"):
            return schedules.build_learning_rate(
                self._counters.step,
                base=config.learning_rate,
                decay=grammars.parse_decay(config.decay),
                warmup_steps=grammars.parse_period("warmup", config.warmup).to_steps(self._steps_per_epoch),
                train_steps=self._train_steps,
                steps_per_epoch=self._steps_per_epoch,
            )
