"""What a user sees of a run: a bar on a terminal, lines elsewhere, and the same figures in metrics.jsonl."""

from __future__ import annotations

from trainer.console import Console, StepBar
from trainer.graph import TrainGraph
from trainer.running.metrics_file import MetricsFile
from trainer.tf1 import tf
from trainer.timing import Clock, Every, Throughput, format_seconds

BAR_SECONDS = 0.25


class ProgressHook(tf.train.SessionRunHook):
    """Reports step, loss, learning rate, images a second and the time left."""

    def __init__(
        self,
        console: Console,
        graph: TrainGraph,
        metrics: MetricsFile,
        *,
        every: Every,
        throughput: Throughput,
        batch_size: int,
        first_step: int,
        last_step: int,
        clock: Clock,
    ) -> None:
        self._console = console
        self._graph = graph
        self._metrics = metrics
        self._every = every
        self._throughput = throughput
        self._batch_size = batch_size
        self._last_step = last_step
        self._reports = False  # at the step that was asked for last
        self._bar = StepBar(console, last_step, first_step)
        self._bar_every = Every(every_seconds=BAR_SECONDS, clock=clock)

    def __enter__(self) -> ProgressHook:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def due(self, step: int) -> bool:
        self._reports = self._every.due(step)
        return self._reports or (self._console.is_terminal and self._bar_every.due(step))

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs([self._graph.step, self._graph.loss, self._graph.learning_rate])

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step_v, loss_v, rate_v = run_values.results
        step, loss = int(step_v), float(loss_v)
        if self._console.is_terminal:
            speed = self._throughput.average()
            self._bar.update(step, f"loss {loss:.4f}  {speed:,.0f} images/s")
            self._bar_every.restart()
        if self._reports:
            self._report(step, loss, float(rate_v))
            self._every.restart()

    def _report(self, step: int, loss: float, learning_rate: float) -> None:
        speed = self._throughput.recent()
        self._metrics.write(step=step, loss=loss, learning_rate=learning_rate, images_per_second=round(speed, 1))
        average = self._throughput.average()
        left = (self._last_step - step) * self._batch_size / average if average else 0.0
        line = f"step {step}/{self._last_step}  loss {loss:.4f}  rate {learning_rate:.2e}  {speed:,.0f} images/s"
        if not self._console.is_terminal:
            self._console.say(f"{line}  {format_seconds(left)} left")
        else:
            self._console.log_only(line)
