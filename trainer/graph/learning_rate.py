"""The learning rate of a run's steps, which all workers have in common."""

from __future__ import annotations

from collections.abc import Mapping

from trainer import grammars
from trainer.learning import schedules
from trainer.learning.plateau import Plateau
from trainer.placing.devices import Placement
from trainer.placing.strategy import Strategy
from trainer.settings.config import Config
from trainer.tf1 import tf

FACTOR = "learning_rate_factor"  # among the scalars of a step


class LearningRate:
    """Builds the rate of one step after another."""

    def __init__(
        self,
        config: Config,
        step: tf.Variable,
        strategy: Strategy,
        *,
        parameter_device: Placement,
        train_steps: int,
        steps_per_epoch: float,
        steps_ahead: int = 0,
    ) -> None:
        """Takes what all steps share.

        Args:
          config: of the run.
          step: int64 [], finished updates.
          strategy: of the workers.
          parameter_device: of the variables.
          train_steps: the last step, where a cosine decay ends.
          steps_per_epoch: turns epochs into steps.
          steps_ahead: of the schedule, where earlier steps had batches of another size.
        """
        self._config, self._step, self._strategy = config, step, strategy
        self._train_steps, self._steps_per_epoch, self._steps_ahead = train_steps, steps_per_epoch, steps_ahead
        self._decay = grammars.parse_decay(config.decay)
        self.plateau: Plateau | None = None
        if self._decay.kind == "plateau":
            with tf.device(parameter_device):
                self.plateau = Plateau(self._decay.rate, self._decay.patience)

    def scalars(self) -> dict[str, tf.Tensor]:
        """Builds what of a plateau joins the means over workers, of whom the chief alone evaluates."""
        if self.plateau is None:
            return {}
        factor, workers = self.plateau.build_factor(), self._strategy.workers
        if not self._strategy.is_asynchronous and workers.count > 1:
            factor = factor * workers.count if workers.index == 0 else tf.zeros([])
        return {FACTOR: factor}

    def build(self, scalars: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Builds the rate of a step, float32 []; `scalars` are its means over workers."""
        with tf.name_scope("learning_rate"):
            return schedules.build_learning_rate(
                self._step,
                base=self._config.learning_rate,
                decay=self._decay,
                warmup=grammars.parse_period("warmup", self._config.warmup),
                train_steps=self._train_steps,
                ends_by_epochs=not self._config.train_steps,
                steps_per_epoch=self._steps_per_epoch,
                steps_ahead=self._steps_ahead,
                factor=scalars.get(FACTOR),
            )
