"""`package.module:function` into the function: how what a run plugs together is named."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from trainer.errors import unknown_name


def load_function(path: str) -> Callable[..., Any]:
    """Imports the function that `package.module:function` names.

    Raises:
      UsageError: the module defines no such function; the message lists those that it has.
    """
    module_name, _, name = path.partition(":")
    module = importlib.import_module(module_name)
    found = getattr(module, name, None)
    if not callable(found):
        known = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        raise unknown_name(f"function {module_name}", name, known)
    function: Callable[..., Any] = found
    return function
