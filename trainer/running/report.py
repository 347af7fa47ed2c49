"""Where a run's figures go: event files, metrics.jsonl, the console, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from tensorboard.summary.v1 import text_pb

from trainer import flags
from trainer.running.evaluation import EvalResult
from trainer.running.event_file import EventFile
from trainer.running.failures import Failures
from trainer.running.hooks.summaries import scalar_summary
from trainer.running.job import Job
from trainer.running.metrics_file import MetricsFile
from trainer.running.result import RunResult
from trainer.tf1 import tf
from trainer.timing import Throughput


class Report:
    """The open files of a run; a context manager that closes them."""

    def __init__(self, job: Job, result: RunResult) -> None:
        self._job = job
        self.result = result
        self.say = job.console.say
        self.failures = Failures(job.console.say)
        result.failed_writes = self.failures.counts
        with ExitStack() as stack:
            self._open(job, stack.enter_context)
            self._stack = stack.pop_all()
        for values in self.metrics.kept:
            self._note_best(values["step"], values.get("validation_accuracy"))

    def _open(self, job: Job, enter: Callable[[Any], Any]) -> None:
        suffix = f".step{job.start.step}"
        self.writer = enter(EventFile(job.rundir.path, suffix=suffix, failures=self.failures))
        self.metrics = enter(MetricsFile(job.rundir.metrics, job.start.step, self.failures))
        self.throughput = Throughput(job.config.batch_size, time.monotonic)
        self.validated_step = -1
        self._eval_writer = enter(EventFile(job.rundir.eval_events, suffix=suffix, failures=self.failures))

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, graph: tf.Graph) -> None:
        """Writes what TensorBoard shows of the run itself: the graph, the flags, and where it went on."""
        job, step = self._job, self._job.start.step
        if step:
            for writer in (self.writer, self._eval_writer):
                writer.add_session_start(step + 1)
        self.writer.add_graph(graph)
        lines = flags.to_flagfile(job.config).splitlines()
        text = text_pb("flags", "\n".join(f"    {line}" for line in lines))
        self.writer.add_summary(text.SerializeToString(), step)
        tf.train.write_graph(graph, str(job.rundir.path), job.rundir.graph.name, as_text=True)

    def _note_best(self, step: int, accuracy: float | None) -> None:
        best = self.result.best_validation_accuracy
        if accuracy is not None and (best is None or accuracy > best):
            self.result.best_validation_accuracy, self.result.best_step = accuracy, step

    def validation(self, step: int, found: EvalResult) -> None:
        self.validated_step = step
        self.result.validation_accuracy = found.accuracy
        self._note_best(step, found.accuracy)
        self._job.console.say(f"step {step}  validation accuracy {found.accuracy:.2%}  loss {found.loss:.4f}")
        self.metrics.write(step=step, validation_accuracy=found.accuracy, validation_loss=found.loss)
        self._eval_writer.add_summary(scalar_summary("accuracy", found.accuracy), step)
        self._eval_writer.add_summary(scalar_summary("loss", found.loss), step)
        # The evaluation was a pause: it does not count as training time.
        self.throughput.resume()
