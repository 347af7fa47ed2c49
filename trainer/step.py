"""One training step: towers, averaged and clipped gradients, and the update that happens if all of it is finite."""

from __future__ import annotations

from typing import NamedTuple

from trainer import grammars
from trainer.config import Config
from trainer.inputs.batch import Batch
from trainer.learning import (
    averages,
    clipping,
    finiteness,
    freezing,
    loss_scaling,
    losses,
    metrics,
    optimizers,
    schedules,
)
from trainer.models import layers
from trainer.models.inference import channels_first, inference
from trainer.placing.reductions import average_gradients, tower_mean
from trainer.placing.staging import Staging, should_stage
from trainer.placing.strategies import AllReduce, Wishes, Workers
from trainer.placing.towers import for_each_tower
from trainer.tf1 import tf


class Counters(NamedTuple):
    """What a checkpoint says of progress."""

    step: tf.Variable  # int64 [], finished updates
    position: tf.Variable  # int64 [], examples that they and the skipped steps consumed
    skipped: tf.Variable  # int64 [], steps that were not finite and not applied


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


class TowerResult(NamedTuple):
    loss: tf.Tensor
    accuracy: tf.Tensor
    gradients: list[tf.Tensor]


class Mean(NamedTuple):
    """Means over all towers of all workers."""

    loss: tf.Tensor
    accuracy: tf.Tensor
    gradients: list[tf.Tensor]


def build_counters() -> Counters:
    step = tf.train.get_or_create_global_step()
    position, skipped = (
        tf.get_variable(name, [], tf.int64, tf.zeros_initializer(), trainable=False, regularizer=tf.no_regularizer)
        for name in ("position", "skipped_steps")
    )
    return Counters(step, position, skipped)


