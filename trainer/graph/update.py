"""The update at the end of a step, which happens if all that it would apply is finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer import grammars
from trainer.learning import averages, clipping, finiteness, loss_scaling, optimizers
from trainer.ops import update as fused
from trainer.placing.devices import Placement, is_one_cpu
from trainer.settings.config import Config
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

TO_ZERO = "clip_to_zero"  # of --clip


class Counters(NamedTuple):
    """What a checkpoint says of progress."""

    step: tf.Variable  # int64 [], finished updates
    position: tf.Variable  # int64 [], examples that they and the skipped steps consumed
    skipped: tf.Variable  # int64 [], steps that were not finite and not applied
    stream: tf.Variable  # int64 [5], see `saving.progress.Progress`: order of the records, history of batch sizes, ...


STREAM, STREAM_SIZE = "stream", 5


def build_counters() -> Counters:
    """Makes the counters in the default graph."""
    step = tf.train.get_or_create_global_step()
    position, skipped = (
        tf.get_variable(name, [], tf.int64, tf.zeros_initializer(), trainable=False)
        for name in ("position", "skipped_steps")
    )
    stream = tf.get_variable(STREAM, [STREAM_SIZE], tf.int64, tf.zeros_initializer(), trainable=False)
    return Counters(step, position, skipped, stream)


class Gradients(NamedTuple):
    """The mean gradients of the trainable variables, or of those of a tower that has its own."""

    device: Placement  # of what is computed for them
    variables: Sequence[tf.Variable]
    whole: Sequence[tf.Tensor]  # with the regularization
    plain: Sequence[tf.Tensor]  # without --weight_decay
    decays: Sequence[float]  # of --weight_decay, which `plain` lacks, for each


class Proposed(NamedTuple):
    """What a step would apply."""

    towers: list[list[tf.Tensor]]  # of each, where there are several, what is looked at to name it
    first: list[tf.Tensor]  # what has to be finite besides the gradients: the loss, updates of the model
    replicas: list[Gradients]
    before: list[tf.Operation]  # what has to have happened: a step that waits for it in vain has changed nothing
    of_model: Callable[[], list[tf.Operation]]  # adds the updates of variables that no gradient trains
    updated: list[str]  # their names


class Updater:
    """Builds updates: the first makes the optimizer's slots and the averages, others share them."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        rate: Callable[[], tf.Tensor | None],
        loss_scale: loss_scaling.LossScale | None,
        code: UserCode,
        operation: Any = None,
    ) -> None:
        """Takes what all updates share.

        Args:
          config: of the run.
          counters: from `build_counters`.
          rate: gives the learning rate, float32 [], of the step that is being built.
          loss_scale: of float16.
          code: loads an optimizer of the user's.
          operation: module of `ops.update`; None: TensorFlow's operations do all.
        """
        self._config = config
        self._counters = counters
        self._rate = rate
        self._loss_scale = loss_scale
        self._operation = operation
        self._clip = grammars.parse_clip(config.clip)
        self._optimizer = optimizers.make_optimizer(
            config.optimizer,
            rate,
            code,
            momentum=config.momentum,
            rmsprop_decay=config.rmsprop_decay,
            weight_decay=config.weight_decay,
        )
        self.averages = averages.make_averages(config.ema_decay, counters.step)

    def build(self, proposed: Proposed) -> tf.Tensor:
        """Builds the update that happens if all of it is finite; returns what forbade it: int64 [n, 2].

        Each is the row, of the towers and the mean, and the column, of what the step looks at.
        """
        # Before the branch: what an optimizer makes inside of one would belong to it.
        with tf.name_scope("update"):
            self._make_variables([variable for each in proposed.replicas for variable in each.variables])
            if self._is_fused(proposed):
                return self._build_fused(proposed)
            return self._build_apart(proposed)

    def _make_variables(self, variables: Sequence[tf.Variable]) -> None:
        """Makes the optimizer's slots and the averages, where there are none yet."""
        # The method by which optimizers make theirs, which subclasses fill in; nothing public calls it alone.
        self._optimizer._create_slots(variables)
        if self.averages is not None:
            self.averages.make(tf.trainable_variables())

    def _is_fused(self, proposed: Proposed) -> bool:
        """Can the operation of the trainer's own do this update?"""
        variables = [variable for each in proposed.replicas for variable in each.variables]
        return (
            self._operation is not None
            and fused.knows(self._config.optimizer)
            and self._loss_scale is None
            and len(proposed.replicas) == 1
            and len(variables) > 0
            and all(variable.dtype.base_dtype == tf.float32 for variable in variables)
            and is_one_cpu([*variables, self._counters.step])
            # The optimizer's would have to come after the model's.
            and not {variable.op.name for variable in variables} & set(proposed.updated)
        )

    def _build_fused(self, proposed: Proposed) -> tf.Tensor:
        config, (mine,) = self._config, proposed.replicas
        averages = [self.averages.average(variable) for variable in mine.variables] if self.averages else []
        with tf.control_dependencies(proposed.before), tf.device(self._counters.step.device):
            not_finite = fused.build_update(
                self._operation,
                first=proposed.first,
                parameters=fused.Parameters(mine.plain, mine.variables, averages, mine.decays),
                optimizer=self._optimizer,
                counters=self._counters[:3],
                rate=self._rate(),
                rule=fused.Rule(
                    config.optimizer,
                    momentum=config.momentum,
                    rho=config.rmsprop_decay,
                    clip=self._clip[0],
                    maximum=self._clip[1],
                    average_decay=config.ema_decay,
                    batch_size=config.batch_size,
                    skips=config.nonfinite == "skip",
                ),
            )
        if not proposed.updated and not proposed.towers:
            return not_finite

        def updated() -> tf.Tensor:
            return finiteness.after(proposed.of_model(), tf.zeros([0, 2], tf.int64))

        def refused() -> tf.Tensor:
            return tf.concat([finiteness.look_for(proposed.towers), tf.add(not_finite, [len(proposed.towers), 0])], 0)

        return tf.cond(tf.equal(tf.size(not_finite), 0), updated, refused)

    def _build_apart(self, proposed: Proposed) -> tf.Tensor:
        """Builds the update of TensorFlow's operations."""
        clipped = []
        for each in proposed.replicas:
            with tf.device(each.device), tf.name_scope("clip"):
                clipped.append(clipping.clip_gradients(each.whole, *self._clip))
        # Clipping by value would make a number of infinity; a norm that overflows makes NaN of numbers.
        whole = proposed.replicas[0].whole
        last = [*proposed.first, *(whole if self._clip[0] == "value" else clipped[0])]
        rows = [*proposed.towers, last]
        outlier = len(last) if self._clip[0] == TO_ZERO else None
        if outlier is not None:
            rows = _with_outliers(rows, whole, self._clip[1])
        flat = [gradient for mine in clipped for gradient in mine]
        pairs = list(zip(flat, (variable for each in proposed.replicas for variable in each.variables), strict=True))
        return finiteness.update_if_finite(
            rows,
            update=lambda: self._update_all(pairs, proposed.of_model),
            otherwise=lambda not_finite: self._otherwise(not_finite, len(proposed.first), outlier),
            before=[*proposed.before, *(gradient.op for gradient in flat)],
        )

    def _update_all(
        self, pairs: Sequence[tuple[tf.Tensor, tf.Variable]], of_model: Callable[[], list[tf.Operation]]
    ) -> list[tf.Operation]:
        """Adds the updates of the model, then the optimizer's, as a TF1 program runs UPDATE_OPS before its train_op."""
        made = of_model()
        with tf.control_dependencies(made):
            return [*made, *self._update(pairs)]

    def _update(self, gradients_and_variables: Sequence[tuple[tf.Tensor, tf.Variable]]) -> list[tf.Operation]:
        counters = self._counters
        with tf.name_scope("update/"):  # Without the branch's name in those of the optimizer's variables.
            apply_op = self._optimizer.apply_gradients(gradients_and_variables, global_step=counters.step)
        # After the update, because the input may read the position, and the averages read the weights.
        with tf.control_dependencies([apply_op]):
            updates = [counters.position.assign_add(self._config.batch_size)]
            if self.averages is not None:
                updates.append(self.averages.apply(tf.trainable_variables()))
            if self._loss_scale is not None:
                updates += self._loss_scale.after_update()
        return updates

    def _refuse(self, not_finite: tf.Tensor) -> tf.Tensor:
        if self._config.nonfinite == "stop":
            return tf.identity(not_finite)  # A run that goes on from here sees the same batch again.
        return self._pass_over(not_finite)

    def _pass_over(self, not_finite: tf.Tensor) -> tf.Tensor:
        counters = self._counters
        passed = [counters.position.assign_add(self._config.batch_size), counters.skipped.assign_add(1)]
        return finiteness.after(passed, not_finite)

    def _otherwise(self, not_finite: tf.Tensor, first_gradient: int, outlier: int | None) -> tf.Tensor:
        if outlier is None:
            return self._refuse_or_rescale(not_finite, first_gradient)
        return tf.cond(
            tf.reduce_all(tf.equal(not_finite[:, 1], outlier)),
            lambda: self._pass_over(not_finite),
            lambda: self._refuse_or_rescale(not_finite, first_gradient),
        )

    def _refuse_or_rescale(self, not_finite: tf.Tensor, first_gradient: int) -> tf.Tensor:
        loss_scale = self._loss_scale
        if loss_scale is None:
            return self._refuse(not_finite)

        def overflow() -> tf.Tensor:
            passed = [self._counters.position.assign_add(self._config.batch_size), *loss_scale.after_overflow()]
            return finiteness.after(passed, tf.zeros([0, 2], tf.int64))

        return tf.cond(loss_scale.is_overflow(not_finite, first_gradient), overflow, lambda: self._refuse(not_finite))


def _with_outliers(
    rows: list[list[tf.Tensor]], gradients: Sequence[tf.Tensor], maximum: float
) -> list[list[tf.Tensor]]:
    """Adds a column to what is looked at, which is not finite where the mean gradients are too large together."""
    norm = tf.global_norm(gradients)
    excess = tf.where(norm > maximum, np.float32(np.inf), np.float32(0))
    return [*([*row, tf.zeros([])] for row in rows[:-1]), [*rows[-1], excess]]
