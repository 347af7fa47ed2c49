"""`1, 0.5..1.5, name=word` into the arguments of a function: what a setting writes behind the name of one.

The annotations of the function say what is legal; for one of the user's, also the types of its defaults.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trainer.errors import UsageError
from trainer.settings.fields import Legal

QUOTED_OR_RANGE = re.compile(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(-?[\d.]*\d)\.\.(-?\d[\d.]*)")
CHECKED_TYPES = (bool, int, float, str, tuple)  # of the arguments of a user's function
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", tuple: "a tuple, as (1, 2)"}


def parse_arguments(what: str, text: str) -> tuple[list[Any], dict[str, Any]]:
    """Reads literals, words without quotes, and ranges as 0.5..1.5, which become pairs.

    Raises:
      UsageError: the text is something else.
    """
    with_pairs = QUOTED_OR_RANGE.sub(lambda found: found[1] or f"({found[2]}, {found[3]})", text)
    try:
        call = ast.parse(f"f({with_pairs})", mode="eval").body
        assert isinstance(call, ast.Call)
        args = list(map(_literal, call.args))
        return args, {keyword.arg or "**": _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{what}: the arguments are no literals; write numbers, ranges as 0.5..1.5 and words, joined by commas"
        ) from error


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def bind(
    what: str,
    function: Callable[..., object],
    parameters: list[inspect.Parameter],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    is_own: bool = False,
) -> inspect.BoundArguments:
    """Checks arguments.

    Args:
      what: of the setting, for messages.
      function: that takes them.
      parameters: those of its parameters that the setting may give.
      args: by position.
      kwargs: by name.
      is_own: is it a function of the user's.

    Raises:
      UsageError: an argument is missing, unknown, or of another type or range.
    """
    signature = inspect.Signature(parameters)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{what}: {error}; it takes {describe(parameters) or 'no arguments'}") from error
    types = _own_types(parameters) if is_own else typing.get_type_hints(function, include_extras=True)
    for name, value in bound.arguments.items():
        if name not in types:
            continue
        is_several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for each in value if is_several else (value,):
            _check(f"{what}: {name}", types[name], each)
    return bound


def _own_types(parameters: Iterable[inspect.Parameter]) -> dict[str, type]:
    """Finds the plain types in the annotations of a user's function, or else those of its defaults."""
    by_name: dict[Any, type] = {key: each for each in CHECKED_TYPES for key in (each, each.__name__)}
    found = {parameter.name: by_name.get(parameter.annotation, type(parameter.default)) for parameter in parameters}
    return {name: kind for name, kind in found.items() if kind in CHECKED_TYPES}


def describe(parameters: Iterable[inspect.Parameter]) -> str:
    """Writes parameters as they stand in a signature, without their types."""

    def text(parameter: inspect.Parameter) -> str:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return f"{parameter.name}, ..."
        empty = parameter.default is inspect.Parameter.empty
        return parameter.name if empty else f"{parameter.name}={parameter.default!r}"

    return ", ".join(map(text, parameters))


def _check(what: str, annotation: Any, value: Any) -> None:
    """Checks a value by `Annotated[TYPE, Legal]`, or a plain type; None is legal where the annotation has it."""
    options = [option for option in typing.get_args(annotation) if option is not type(None)]
    if typing.get_origin(annotation) not in (typing.Annotated, None, tuple):  # TYPE | None
        (annotation,) = options
    base, *legal = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Annotated else (annotation,)
    limits = next((each for each in legal if isinstance(each, Legal)), None)
    kind = KINDS.get(base, "")
    if not limits and not _is_of(base, value):
        raise UsageError(f"{what}={value!r} is not legal: wanted {kind or base.__name__}")
    if limits and not (_is_of(base, value) and limits.holds(value)):
        raise UsageError(
            f"{what}={value!r} is out of range: {f'{kind}, ' if base in (int, float) else ''}{limits.text}"
        )


def _is_of(base: Any, value: Any) -> bool:
    if base is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if base is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(base) is tuple:
        kinds = typing.get_args(base)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_of, kinds, value))
    return isinstance(value, base)
