"""All parts into two graphs' ends: what a training step runs, and what an evaluation runs."""

from __future__ import annotations

from typing import NamedTuple

from trainer import grammars
from trainer.config import Config
from trainer.inputs.batch import Batch, Input, parse_examples
from trainer.learning import averages, clipping, finiteness, losses, metrics, optimizers, schedules
from trainer.models import layers
from trainer.models.inference import inference
from trainer.placing.reductions import average_gradients, tower_mean
from trainer.placing.towers import for_each_tower
from trainer.tf1 import tf

GRID = 4  # images in each direction of the summary's grid


class Counters(NamedTuple):
    """What a checkpoint says of progress."""

    step: tf.Variable  # int64 [], finished updates
    position: tf.Variable  # int64 [], examples that they and the skipped steps consumed
    skipped: tf.Variable  # int64 [], steps that were not finite and not applied


class TrainGraph(NamedTuple):
    train_op: tf.Operation  # one update of everything, or none where the step is not finite
    step: tf.Tensor  # int64 [], read AFTER the update
    loss: tf.Tensor  # float32 [], cross entropy, mean over towers, plus regularization
    not_finite: tf.Tensor  # int64 [n, 2], row and column in `checked` of what forbade the update
    checked: tuple[list[str], list[str]]  # names of the rows (towers, mean) and columns (loss, gradients)
    learning_rate: tf.Tensor  # float32 [], of this update
    scalars: tf.Tensor  # serialized summaries
    histograms: tf.Tensor  # serialized summaries of weights, gradients, and the grid of images
    fill: tf.Tensor | None  # float32 [], fraction of the input queue that holds batches


class EvalGraph(NamedTuple):
    serialized: tf.Tensor  # string [n], placeholder for records
    sums: metrics.Sums


class TowerResult(NamedTuple):
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


def build_train_graph(
    config: Config,
    counters: Counters,
    source: Input,
    *,
    num_classes: int,
    tower_devices: list[str],
    parameter_device: str,
    train_steps: int,
    steps_per_epoch: float,
) -> tuple[TrainGraph, averages.Averages | None]:
    """Builds towers, averaged and clipped gradients, the update, and the summaries.

    Args:
      config: of the run.
      counters: from `build_counters`.
      source: of the batches.
      num_classes: width of the logits.
      tower_devices: one for each tower.
      parameter_device: of the variables.
      train_steps: the last step, where a cosine decay ends.
      steps_per_epoch: turns epochs into steps.
    """
    with tf.variable_scope("", regularizer=losses.l2_regularizer(config.weight_decay)):
        towers = _build_towers(config, counters, source.batch, num_classes, tower_devices, parameter_device)
    variables = tf.trainable_variables()
    with tf.device(parameter_device):
        loss, gradients = _reduce(towers, variables, parameter_device)
        clip = grammars.parse_clip(config.clip)
        with tf.name_scope("clip"):
            clipped = clipping.clip_gradients(gradients, *clip)
        rate = _build_rate(config, counters.step, train_steps, steps_per_epoch)
        # Clipping by value would make a number of infinity; a norm that overflows makes NaN of numbers.
        last = [loss, *(gradients if clip[0] == "value" else clipped)]
        # One tower is its own mean.
        rows = [*([tower.loss, *tower.gradients] for tower in towers if len(towers) > 1), last]
        not_finite, ema = _build_update(config, counters, rate, rows, list(zip(clipped, variables, strict=True)))
        train_op = not_finite.op
        with tf.name_scope("after_update"), tf.control_dependencies([train_op]):
            step = counters.step.read_value()
        scalars = _scalar_summaries(loss, rate, gradients, towers, source.fill)
        histograms = _histogram_summaries(train_op, variables, gradients, source.batch.images)
    checked = _checked_names(rows, variables)
    return TrainGraph(train_op, step, loss, not_finite, checked, rate, scalars, histograms, source.fill), ema


def _build_rate(config: Config, step: tf.Variable, train_steps: int, steps_per_epoch: float) -> tf.Tensor:
    with tf.name_scope("learning_rate"):
        return schedules.build_learning_rate(
            step,
            base=config.learning_rate,
            decay=grammars.parse_decay(config.decay),
            warmup_steps=grammars.parse_period("warmup", config.warmup).to_steps(steps_per_epoch),
            train_steps=train_steps,
            steps_per_epoch=steps_per_epoch,
        )


def _checked_names(rows: list[list[tf.Tensor]], variables: list[tf.Variable]) -> tuple[list[str], list[str]]:
    towers = [f"tower {index}" for index in range(len(rows) - 1)]
    columns = ["the loss", *(f"the gradient of {variable.op.name}" for variable in variables)]
    return [*towers, "the mean over towers" if towers else "tower 0"], columns


def _build_towers(
    config: Config, counters: Counters, batch: Batch, num_classes: int, devices: list[str], parameter_device: str
) -> list[TowerResult]:
    with tf.name_scope("split_batch"):
        images, labels = tf.split(batch.images, len(devices)), tf.split(batch.labels, len(devices))

    def build(index: int) -> TowerResult:
        # Each tower drops other units: its masks depend on its number too.
        draw = counters.step.read_value() * len(devices) + index
        logits = inference(
            images[index],
            model=config.model,
            num_classes=num_classes,
            hidden_sizes=config.hidden_sizes,
            input_dropout=config.input_dropout,
            hidden_dropout=config.dropout,
            dropout=layers.make_dropout(config.seed, draw),
        )
        loss = losses.cross_entropy(logits, labels[index])
        gradients = tf.gradients(loss, tf.trainable_variables())
        return TowerResult(loss, metrics.accuracy(logits, labels[index]), gradients)

    return for_each_tower(devices, parameter_device, build)


