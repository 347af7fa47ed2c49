"""Which variables are trained: frozen ones have no gradient, no optimizer slot, no average and no weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trainer.errors import UsageError
from trainer.tf1 import tf


def in_scope(name: str, scope: str) -> bool:
    """Is a variable the one of this name, or inside of the scope?"""
    return name == scope or name.startswith(f"{scope}/")


def is_frozen(name: str, trainable_scopes: Sequence[str], freeze_scopes: Sequence[str]) -> bool:
    """Is a variable left as it is? With `trainable_scopes` all others are; `freeze_scopes` always are."""
    outside = bool(trainable_scopes) and not any(in_scope(name, scope) for scope in trainable_scopes)
    return outside or any(in_scope(name, scope) for scope in freeze_scopes)


def freezing_getter(trainable_scopes: Sequence[str], freeze_scopes: Sequence[str]) -> Callable[..., tf.Variable]:
    """Makes a `custom_getter` that makes frozen variables not trainable."""

    def get(getter: Callable[..., tf.Variable], name: str, *args: Any, **kwargs: Any) -> tf.Variable:
        if is_frozen(name, trainable_scopes, freeze_scopes):
            kwargs |= {"trainable": False}
        return getter(name, *args, **kwargs)

    return get


def check_scopes(names: Iterable[str], trainable_scopes: Sequence[str], freeze_scopes: Sequence[str]) -> None:
    """Checks the scopes against the names of the model's variables.

    Raises:
      UsageError: a scope holds no variable, or nothing is left to train.
    """
    names = list(names)
    for flag, scopes in (("trainable_scopes", trainable_scopes), ("freeze_scopes", freeze_scopes)):
        for scope in scopes:
            if not any(in_scope(name, scope) for name in names):
                there = ", ".join(sorted({name.rpartition("/")[0] for name in names}))
                raise UsageError(f"{flag}={scope} holds no variable of the model; its scopes are {there}")
    if all(is_frozen(name, trainable_scopes, freeze_scopes) for name in names):
        raise UsageError("--trainable_scopes and --freeze_scopes leave no variable to train")
