"""Settings as Python gives them: values of the fields of `Config`, and functions for names of functions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import UsageError, unknown_name
from trainer.grammars import local_path
from trainer.settings.config import Config, validate
from trainer.settings.flags import nearest
from trainer.settings.plugins import given_reference

# Settings that only mean something to a program, and what stands for them here.
OF_COMMANDS = {
    "dry_run": "make_config(...) checks settings",
    "group_readable": "os.umask decides who may read what this process writes",
}
OF_TEXTS = {"preprocess", "eval_preprocess"}  # which hold functions among other operations
TAKERS = sorted({field.name for field in dataclasses.fields(Config) if field.metadata["code"]} - OF_TEXTS)
Functions = dict[str, Callable[..., Any]]  # given to this process, by their paths in references


def only_functions(functions: Mapping[str, Any]) -> Functions:
    """Takes functions by the names of settings.

    Raises:
      UsageError: a name is no such setting, or a value is no function.
    """
    for name, value in functions.items():
        if name not in TAKERS:
            raise unknown_name("argument", name, TAKERS)
        if not callable(value):
            raise UsageError(f"{name}={value!r} is a {type(value).__name__}, wanted a function")
    return name_functions(functions)[1]


def name_functions(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Functions]:
    """Puts references in the place of functions.

    Raises:
      UsageError: a setting names no function.
    """
    named, given = dict(settings), Functions()
    for name, value in settings.items():
        if callable(value) and not isinstance(value, str):
            if name not in TAKERS:
                raise UsageError(f"{name} takes no function; these do: {', '.join(TAKERS)}")
            named[name], path = given_reference(name, value)
            if path:
                given[path] = value
    return named, given


def make_config(**settings: Any) -> Config:
    """Makes a checked `Config`.

    Raises:
      UsageError: a setting is unknown or illegal.
    """
    fields = {field.name: field for field in dataclasses.fields(Config)}
    for name in settings:
        if name not in fields:
            hint = nearest(name, list(fields), dashes="") or "; `python -m trainer --help` lists all"
            raise UsageError(f"{name} is no setting{hint}")
        if name in OF_COMMANDS:
            raise UsageError(f"{name} is of the command line: {OF_COMMANDS[name]}")
    return validate(Config(**{name: _value(fields[name], value) for name, value in settings.items()}))


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    """Makes a value what its flag would make of it.

    Raises:
      UsageError: it is of another type.
    """
    if isinstance(value, os.PathLike):
        value = str(Path(value))
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # Of numpy.
    if isinstance(field.default, tuple):
        if isinstance(value, str):
            value = [value] if field.metadata["repeated"] else value.split(",")
        if not isinstance(value, list | tuple):
            raise UsageError(f"{field.name}={value!r} is a {type(value).__name__}, wanted a list of texts")
        for item in value:
            if not isinstance(item, str):
                raise UsageError(f"{field.name} holds {item!r}, a {type(item).__name__}; wanted str")
        return tuple(value)
    kind = type(field.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # As summary_every=100.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{field.name}={value!r} is a {type(value).__name__}, wanted {kind.__name__}")
    return local_path(field.name, str(value)) if field.metadata["path"] else value