def _reduce(
    towers: list[TowerResult], variables: list[tf.Variable], parameter_device: str
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Means losses and gradients over the towers; adds the regularization, which is the same in all, once."""
    with tf.name_scope("loss"):
        loss = tower_mean([tower.loss for tower in towers])
    gradients = average_gradients([tower.gradients for tower in towers], parameter_device)
    regularization = losses.regularization_loss()
    if regularization is None:
        return loss, gradients
    with tf.name_scope("regularization"):
        extra = tf.gradients(regularization, variables)
        pairs = zip(gradients, extra, strict=True)
        return loss + regularization, [gradient if more is None else gradient + more for gradient, more in pairs]


def _build_update(
    config: Config,
    counters: Counters,
    rate: tf.Tensor,
    rows: list[list[tf.Tensor]],
    gradients_and_variables: list[tuple[tf.Tensor, tf.Variable]],
) -> tuple[tf.Tensor, averages.Averages | None]:
    """Builds the update that happens if all `rows` are finite; returns what is not, and the averages of the weights."""
    optimizer = optimizers.make_optimizer(
        config.optimizer, rate, momentum=config.momentum, rmsprop_decay=config.rmsprop_decay
    )
    ema = averages.make_averages(config.ema_decay, counters.step)

    def update() -> list[tf.Operation]:
        with tf.name_scope("update/"):  # Without the branch's name in those of the optimizer's variables.
            apply_op = optimizer.apply_gradients(gradients_and_variables, global_step=counters.step)
        # After the update, because the input may read the position, and the averages read the weights.
        with tf.control_dependencies([apply_op]):
            updates = [counters.position.assign_add(config.batch_size)]
            if ema is not None:
                updates.append(ema.apply([variable for _, variable in gradients_and_variables]))
        return updates

    def otherwise() -> list[tf.Operation]:
        if config.nonfinite == "stop":
            return []  # A run that goes on from here sees the same batch again.
        return [counters.position.assign_add(config.batch_size), counters.skipped.assign_add(1)]

    with tf.name_scope("update"):
        return finiteness.update_if_finite(rows, update=update, otherwise=otherwise), ema


def _scalar_summaries(
    loss: tf.Tensor, rate: tf.Tensor, gradients: list[tf.Tensor], towers: list[TowerResult], fill: tf.Tensor | None
) -> tf.Tensor:
    with tf.name_scope("summaries"):
        values = {
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": tf.global_norm(gradients),
            "accuracy": tower_mean([tower.accuracy for tower in towers]),
        }
        if fill is not None:
            values["queue_fill"] = fill
        # Raw operations, because `tf.summary` makes the name scope a part of the tag.
        return tf.summary.merge([tf.raw_ops.ScalarSummary(tags=tag, values=value) for tag, value in values.items()])


def _histogram_summaries(
    train_op: tf.Operation, variables: list[tf.Variable], gradients: list[tf.Tensor], images: tf.Tensor
) -> tf.Tensor:
    with tf.name_scope("histograms"):
        summaries = [tf.raw_ops.ImageSummary(tag="input", tensor=image_grid(images), max_images=1)]
        for variable, gradient in zip(variables, gradients, strict=True):
            name = variable.op.name
            with tf.control_dependencies([train_op]):  # The weights after the step, as in its checkpoint.
                value = variable.read_value()
            for kind, values in (("weights", value), ("gradients", gradient)):
                finite = finiteness.finite_or_zero(values)  # The step itself says what is not.
                summaries.append(tf.raw_ops.HistogramSummary(tag=f"{kind}/{name}", values=finite))
        return tf.summary.merge(summaries)


def image_grid(images: tf.Tensor) -> tf.Tensor:
    """Lays the first images, uint8 [batch, h, w, d], out as one: uint8 [1, rows * h, columns * w, d]."""
    batch, depth = int(images.shape[0]), int(images.shape[3])
    columns = min(GRID, batch)
    rows = [
        tf.unstack(images[start : start + columns])
        for start in range(0, columns * min(GRID, batch // columns), columns)
    ]
    grid = tf.concat([tf.concat(row, axis=1) for row in rows], axis=0)[tf.newaxis]
    # PNG knows grey, colour, and colour with transparency.
    return grid if depth in (1, 3, 4) else grid[..., :1]


def build_eval_graph(
    config: Config,
    ema: averages.Averages | None,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    device: str,
) -> EvalGraph:
    """Builds sums over records that are fed, on the averaged weights where there are averages."""
    with tf.name_scope("evaluation"), tf.device(device):
        serialized = tf.placeholder(tf.string, [None], name="serialized")
        batch = parse_examples(serialized, image_shape=image_shape, num_classes=num_classes)
        with tf.variable_scope("", reuse=True, custom_getter=averages.averaged_getter(ema)):
            logits = inference(
                batch.images, model=config.model, num_classes=num_classes, hidden_sizes=config.hidden_sizes
            )
        return EvalGraph(serialized, metrics.batch_sums(logits, batch.labels))
