"""All parts into what a training runs: the step, its summaries, and the loop over steps."""

from __future__ import annotations

from typing import NamedTuple

from trainer.data.spec import IMAGE
from trainer.graph.step import Checked, Step, StepBuilder
from trainer.graph.summaries import GRID, histogram_summaries, scalar_summaries
from trainer.graph.tower import LOSS
from trainer.graph.update import Counters
from trainer.inputs.batch import RECORD, Input
from trainer.placing.devices import Placement
from trainer.placing.strategy import Votes
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf


class LoopGraph(NamedTuple):
    """Several steps in one run; it ends early after a step that is not finite."""

    num_steps: tf.Tensor  # int64 [], placeholder: how many
    step: tf.Tensor  # int64 [], finished updates after the last of them
    loss: tf.Tensor  # float32 [], of the last finite step; NaN where there was none
    not_finite: tf.Tensor  # int64 [n, 2], of the last step


class Summaries(NamedTuple):
    """Serialized summaries, to be fetched with the step: string [] each."""

    scalars: tf.Tensor
    histograms: tf.Tensor  # of weights, gradients, and the grid of images


class TrainGraph(NamedTuple):
    """What a training runs."""

    train_op: tf.Operation  # one update of everything, or none where the step is not finite
    step: tf.Tensor  # int64 [], read AFTER the update
    scalars: dict[
        str, tf.Tensor
    ]  # float32 [] each: LOSS with the regularization, and what the task adds; means over towers
    gradients: list[tf.Tensor]  # of each trainable variable, mean over towers, before clipping
    learning_rate: tf.Tensor  # float32 [], of this update
    not_finite: tf.Tensor  # int64 [n, 2], row and column in `checked` of what forbade the update
    checked: Checked
    summaries: Summaries
    fill: tf.Tensor | None  # float32 [], fraction of the input queue that holds batches
    finished: tf.Tensor  # int64 [], updates that have been finished, whatever else is running
    stage_first: list[tf.Operation]  # to run once, before the first step; empty: batches are not staged
    loop: LoopGraph | None  # the same step, many times in one run
    votes: Votes | None  # of the workers of a cluster

    @property
    def loss(self) -> tf.Tensor:
        return self.scalars[LOSS]


def build_train_graph(
    builder: StepBuilder,
    counters: Counters,
    source: Input,
    *,
    side: Side,
    tower_size: int,
    parameter_device: Placement,
    steps_per_loop: int,
) -> TrainGraph:
    """Builds the step, the summaries, and the loop over steps where it is wanted.

    Args:
      builder: of the steps.
      counters: those of the builder.
      source: of the batches.
      side: of the preprocessing, which the summaries show.
      tower_size: pictures of a batch that a tower has.
      parameter_device: of the variables.
      steps_per_loop: most steps of one run; with 1 no loop is built.
    """
    step = builder.build(source.batch)
    train_op = step.not_finite.op
    with tf.device(parameter_device):
        with tf.name_scope("after_update"), tf.control_dependencies([train_op]):
            after_update = counters.step.read_value()
        return TrainGraph(
            train_op=train_op,
            step=after_update,
            scalars=step.scalars,
            gradients=step.gradients,
            learning_rate=step.learning_rate,
            not_finite=step.not_finite,
            checked=step.checked,
            summaries=_build_summaries(step, train_op, source, side, tower_size),
            fill=source.fill,
            finished=counters.step.read_value(),
            stage_first=step.stage_first,
            loop=_build_loop(builder, counters, source) if steps_per_loop > 1 else None,
            votes=step.votes,
        )


def _build_summaries(step: Step, train_op: tf.Operation, source: Input, side: Side, tower_size: int) -> Summaries:
    # With the neighbours that the first tower has, where pictures are mixed; else without those that are not shown.
    count = tower_size if side.mixes else min(tower_size, GRID**2)
    images, keys = (source.batch[name] for name in (IMAGE, RECORD))
    grids = {"input": images[: GRID**2]}
    if side.has_batch_operations:
        with tf.device("/cpu:0"):
            grids["preprocessed"] = side.in_batches(images[:count], keys[:count])[: GRID**2]
    return Summaries(scalar_summaries(step, source.fill), histogram_summaries(train_op, step.gradients, grids))


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
