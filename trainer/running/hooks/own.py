"""Hooks of the user's own: stock `SessionRunHook`s, whose errors name the user's file and line."""

from __future__ import annotations

from typing import Any

from trainer.errors import UsageError
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf


class OwnHook(tf.train.SessionRunHook):
    """Calls a hook of the user's: at every step, or where it has `due(step)`, when that says yes."""

    def __init__(self, hook: tf.train.SessionRunHook, code: UserCode, reference: str) -> None:
        self._hook, self._errors_named = hook, code.errors_of(reference)

    def due(self, step: int) -> bool:
        with self._errors_named():
            return bool(self._hook.due(step)) if hasattr(self._hook, "due") else True

    def begin(self) -> None:
        with self._errors_named():
            self._hook.begin()

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        with self._errors_named():
            self._hook.after_create_session(session, coord)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs | None:
        with self._errors_named():
            return self._hook.before_run(run_context)

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues) -> None:
        with self._errors_named():
            self._hook.after_run(run_context, run_values)

    def end(self, session: tf.Session) -> None:
        with self._errors_named():
            self._hook.end(session)


def make_own_hooks(reference: str, code: UserCode) -> list[tf.train.SessionRunHook]:
    """Calls a function `hooks()` of the user's in the graph of the training; none where no function is named.

    Raises:
      UsageError: it fails, or returns something else.
    """
    if not reference:
        return []
    made: Any = code.load(reference, default="hooks")()
    several = made if isinstance(made, list | tuple) else [made]
    for hook in several:
        if not isinstance(hook, tf.train.SessionRunHook):
            raise UsageError(f"--hooks={reference} returned a {type(hook).__name__}; wanted SessionRunHooks")
    return [OwnHook(hook, code, reference) for hook in several]
