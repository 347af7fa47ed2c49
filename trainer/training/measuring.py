"""A run's steps under a clock: windows of steps with and without what stands around them, and the machine's limit."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np

from trainer.console import Console
from trainer.reporting.report import Report
from trainer.reporting.result import RunResult
from trainer.running.loop import LoopLimits, LoopState, run_steps
from trainer.running.session import open_session
from trainer.saving import checkpoints
from trainer.settings import flags
from trainer.settings.config import Config
from trainer.signals import Signals
from trainer.tf1 import op_determinism, tf
from trainer.training.chief import make_chief
from trainer.training.graphs import Graphs, build_graphs
from trainer.training.job import Job
from trainer.training.starting import prepare

ENDLESS = 1 << 40
MATMUL_SIZE = 2048


class Bench(NamedTuple):
    """A run that stands ready; nothing is trained outside of its windows."""

    job: Job
    graphs: Graphs
    session: tf.Session
    hooks: list[tf.train.SessionRunHook]  # what the run has besides its steps
    state: LoopState
    ops: checkpoints.CheckpointOps

    def steps(self, seconds: float, *, hooks: bool = False) -> float:
        """Trains for so long, at least one step; returns the seconds that a step took."""
        first, begin = self.state.step, time.perf_counter()
        run_steps(
            self.session,
            self.graphs.train,
            self.hooks if hooks else [],
            self.state,
            LoopLimits(last_step=ENDLESS, steps_per_loop=self.job.config.steps_per_loop),
            should_stop=lambda: time.perf_counter() - begin >= seconds and self.state.step > first,
            after_steps=lambda count: None,
            say=self.job.console.say,
        )
        return (time.perf_counter() - begin) / (self.state.step - first)

    def runs(self, fetches: list[tf.Operation], seconds: float) -> float:
        """Runs operations again and again for so long; returns the seconds that a run took."""
        return seconds_of(self.session.make_callable(fetches), seconds)


def seconds_of(call: Callable[[], object], seconds: float) -> float:
    """Calls for so long, at least once; returns the seconds of one call."""
    begin, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begin < seconds:
        call()
        count += 1
    return (time.perf_counter() - begin) / count


@contextmanager
def open_bench(config: Config, console: Console, signals: Signals) -> Iterator[Bench]:
    """Opens a run as training does, with its input running and its hooks made, but does not train.

    Args:
      config: of the run; its log directory is written to.
      console: is told what a run says.
      signals: of the program.
    """
    with ExitStack() as stack:
        stack.enter_context(op_determinism(config.deterministic))
        job = prepare(config, console, stack)
        graph = stack.enter_context(tf.Graph().as_default())
        result = RunResult(step=0, devices=job.devices.towers, skipped_records=0)
        report = stack.enter_context(
            Report(
                job.rundir, result, job.task.metrics.goal, first_step=0, batch_size=config.batch_size, say=console.say
            )
        )
        tf.set_random_seed(config.seed)
        graphs = build_graphs(job)
        ops = checkpoints.build_checkpoint_ops()
        report.start(graph, flags.to_flagfile(config))
        chief = make_chief(job, graphs, signals, report, ops)
        verify, hooks = graphs.build_verify(signals.check), chief.periodic.hooks
        opened = stack.enter_context(
            open_session(graphs.source, job.session_config(), None, verify=verify, hooks=hooks)
        )
        opened.session.run(graphs.train.stage_first)
        yield Bench(job, graphs, opened.session, hooks, LoopState(0), ops)


def step_flops(gradients: Sequence[tf.Tensor]) -> int:
    """Adds up the floating-point operations of the matrix products and convolutions that give these gradients.

    A product of [m, k] and [k, n] has 2*m*n*k; a convolution 2*k for each element of its output, where k elements of
    the filter meet there; its two gradients as many each. What has no fixed shape is not counted.
    """
    # Not all operations of the graph: it holds gradients that nobody asks for, as that of the images.
    total, seen, waiting = 0, set(), [gradient.op for gradient in gradients]
    while waiting:
        op = waiting.pop()
        if op.name not in seen:
            seen.add(op.name)
            known = all(tensor.shape.is_fully_defined() for tensor in (*op.inputs, *op.outputs))
            total += FLOPS[op.type](op) if op.type in FLOPS and known else 0
            waiting += [tensor.op for tensor in op.inputs]
    return total


def _matmul_flops(op: tf.Operation) -> int:
    k = int(op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1])
    return 2 * k * int(np.prod(op.outputs[0].shape.as_list()))


def _conv_flops(op: tf.Operation, activations: tf.Tensor, filters: list[int]) -> int:
    """Of a filter [height, width, in, out] on the side of the output channels."""
    return 2 * int(np.prod(activations.shape.as_list())) * int(np.prod(filters[:3]))


def _depthwise_flops(activations: tf.Tensor, filters: list[int]) -> int:
    return 2 * int(np.prod(activations.shape.as_list())) * int(np.prod(filters[:2]))


FLOPS: dict[str, Callable[[tf.Operation], int]] = {
    "MatMul": _matmul_flops,
    "Conv2D": lambda op: _conv_flops(op, op.outputs[0], op.inputs[1].shape.as_list()),
    # Each channel has filters of its own, [height, width, in, multiplier].
    "DepthwiseConv2dNative": lambda op: _depthwise_flops(op.outputs[0], op.inputs[1].shape.as_list()),
    "DepthwiseConv2dNativeBackpropInput": lambda op: _depthwise_flops(op.inputs[2], op.inputs[1].shape.as_list()),
    "DepthwiseConv2dNativeBackpropFilter": lambda op: _depthwise_flops(op.inputs[2], op.outputs[0].shape.as_list()),
    "Conv2DBackpropInput": lambda op: _conv_flops(op, op.inputs[2], op.inputs[1].shape.as_list()),
    "Conv2DBackpropFilter": lambda op: _conv_flops(op, op.inputs[2], op.outputs[0].shape.as_list()),
}


@contextmanager
def open_matmul(job: Job) -> Iterator[Callable[[float], float]]:
    """Yields what measures the rate of a large matrix product on the first tower's device: operations a second.

    It takes the seconds for which it measures. The product is of float32, with the threads of the run.
    """
    with tf.Graph().as_default(), tf.device(job.devices.towers[0]):
        factors = [
            tf.get_variable(name, initializer=tf.random.normal([MATMUL_SIZE] * 2, seed=1)) for name in ("a", "b")
        ]
        product = tf.matmul(*factors).op
        with tf.Session(config=job.session_config()) as session:
            session.run(tf.global_variables_initializer())
            call = session.make_callable(product)
            call()
            yield functools.partial(_rate, call)


def _rate(call: Callable[[], object], seconds: float) -> float:
    return 2 * MATMUL_SIZE**3 / seconds_of(call, seconds)


def peak_memory_mib() -> float:
    """Is the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
