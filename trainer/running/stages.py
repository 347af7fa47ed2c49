"""The stages of an input pipeline, and which of them is to blame where a step does not end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from trainer.tf1 import tf

PROBE_MILLISECONDS = 2000
STACK_DEPTH = 4


class Stage(NamedTuple):
    """A queue and the threads that fill it."""

    name: str  # of the queue
    capacity: int  # elements
    minimum: int  # elements that a RandomShuffleQueue never gives away
    num_threads: int  # that should be filling it
    size: tf.Tensor  # int32 [], elements in it now
    close: tf.Operation  # wakes whoever waits for the queue, with an error


def build_stages(queues: Sequence[tf.QueueBase] = ()) -> list[Stage]:
    """Builds probes of all queues that have a QueueRunner, and of `queues` that one Python thread fills; in data order.

    A thread that fills a queue is named `QueueRunnerThread-QUEUE-OPERATION`, as QueueRunner does.
    """
    fillers: dict[str, tuple[tf.QueueBase, int]] = {}
    for runner in tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS):
        _, count = fillers.get(runner.queue.name, (None, 0))
        fillers[runner.queue.name] = (runner.queue, count + len(runner.enqueue_ops))
    fillers.update({queue.name: (queue, 1) for queue in queues})
    return [_stage(queue, count) for queue, count in fillers.values()]


def _stage(queue: tf.QueueBase, num_threads: int) -> Stage:
    op = queue.queue_ref.op
    minimum = op.get_attr("min_after_dequeue") if op.type.startswith("RandomShuffleQueue") else 0
    return Stage(
        queue.name,
        op.get_attr("capacity"),
        minimum,
        num_threads,
        queue.size(),
        queue.close(cancel_pending_enqueues=True),
    )


def read_sizes(session: tf.Session, stages: Sequence[Stage]) -> list[int] | None:
    """Reads how full the queues are; None where the session does not answer."""
    options = tf.RunOptions(timeout_in_ms=PROBE_MILLISECONDS)
    try:
        return [int(size) for size in session.run([stage.size for stage in stages], options=options)]
    except tf.errors.OpError:
        return None


def close_queues(session: tf.Session, stages: Sequence[Stage], more: Sequence[tf.Operation] = ()) -> None:
    """Wakes a step that waits for its input, or for what else `more` closes; it fails."""
    options = tf.RunOptions(timeout_in_ms=PROBE_MILLISECONDS)
    for close in [*(stage.close for stage in reversed(stages)), *more]:
        with contextlib.suppress(tf.errors.OpError):  # It is closed already, or its server has gone.
            session.run(close, options=options)


def describe_stages(
    stages: Sequence[Stage],
    sizes: Sequence[int] | None,
    threads: Iterable[threading.Thread],
    frames: Mapping[int, FrameType],
    *,
    in_cluster: bool = False,
) -> list[str]:
    """Says which stage keeps the step waiting, then how each of them is.

    Args:
      stages: in data order; the step takes from the last.
      sizes: elements of each queue, None where they are unknown.
      threads: of this process.
      frames: what each thread does, by its ident.
      in_cluster: may the step wait for other tasks.
    """
    lines, states = [], []
    threads = list(threads)
    for number, stage in enumerate(stages):
        prefix = f"QueueRunnerThread-{stage.name}-"
        own = [t for t in threads if t.name.startswith(prefix) and not t.name.endswith("close_on_stop")]
        level = _level(stage, sizes[number]) if sizes else "unknown"
        states.append((stage, level, own))
        full = f"{sizes[number]} of {stage.capacity} elements ({level})" if sizes else "size unknown"
        lines.append(f"  queue {stage.name}: {full}; {_runners(stage, own)}")
        lines += [f"    {t.name}: {stack(frames[t.ident])}" for t in own if t.ident is not None and t.ident in frames]
    return [verdict(states, in_cluster=in_cluster), *lines]


def _level(stage: Stage, size: int) -> str:
    if size >= stage.capacity > 0:
        return "full"
    if size <= stage.minimum:
        return "below its minimum" if stage.minimum else "empty"
    return "filled"


def _runners(stage: Stage, own: Sequence[threading.Thread]) -> str:
    missing = stage.num_threads - len(own)
    return f"{len(own)} of {stage.num_threads} threads that fill it {'are alive' if not missing else 'are left'}"


def verdict(states: Sequence[tuple[Stage, str, Sequence[threading.Thread]]], *, in_cluster: bool = False) -> str:
    """Names the stage that is to blame: the first dead one, or the first empty one, whose input then is not empty."""
    hangs = "hangs, or waits for another task: see their logs" if in_cluster else "itself hangs"
    if not states:
        return f"this input has no queue: the computation {hangs}"
    for stage, level, own in states:
        if level != "full" and len(own) < stage.num_threads:
            return f"the thread that fills queue {stage.name} is dead or was never started"
    if states[-1][1] in ("full", "filled"):
        return f"queue {states[-1][0].name} has what the step needs: the computation {hangs}"
    for stage, level, _ in states:
        if level in ("empty", "below its minimum"):
            return f"queue {stage.name} is {level} and the thread that fills it is blocked"
    return "the queues do not answer"


def stack(frame: FrameType, depth: int = STACK_DEPTH) -> str:
    """Writes a stack in one line, innermost call first: `file.py:12 name < file.py:34 name`."""
    calls: list[str] = []
    current: FrameType | None = frame
    while current is not None and len(calls) < depth:
        calls.append(f"{Path(current.f_code.co_filename).name}:{current.f_lineno} {current.f_code.co_name}")
        current = current.f_back
    return " < ".join(calls)


def other_python_stacks(frames: Mapping[int, FrameType]) -> list[str]:
    """Describes threads of TensorFlow that are inside Python code, as a reader that is a `py_func`."""
    known = {thread.ident for thread in threading.enumerate()}
    return [f"  a thread of TensorFlow: {stack(frame)}" for ident, frame in frames.items() if ident not in known]
