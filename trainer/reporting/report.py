"""Where a run's figures go: event files, metrics.jsonl, the console, and the result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from tensorboard.summary.v1 import text_pb

from trainer.learning.metrics import Goal
from trainer.reporting.event_file import EventFile, scalar_summary
from trainer.reporting.failures import Failures
from trainer.reporting.metrics_file import MetricsFile
from trainer.reporting.result import RunResult
from trainer.rundir import RunDir
from trainer.tf1 import tf, tf_path
from trainer.timing import Throughput


class Report:
    """The open files of a run; a context manager that closes them."""

    def __init__(
        self,
        rundir: RunDir,
        result: RunResult,
        goal: Goal,
        *,
        first_step: int,
        batch_size: int,
        say: Callable[[str], None],
    ) -> None:
        """Opens them.

        Args:
          rundir: of the run.
          result: is filled in.
          goal: by which the best step is chosen.
          first_step: at which this start of the run begins; what an earlier one wrote behind it is dropped.
          batch_size: images of a step.
          say: prints a line.
        """
        self._rundir, self._first_step = rundir, first_step
        self.result, self._goal, self.say = result, goal, say
        result.goal = goal.name
        self.failures = Failures(say)
        result.failed_writes = self.failures.counts
        self.throughput = Throughput(batch_size, time.monotonic)
        self.validated_step = -1
        with ExitStack() as stack:
            self._open(stack.enter_context)
            self._stack = stack.pop_all()
        self.evaluations_since_best = 0
        for values in self.metrics.kept:
            value = values.get(f"validation_{goal.name}")
            self._note_best(values["step"], value)
            if value is not None:
                is_best = self.result.best_step == values["step"]
                self.evaluations_since_best = 0 if is_best else self.evaluations_since_best + 1

    def _open(self, enter: Callable[[Any], Any]) -> None:
        suffix = f".step{self._first_step}"
        self.writer = enter(EventFile(self._rundir.path, suffix=suffix, failures=self.failures))
        self.metrics = enter(MetricsFile(self._rundir.metrics, self._first_step, self.failures))
        self._eval_writer = enter(EventFile(self._rundir.eval_events, suffix=suffix, failures=self.failures))

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, graph: tf.Graph, flags_text: str) -> None:
        """Writes what TensorBoard shows of the run itself: the graph, the flags, and where it went on.

        Args:
          graph: of the training.
          flags_text: a flag file.
        """
        step = self._first_step
        if step:
            for writer in (self.writer, self._eval_writer):
                writer.add_session_start(step + 1)
        self.writer.add_graph(graph)
        shown = os.fsencode(flags_text).decode(errors="replace")  # A path may be no UTF-8.
        text = text_pb("flags", "\n".join(f"    {line}" for line in shown.splitlines()))
        self.writer.add_summary(text.SerializeToString(), step)
        tf.train.write_graph(graph, tf_path(self._rundir.path), self._rundir.graph.name, as_text=True)

    def _note_best(self, step: int, value: float | None) -> None:
        best = self.result.best_validation
        if value is not None and (best is None or self._goal.is_better(value, best)):
            self.result.best_validation, self.result.best_step = value, step

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Reports what an evaluation on the validation set came to."""
        self.validated_step = step
        value = metrics[self._goal.name]
        self.result.validation = dict(metrics)
        self._note_best(step, value)
        self.evaluations_since_best = 0 if self.result.best_step == step else self.evaluations_since_best + 1
        self.say(f"step {step}  validation {self._goal.describe(value)}  loss {metrics['loss']:.4f}")
        self.metrics.write(step=step, **{f"validation_{name}": value for name, value in metrics.items()})
        for name, value in metrics.items():
            self._eval_writer.add_summary(scalar_summary(name, value), step)
        # The evaluation was a pause: it does not count as training time.
        self.throughput.resume()
