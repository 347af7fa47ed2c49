"""`package.module:function` into the function: how what a run plugs together is named."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from trainer.errors import UsageError, unknown_name


def load_function(path: str) -> Callable[..., Any]:
    """Imports the function that `package.module:function` names.

    Raises:
      UsageError: there is no such module, or it defines no such function; the message lists those that it has.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"{path}: {error}; wanted package.module:function") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise unknown_name(f"function {module_name}", name, known)
    function: Callable[..., Any] = found
    return function
