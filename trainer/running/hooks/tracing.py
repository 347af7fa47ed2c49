"""RunMetadata traces: for TensorBoard, as a Chrome trace, and as a table of the slowest operations."""

from __future__ import annotations

from collections import defaultdict

from trainer.graph.training import TrainGraph
from trainer.reporting.event_file import EventFile
from trainer.reporting.failures import Failures
from trainer.rundir import RunDir, replace_text
from trainer.tf1 import Timeline, tf
from trainer.timing import Every

TOP_OPS = 30


class TraceHook(tf.train.SessionRunHook):
    """Traces a step fully every so often."""

    def __init__(self, writer: EventFile, rundir: RunDir, graph: TrainGraph, every: Every, failures: Failures) -> None:
        self._writer = writer
        self._failures = failures
        self._rundir = rundir
        self._graph = graph
        self._every = every

    def due(self, step: int) -> bool:
        return self._every.due(step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs(self._graph.step, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE))

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        step, metadata = int(run_values.results), run_values.run_metadata
        self._writer.add_run_metadata(metadata, f"step{step:03d}", step)
        with self._failures.tolerated("a trace"):
            self._rundir.traces.mkdir(exist_ok=True)
            chrome = Timeline(metadata.step_stats).generate_chrome_trace_format()
            replace_text(self._rundir.trace(step), chrome)
            replace_text(self._rundir.top_ops(step), top_ops_table(metadata.step_stats))
        self._every.done(step)


def top_ops_table(stats: tf.StepStats) -> str:
    """Lists the operations that took most time: microseconds, share, calls, type, name, device."""
    micros: dict[tuple[str, str, str], int] = defaultdict(int)
    calls: dict[tuple[str, str, str], int] = defaultdict(int)
    for device in stats.dev_stats:
        for node in device.node_stats:
            name = node.node_name.split(":")[0]
            key = (_op_type(node.timeline_label), name, device.device)
            micros[key] += node.op_end_rel_micros - node.op_start_rel_micros
            calls[key] += 1
    total = sum(micros.values()) or 1
    lines = [f"{'us':>10} {'share':>6} {'calls':>6}  {'type':<28} name (device)"]
    for key in sorted(micros, key=lambda key: -micros[key])[:TOP_OPS]:
        kind, name, place = key
        lines.append(f"{micros[key]:>10} {micros[key] / total:>6.1%} {calls[key]:>6}  {kind:<28} {name} ({place})")
    return "\n".join([*lines, f"{total:>10} {1:>6.0%} in all operations of {len(stats.dev_stats)} devices"]) + "\n"


def _op_type(label: str) -> str:
    """Reads the type out of a timeline label, `name = Type(inputs)`."""
    return label.partition(" = ")[2].partition("(")[0] or "?"
