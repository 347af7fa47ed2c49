"""`1, 0.5..1.5, name=word` into the arguments of a function: what a setting writes behind the name of one.

The annotations of the function say what is legal; for one of the user's, also the types of its defaults.
"""

from __future__ import annotations

import ast
import functools
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
    types = _own_types(parameters) if is_own else typing.get_type_hints(plain(function), include_extras=True)
    for name, value in bound.arguments.items():
        if name not in types:
            continue
        is_several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for each in value if is_several else (value,):
            _check(f"{what}: {name}", types[name], each)
    return bound


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function behind one of which some arguments are given already."""
    return function.func if isinstance(function, functools.partial) else function


def _own_types(parameters: Iterable[inspect.Parameter]) -> dict[str, type]:
    """Finds the plain types in the annotations of a user's function, or else those of its defaults."""
    by_name: dict[Any, type] = {key: each for each in CHECKED_TYPES for key in (each, each.__name__)}
    found = {
        parameter.name: by_name.get(parameter.annotation, type(parameter.default))
        if isinstance(parameter.annotation, type | str)
        else type(parameter.default)
        for parameter in parameters
    }
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


def bind_options(
    kind: str,
    name: str,
    function: Callable[..., object],
    given: Sequence[str],
    texts: Sequence[str],
    *,
    is_own: bool,
) -> dict[str, Any]:
    """Reads the options of a function that takes some arguments in first place: `--KIND_args='name=value, ...'`.

    Args:
      kind: of the setting that names the function, as `loss`.
      name: of the function, as that setting says it.
      function: whose options they are.
      given: names, for messages, of what it takes in first place.
      texts: of options, of which later ones win.
      is_own: is it a function of the user's.

    Raises:
      UsageError: it takes something else, or an option is unknown or illegal.
    """
    parameters = list(inspect.signature(function).parameters.values())
    kinds = [parameter.kind for parameter in parameters]
    first = kinds[: len(given)]
    is_keyword = inspect.Parameter.KEYWORD_ONLY in first or inspect.Parameter.VAR_KEYWORD in first
    if (len(first) < len(given) or is_keyword) and inspect.Parameter.VAR_POSITIONAL not in first:
        wanted = ", ".join(given)
        raise UsageError(
            f"--{kind}={name} takes ({describe(parameters)}); wanted {kind}({wanted}, option=default, ...)"
        )
    if "labels" in given[1:] and re.match(r"labels?\b|y_true|targets?\b", parameters[0].name):
        raise UsageError(f"--{kind}={name} takes ({describe(parameters)}), labels first; wanted {', '.join(given)}")
    return read_options(kind, name, function, parameters[len(given) :], texts, is_own=is_own)


def read_options(
    kind: str,
    name: str,
    function: Callable[..., object],
    parameters: Iterable[inspect.Parameter],
    texts: Sequence[str],
    *,
    is_own: bool,
) -> dict[str, Any]:
    """Does what `bind_options` does, where it is known which parameters are options."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters if each.kind in named]
    values: dict[str, Any] = {}
    for text in texts:
        args, kwargs = parse_arguments(f"--{kind}_args={text}", text)
        if args:
            has = describe(options) or "none"
            raise UsageError(f"--{kind}_args={text}: write options as name=value; --{kind}={name} has {has}")
        values |= kwargs
    # One for a tuple of one, as hidden_sizes=500.
    several = {option.name for option in options if isinstance(option.default, tuple)}
    values = {key: _tuple_of(value) if key in several else value for key, value in values.items()}
    bound = bind(f"--{kind}_args of --{kind}={name}", function, options, (), values, is_own=is_own)
    return dict(bound.kwargs)


def _tuple_of(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
