"""The update at the end of a step, which happens if all that it would apply is finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trainer.learning import averages, finiteness, loss_scaling, optimizers
from trainer.settings.config import Config
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

Pairs = Sequence[tuple[tf.Tensor, tf.Variable]]


class Counters(NamedTuple):
    """What a checkpoint says of progress."""

    step: tf.Variable  # int64 [], finished updates
    position: tf.Variable  # int64 [], examples that they and the skipped steps consumed
    skipped: tf.Variable  # int64 [], steps that were not finite and not applied
    stream: tf.Variable  # int64 [4], see `saving.progress.Progress`: order of the records, and history of batch sizes


STREAM = "stream"


def build_counters() -> Counters:
    """Makes the counters in the default graph."""
    step = tf.train.get_or_create_global_step()
    position, skipped = (
        tf.get_variable(name, [], tf.int64, tf.zeros_initializer(), trainable=False)
        for name in ("position", "skipped_steps")
    )
    stream = tf.get_variable(STREAM, [4], tf.int64, tf.zeros_initializer(), trainable=False)
    return Counters(step, position, skipped, stream)


class Updater:
    """Builds updates: the first makes the optimizer's slots and the averages, others share them."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        rate: Callable[[], tf.Tensor | None],
        loss_scale: loss_scaling.LossScale | None,
        code: UserCode,
    ) -> None:
        """Takes what all updates share.

        Args:
          config: of the run.
          counters: from `build_counters`.
          rate: gives the learning rate, float32 [], of the step that is being built.
          loss_scale: of float16.
          code: loads an optimizer of the user's.
        """
        self._config = config
        self._counters = counters
        self._loss_scale = loss_scale
        self._optimizer = optimizers.make_optimizer(
            config.optimizer,
            rate,
            code,
            momentum=config.momentum,
            rmsprop_decay=config.rmsprop_decay,
            weight_decay=config.weight_decay,
        )
        self.averages = averages.make_averages(config.ema_decay, counters.step)

    def build(
        self,
        rows: list[list[tf.Tensor]],
        gradients_and_variables: Pairs,
        before: list[tf.Operation],
        of_model: Callable[[], list[tf.Operation]],
        first_gradient: int = 1,
        outlier: int | None = None,
    ) -> tf.Tensor:
        """Builds the update that happens if all `rows` are finite; returns what forbade it.

        Args:
          rows: as `finiteness.update_if_finite` takes them.
          gradients_and_variables: of all replicas of the variables.
          before: what has to have happened, as the staging of the next batch: a step that waits for it in vain has
            changed nothing.
          of_model: adds the updates of variables that no gradient trains.
          first_gradient: of a row; in front of it stand what no smaller loss scale makes finite.
          outlier: of a row, what is not finite where all else is, but the gradients are too large; None: never.
        """
        # Before the branch: what an optimizer makes inside of one would belong to it.
        with tf.name_scope("update"):
            self._make_variables([variable for _, variable in gradients_and_variables])
            return finiteness.update_if_finite(
                rows,
                update=lambda: self._update_all(gradients_and_variables, of_model),
                otherwise=lambda not_finite: self._otherwise(not_finite, first_gradient, outlier),
                before=before,
            )

    def _make_variables(self, variables: Sequence[tf.Variable]) -> None:
        """Makes the optimizer's slots and the averages, where there are none yet."""
        # The method by which optimizers make theirs, which subclasses fill in; nothing public calls it alone.
        self._optimizer._create_slots(variables)
        if self.averages is not None:
            self.averages.make(tf.trainable_variables())

    def _update_all(self, pairs: Pairs, of_model: Callable[[], list[tf.Operation]]) -> list[tf.Operation]:
        """Adds the updates of the model, then the optimizer's, as a TF1 program runs UPDATE_OPS before its train_op."""
        made = of_model()
        with tf.control_dependencies(made):
            return [*made, *self._update(pairs)]

    def _update(self, gradients_and_variables: Pairs) -> list[tf.Operation]:
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
