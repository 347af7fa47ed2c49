"""All parts into two graphs' ends: what training runs, and what an evaluation runs."""

from __future__ import annotations

from typing import NamedTuple

from trainer.config import Config
from trainer.inputs.batch import Input, parse_examples
from trainer.learning import averages, finiteness, metrics
from trainer.models.inference import channels_first, inference
from trainer.placing.devices import Placement
from trainer.placing.strategies import Wishes
from trainer.step import Step, StepBuilder
from trainer.tf1 import tf
from trainer.update import Counters

GRID = 4  # images in each direction of the summary's grid


class LoopGraph(NamedTuple):
    """Several steps in one run; it ends early after a step that is not finite."""

    num_steps: tf.Tensor  # int64 [], placeholder: how many
    step: tf.Tensor  # int64 [], finished updates after the last of them
    loss: tf.Tensor  # float32 [], of the last finite step; NaN where there was none
    not_finite: tf.Tensor  # int64 [n, 2], of the last step


class TrainGraph(NamedTuple):
    train_op: tf.Operation  # one update of everything, or none where the step is not finite
    step: tf.Tensor  # int64 [], read AFTER the update
    loss: tf.Tensor  # float32 [], cross entropy, mean over towers, plus regularization
    not_finite: tf.Tensor  # int64 [n, 2], row and column in `checked` of what forbade the update
    checked: tuple[list[str], list[str]]  # names of the rows (towers, mean) and columns (loss, gradients)
    learning_rate: tf.Tensor  # float32 [], of this update
    gradients: list[tf.Tensor]  # of each trainable variable, mean over towers, before clipping
    scalars: tf.Tensor  # serialized summaries
    histograms: tf.Tensor  # serialized summaries of weights, gradients, and the grid of images
    fill: tf.Tensor | None  # float32 [], fraction of the input queue that holds batches
    finished: tf.Tensor  # int64 [], updates that have been finished, whatever else is running
    stage_first: list[tf.Operation]  # to run once, before the first step; empty: batches are not staged
    loop: LoopGraph | None  # the same step, many times in one run
    wishes: Wishes | None  # of the workers of a cluster


class EvalGraph(NamedTuple):
    serialized: tf.Tensor  # string [n], placeholder for records
    sums: metrics.Sums


def build_train_graph(
    builder: StepBuilder, counters: Counters, source: Input, *, parameter_device: Placement, steps_per_loop: int
) -> TrainGraph:
    """Builds the step, the summaries, and the loop over steps where it is wanted.

    Args:
      builder: of the steps.
      counters: those of the builder.
      source: of the batches.
      parameter_device: of the variables.
      steps_per_loop: most steps of one run; with 1 no loop is built.
    """
    step = builder.build(source.batch)
    train_op = step.not_finite.op
    with tf.device(parameter_device):
        with tf.name_scope("after_update"), tf.control_dependencies([train_op]):
            step_v = counters.step.read_value()
        scalars = _scalar_summaries(step, source.fill)
        histograms = _histogram_summaries(train_op, step.gradients, source.batch.images)
        finished = counters.step.read_value()
        loop = _build_loop(builder, counters, source) if steps_per_loop > 1 else None
    return TrainGraph(
        train_op,
        step_v,
        step.loss,
        step.not_finite,
        step.checked,
        step.learning_rate,
        step.gradients,
        scalars,
        histograms,
        source.fill,
        finished,
        step.stage_first,
        loop,
        step.wishes,
    )


def _build_loop(builder: StepBuilder, counters: Counters, source: Input) -> LoopGraph:
    num_steps = tf.placeholder(tf.int64, [], name="num_steps")

    def body(left: tf.Tensor, loss: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        step = builder.build(source.build_batch())
        finite = tf.equal(tf.size(step.not_finite), 0)
        none = tf.zeros([], tf.int64)
        return tf.where(finite, left - 1, none), tf.where(finite, step.loss, loss), step.not_finite

    begin = [num_steps, tf.constant(float("nan")), tf.zeros([0, 2], tf.int64)]
    shapes = [tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None, 2])]
    with tf.name_scope("loop"):
        # One iteration at a time: a step begins when all updates of the one before have ended.
        _, loss, not_finite = tf.while_loop(
            lambda left, *_: left > 0, body, begin, shape_invariants=shapes, parallel_iterations=1, back_prop=False
        )
        with tf.control_dependencies([not_finite]):
            return LoopGraph(num_steps, counters.step.read_value(), loss, not_finite)


def _scalar_summaries(step: Step, fill: tf.Tensor | None) -> tf.Tensor:
    with tf.name_scope("summaries"):
        values = {
            "loss": step.loss,
            "learning_rate": step.learning_rate,
            "gradient_norm": tf.global_norm(step.gradients),
            "accuracy": step.accuracy,
        }
        if fill is not None:
            values["queue_fill"] = fill
        if step.loss_scale is not None:
            values["loss_scale"] = step.loss_scale
        if step.staleness is not None:
            values["staleness"] = step.staleness
        # Raw operations, because `tf.summary` makes the name scope a part of the tag.
        return tf.summary.merge([tf.raw_ops.ScalarSummary(tags=tag, values=value) for tag, value in values.items()])


def _histogram_summaries(train_op: tf.Operation, gradients: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    with tf.name_scope("histograms"):
        summaries = [tf.raw_ops.ImageSummary(tag="input", tensor=image_grid(images), max_images=1)]
        for variable, gradient in zip(tf.trainable_variables(), gradients, strict=True):
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
                batch.images,
                model=config.model,
                num_classes=num_classes,
                hidden_sizes=config.hidden_sizes,
                precision=config.precision,
                channels_first=channels_first(config.data_format, device),
            )
        return EvalGraph(serialized, metrics.batch_sums(logits, batch.labels))
