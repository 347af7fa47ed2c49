"""What TensorBoard shows of a step: scalars, and less often histograms and the grid of input images."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.graph.step import Step
from trainer.learning import finiteness
from trainer.tf1 import tf

GRID = 4  # images in each direction of the summary's grid


def scalar_summaries(step: Step, fill: tf.Tensor | None) -> tf.Tensor:
    """Builds serialized summaries of a step's scalars: string [].

    Args:
      step: from `StepBuilder`.
      fill: float32 [], fraction of the input queue that holds batches; None: there is none.
    """
    with tf.name_scope("summaries"), tf.device("/cpu:0"):  # Summaries have no kernels for other devices.
        norms = tf.stack([tf.norm(gradient) for gradient in step.gradients])
        tags = [f"gradient_norms/{variable.op.name}" for variable in tf.trainable_variables()]
        values = {**step.scalars, "learning_rate": step.learning_rate, "gradient_norm": tf.norm(norms)}
        optional = {"queue_fill": fill, "loss_scale": step.loss_scale, "staleness": step.staleness}
        values |= {name: value for name, value in optional.items() if value is not None}
        # Raw operations, because `tf.summary` makes the name scope a part of the tag.
        scalars = [tf.raw_ops.ScalarSummary(tags=tag, values=value) for tag, value in values.items()]
        return tf.summary.merge([*scalars, tf.raw_ops.ScalarSummary(tags=tags, values=norms)])


def histogram_summaries(
    train_op: tf.Operation, gradients: list[tf.Tensor], images: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """Builds serialized summaries of weights and gradients, and of the first images: string [].

    Args:
      train_op: after which the weights are read.
      gradients: of each trainable variable.
      images: [batch, height, width, depth] of uint8 or float32, by the name of their grid.
    """
    with tf.name_scope("histograms"), tf.device("/cpu:0"):
        summaries = [
            tf.raw_ops.ImageSummary(tag=tag, tensor=image_grid(found), max_images=1) for tag, found in images.items()
        ]
        for variable, gradient in zip(tf.trainable_variables(), gradients, strict=True):
            name = variable.op.name
            with tf.control_dependencies([train_op]):  # The weights after the step, as in its checkpoint.
                value = variable.read_value()
            for kind, values in (("weights", value), ("gradients", gradient)):
                finite = finiteness.finite_or_zero(values)  # The step itself says what is not.
                summaries.append(tf.raw_ops.HistogramSummary(tag=f"{kind}/{name}", values=finite))
        return tf.summary.merge(summaries)


def image_grid(images: tf.Tensor) -> tf.Tensor:
    """Lays the first images, [batch, h, w, d], out as one: [1, rows * h, columns * w, d]."""
    batch, depth = int(images.shape[0]), int(images.shape[3])
    columns = min(GRID, batch)
    rows = [
        tf.unstack(images[start : start + columns])
        for start in range(0, columns * min(GRID, batch // columns), columns)
    ]
    grid = tf.concat([tf.concat(row, axis=1) for row in rows], axis=0)[tf.newaxis]
    # PNG knows grey, colour, and colour with transparency.
    return grid if depth in (1, 3, 4) else grid[..., :1]