class StepBuilder:
    """Builds steps on the same variables: the first makes weights, optimizer slots and averages, others share them."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        *,
        num_classes: int,
        tower_devices: list[str],
        parameter_device: str,
        train_steps: int,
        steps_per_epoch: float,
        all_reduce: AllReduce | None = None,
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
          all_reduce: means over workers; None: there is one.
        """
        self._all_reduce = all_reduce
        self._workers = all_reduce.workers if all_reduce else Workers()
        self._config = config
        self._counters = counters
        self._num_classes = num_classes
        self._tower_devices = tower_devices
        self._parameter_device = parameter_device
        self._train_steps = train_steps
        self._steps_per_epoch = steps_per_epoch
        self._regularizer = losses.L2(config.weight_decay)
        self._freeze = freezing.freezing_getter(config.trainable_scopes, config.freeze_scopes)
        self._rate: tf.Tensor | None = None  # of the step that is being built
        self._optimizer = optimizers.make_optimizer(
            config.optimizer, lambda: self._rate, momentum=config.momentum, rmsprop_decay=config.rmsprop_decay
        )
        self.averages = averages.make_averages(config.ema_decay, counters.step)
        self._staging = Staging()
        self._staged = should_stage(config.staging, config.input, tower_devices)
        self._loss_scale: loss_scaling.LossScale | None = None
        if config.precision == "float16":
            with tf.device(parameter_device):
                self._loss_scale = loss_scaling.LossScale()

    def build(self, batch: Batch) -> Step:
        """Builds a step on a batch."""
        with tf.variable_scope("", regularizer=self._regularizer, custom_getter=self._freeze):
            towers = self._build_towers(batch)
        variables = tf.trainable_variables()
        with tf.device(self._parameter_device):
            loss, accuracy, gradients = self._reduce(towers, variables)
            clip = grammars.parse_clip(self._config.clip)
            with tf.name_scope("clip"):
                clipped = clipping.clip_gradients(gradients, *clip)
            self._rate = self._build_rate()
            # Clipping by value would make a number of infinity; a norm that overflows makes NaN of numbers.
            last = [loss, *(gradients if clip[0] == "value" else clipped)]
            # One tower is its own mean.
            several = len(towers) * self._workers.count > 1
            rows = [*([tower.loss, *tower.gradients] for tower in towers if several), last]
            puts = self._staging.take_puts()
            not_finite = self._build_update(rows, list(zip(clipped, variables, strict=True)), puts)
            loss_scale = self._loss_scale.scale.read_value() if self._loss_scale else None
        names = _checked_names(rows, variables, self._workers.index * len(towers))
        wishes = self._all_reduce.wishes if self._all_reduce else None
        return Step(loss, accuracy, self._rate, gradients, loss_scale, not_finite, puts, names, wishes)

    def _build_towers(self, batch: Batch) -> list[TowerResult]:
        config, devices = self._config, self._tower_devices
        with tf.name_scope("split_batch"):
            images, labels = tf.split(batch.images, len(devices)), tf.split(batch.labels, len(devices))

        def build(index: int) -> TowerResult:
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
            gradients = tf.gradients(scaled, tf.trainable_variables())
            return TowerResult(loss, metrics.accuracy(logits, mine[1]), gradients)

        return for_each_tower(devices, self._parameter_device, build)

    def _check_scopes(self) -> None:
        names = [variable.op.name for variable in tf.get_collection(tf.GraphKeys.MODEL_VARIABLES)]
        freezing.check_scopes(names, self._config.trainable_scopes, self._config.freeze_scopes)

    def _reduce(self, towers: list[TowerResult], variables: list[tf.Variable]) -> Mean:
        """Means over the towers, then over the workers; adds the regularization, which is the same in all, once."""
        with tf.name_scope("loss"):
            loss = tower_mean([tower.loss for tower in towers])
        accuracy = tower_mean([tower.accuracy for tower in towers])
        gradients = average_gradients(
            [tower.gradients for tower in towers],
            self._parameter_device,
            tower_devices=self._tower_devices,
            bucket_bytes=int(max(0.0, self._config.bucket_mb) * 1e6),
        )
        if self._all_reduce:
            loss, accuracy, *gradients = self._all_reduce.mean_with_wishes([loss, accuracy, *gradients])
        if self._loss_scale:
            with tf.name_scope("loss_scale"):
                gradients = self._loss_scale.divide(gradients)
        with tf.name_scope("regularization"):
            regularization = self._regularizer.loss()
            if regularization is None:
                return Mean(loss, accuracy, gradients)
            extra = tf.gradients(regularization, variables)
            pairs = zip(gradients, extra, strict=True)
            gradients = [gradient if more is None else gradient + more for gradient, more in pairs]
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

    def _build_update(
        self,
        rows: list[list[tf.Tensor]],
        gradients_and_variables: list[tuple[tf.Tensor, tf.Variable]],
        puts: list[tf.Operation],
    ) -> tf.Tensor:
        """Builds the update that happens if all `rows` are finite; returns what forbade it.

        The next batch is staged before: a step that waits for it in vain has changed nothing.
        """
        config, counters, loss_scale = self._config, self._counters, self._loss_scale

        def update() -> list[tf.Operation]:
            with tf.name_scope("update/"):  # Without the branch's name in those of the optimizer's variables.
                apply_op = self._optimizer.apply_gradients(gradients_and_variables, global_step=counters.step)
            # After the update, because the input may read the position, and the averages read the weights.
            with tf.control_dependencies([apply_op]):
                updates = [counters.position.assign_add(config.batch_size)]
                if self.averages is not None:
                    updates.append(self.averages.apply([variable for _, variable in gradients_and_variables]))
                if loss_scale is not None:
                    updates += loss_scale.after_update()
            return updates

        def refuse(not_finite: tf.Tensor) -> tf.Tensor:
            if config.nonfinite == "stop":
                return tf.identity(not_finite)  # A run that goes on from here sees the same batch again.
            passed = [counters.position.assign_add(config.batch_size), counters.skipped.assign_add(1)]
            return finiteness.after(passed, not_finite)

        def otherwise(not_finite: tf.Tensor) -> tf.Tensor:
            if loss_scale is None:
                return refuse(not_finite)

            def overflow() -> tf.Tensor:
                passed = [counters.position.assign_add(config.batch_size), *loss_scale.after_overflow()]
                return finiteness.after(passed, tf.zeros([0, 2], tf.int64))

            return tf.cond(loss_scale.is_overflow(not_finite), overflow, lambda: refuse(not_finite))

        with tf.name_scope("update"):
            return finiteness.update_if_finite(rows, update=update, otherwise=otherwise, before=puts)


def _checked_names(
    rows: list[list[tf.Tensor]], variables: list[tf.Variable], first_tower: int
) -> tuple[list[str], list[str]]:
    towers = [f"tower {first_tower + index}" for index in range(len(rows) - 1)]
    columns = ["the loss", *(f"the gradient of {variable.op.name}" for variable in variables)]
    return [*towers, "the mean over towers" if towers else "tower 0"], columns
