"""Hooks as TensorFlow runs them: `begin`, `after_create_session`, `before_run`, `after_run`, `end`, `request_stop`.

One thing more: a hook with a method `due(step) -> bool` is only run at the steps for which it says yes, and asking it
changes nothing. Hooks without it, as TensorFlow's own, are run at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trainer.tf1 import tf

Hooks = Sequence[tf.train.SessionRunHook]


class Hooked(NamedTuple):
    """A step that was run with hooks."""

    values: list[Any]  # of the targets
    after_run: Callable[[], bool]  # calls the hooks with theirs; returns whether one of them asks to stop


def is_due(hook: tf.train.SessionRunHook, step: int) -> bool:
    """Is a hook to be run with this step?"""
    return bool(hook.due(step)) if hasattr(hook, "due") else True


def steps_before_due(hooks: Hooks, step: int, most: int) -> int:
    """Counts the steps after `step` at which no hook is due, up to `most` and up to the first at which one is."""
    for free in range(most):
        if any(is_due(hook, step + free + 1) for hook in hooks):
            return free
    return most


def begin(hooks: Hooks) -> None:
    """Lets the hooks add operations to the default graph, for the last time."""
    for hook in hooks:
        hook.begin()


def after_create_session(hooks: Hooks, session: tf.Session, coord: tf.train.Coordinator) -> None:
    """Tells the hooks that the variables have their values."""
    for hook in hooks:
        hook.after_create_session(session, coord)


def end(hooks: Hooks, session: tf.Session) -> None:
    """Tells the hooks that the steps are over, where no error has ended them."""
    for hook in hooks:
        hook.end(session)


def run_with_hooks(session: tf.Session, targets: list[Any], hooks: Hooks) -> Hooked:
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

    def after_run() -> bool:
        for number, hook in enumerate(hooks):
            hook.after_run(context, tf.train.SessionRunValues(values.get(number), options, metadata))
        return bool(context.stop_requested)

    return Hooked(values["targets"], after_run)
