"""What a user sees of a run: a bar on a terminal, lines elsewhere, and the same figures in metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable

from trainer.console import Console, StepBar
from trainer.graph.training import TrainGraph
from trainer.reporting.metrics_file import MetricsFile
from trainer.tf1 import tf
from trainer.timing import Clock, Every, Throughput, format_seconds

BAR_SECONDS = 0.25


class BarHook(tf.train.SessionRunHook):
    """Moves a bar with step, loss and images a second, where there is a terminal."""

    def __init__(
        self,
        console: Console,
        graph: TrainGraph,
        *,
        first_step: int,
        last_step: int,
        images_per_second: Callable[[], float | None],
        clock: Clock,
    ) -> None:
        self._shows = console.shows_bar
        self._graph = graph
        self._images_per_second = images_per_second
        self._bar = StepBar(console, last_step, first_step)
        self._every = Every(every_seconds=BAR_SECONDS, clock=clock)

    def __enter__(self) -> BarHook:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def due(self, step: int) -> bool:
        return self._shows and self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs([self._graph.step, self._graph.loss])

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step, loss = int(run_values.results[0]), float(run_values.results[1])
        speed = self._images_per_second()
        self._bar.update(step, f"loss {loss:.4f}" + (f"  {speed:,.0f} images/s" if speed else ""))
        self._every.done(step)


class ReportHook(tf.train.SessionRunHook):
    """Reports step, loss, learning rate, images a second and the time left, in a line and in metrics.jsonl."""

    def __init__(
        self,
        console: Console,
        graph: TrainGraph,
        metrics: MetricsFile,
        *,
        every: Every,
        throughput: Throughput,
        batch_size: int,
        last_step: int,
        tell: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._console = console
        self._tell = tell  # who has started the run
        self._graph = graph
        self._metrics = metrics
        self._every = every
        self._throughput = throughput
        self._batch_size = batch_size
        self._last_step = last_step

    def due(self, step: int) -> bool:
        return self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs([self._graph.step, self._graph.loss, self._graph.learning_rate])

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step_v, loss_v, rate_v = run_values.results
        self._report(int(step_v), float(loss_v), float(rate_v))
        self._tell(int(step_v))
        self._every.done(int(step_v))

    def _report(self, step: int, loss: float, learning_rate: float) -> None:
        # Before there is a rate, nothing is said of it.
        average, recent = self._throughput.average(), self._throughput.recent()
        speed = recent or average
        figures = {"images_per_second": round(speed, 1)} if speed else {}
        self._metrics.write(step=step, loss=loss, learning_rate=learning_rate, **figures)
        line = f"step {step}/{self._last_step}  loss {loss:.4f}  rate {learning_rate:.2e}"
        if speed and average:
            left = (self._last_step - step) * self._batch_size / average
            line += f"  {speed:,.0f} images/s"
            line += "" if self._console.shows_bar else f"  {format_seconds(left)} left"
        if self._console.shows_bar:  # There is the bar.
            self._console.log_only(line)
        else:
            self._console.say(line)
