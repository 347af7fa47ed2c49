"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trainer.errors import NotFiniteError
from trainer.graph import TrainGraph
from trainer.tf1 import tf


class LoopEnd(NamedTuple):
    step: int  # finished updates
    loss: float | None  # of the last one; None where there was none


def run_steps(
    session: tf.Session,
    graph: TrainGraph,
    hooks: Sequence[tf.train.SessionRunHook],
    *,
    step: int,
    last_step: int,
    should_stop: Callable[[], bool],
    after_step: Callable[[], None],
) -> LoopEnd:
    """Trains from `step` finished updates to `last_step`, or until `should_stop`.

    Raises:
      NotFiniteError: the loss of a step was NaN or infinite; the hooks of that step have not run.
    """
    targets = [graph.train_op, graph.step, graph.loss]
    fast = session.make_callable(targets)
    loss: float | None = None
    while step < last_step and not should_stop():
        due = [hook for hook in hooks if is_due(hook, step + 1)]
        if due:
            step, loss = _run_with_hooks(session, targets, due)
        else:
            _, step_v, loss_v = fast()
            step, loss = check_finite(step_v, loss_v)
        after_step()
    return LoopEnd(step, loss)


def is_due(hook: tf.train.SessionRunHook, step: int) -> bool:
    return bool(hook.due(step)) if hasattr(hook, "due") else True


def _run_with_hooks(session: tf.Session, targets: list[Any], hooks: Sequence[tf.train.SessionRunHook]) -> LoopEnd:
    """Runs one step with what the hooks want fetched, traced or fed, as a MonitoredSession does."""
    fetches: dict[Any, Any] = {"targets": targets}
    feeds: dict[Any, Any] = {}
    options, metadata = tf.RunOptions(), tf.RunMetadata()
    context = tf.train.SessionRunContext(tf.train.SessionRunArgs(targets), session)
    for number, hook in enumerate(hooks):
        request = hook.before_run(context)
        if request is None:
            continue
        if request.fetches is not None:
            fetches[number] = request.fetches
        feeds.update(request.feed_dict or {})
        if request.options is not None:
            options.MergeFrom(request.options)
    values = session.run(fetches, feeds, options, metadata)
    end = check_finite(*values["targets"][1:])
    for number, hook in enumerate(hooks):
        hook.after_run(context, tf.train.SessionRunValues(values.get(number), options, metadata))
    return end


def check_finite(step_v: Any, loss_v: Any) -> LoopEnd:
    step, loss = int(step_v), float(loss_v)
    if not math.isfinite(loss):
        raise NotFiniteError(f"step {step}: the loss is {loss}; a lower --learning_rate or --clip may help")
    return LoopEnd(step, loss)
