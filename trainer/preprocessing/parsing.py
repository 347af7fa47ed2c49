"""`pad(4)|random_crop(32)|flip_lr` into a pipeline: the grammar of --preprocess, and pipelines with a name."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any

from trainer.errors import UsageError, unknown_name
from trainer.preprocessing import geometry
from trainer.preprocessing.named import PIPELINES, Named
from trainer.preprocessing.pipeline import OPERATIONS, Operation, Pipeline, parameters_of
from trainer.settings.fields import Legal
from trainer.settings.plugins import UserCode, is_reference

QUOTED_OR_RANGE = re.compile(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(-?[\d.]*\d)\.\.(-?\d[\d.]*)")
# A name, or a function of the user's: `path/file.py:function`, `package.module:function`.
CALL = re.compile(r"\s*([^\W\d]\w*|[^()|]*?:\s*[^\W\d]\w*|[^()|]*?\.py)\s*(?:\((.*)\))?\s*", re.DOTALL)
CHECKED_TYPES = (bool, int, float, str)  # of the arguments of a user's operation


def parse_pipeline(name: str, text: str, *, training: bool = False, code: UserCode | None = None) -> Pipeline:
    """Reads a pipeline.

    Args:
      name: of the flag, for messages.
      text: operations joined by `|`, or the name of a pipeline.
      training: may it be random.
      code: loads the functions of the user's; None: from where they say.

    Raises:
      UsageError: it is none.
    """
    named = _find_named(name, text)
    if named:
        text = named.training if training else named.evaluation
    parts = _split(text)
    known = [*OPERATIONS, *PIPELINES] if len(parts) == 1 else [*OPERATIONS]
    operations = tuple(_parse_operation(name, part, code or UserCode(), known) for part in parts)
    random = [operation.name for operation in operations if operation.is_random]
    if random and not training:
        raise UsageError(f"--{name}={text}: {random[0]} is random, and only --preprocess, of the training, may be")
    return Pipeline(text, operations)


def evaluation_of(preprocess: str, eval_preprocess: str, code: UserCode | None = None) -> str:
    """Chooses the pipeline of all but the training: given, or that of the same name, or the one without what is random.

    Args:
      preprocess: of the training.
      eval_preprocess: empty where none is given.
      code: loads the functions of the user's.
    """
    if eval_preprocess or _find_named("preprocess", preprocess):
        return eval_preprocess or preprocess
    parts, code = _split(preprocess), code or UserCode()
    return "|".join(part.strip() for part in parts if not _parse_operation("preprocess", part, code).is_random)


def _find_named(name: str, text: str) -> Named | None:
    """Finds the pipeline of a name, as `inception` or `inception(224)`; None where it is another one.

    Raises:
      UsageError: what stands in its parentheses is no size.
    """
    found = CALL.fullmatch(text)
    if not found or found[1] not in PIPELINES:
        return None
    named, what = PIPELINES[found[1]], f"--{name}: {text.strip()}"
    if found[2] is None:
        return named.of(named.size)
    args, kwargs = _parse_arguments(what, found[2])
    if not named.size:
        raise UsageError(f"{what}: {found[1]} takes no arguments")
    (size,), _ = _bind(what, _takes_size, args, kwargs)
    return named.of(size)


def _takes_size(size: geometry.Side) -> None:
    """Has the argument of a pipeline with a name."""


def _split(text: str) -> list[str]:
    """Splits at each `|` that stands in no parentheses."""
    if not text.strip():
        return []
    return re.split(r"\|(?![^(]*\))", text)


def _parse_operation(name: str, text: str, code: UserCode, known: Sequence[str] = ()) -> Operation:
    found = CALL.fullmatch(text)
    if not found:
        own = "; a path may not hold ( ) |" if ":" in text or ".py" in text else ""
        raise UsageError(f"--{name}: {text.strip()!r} is no operation; write NAME or NAME(1, name=2), joined by |{own}")
    is_own = is_reference(found[1])
    function = code.load(found[1]) if is_own else OPERATIONS.get(found[1])
    if function is None and found[1] in PIPELINES:
        raise UsageError(
            f"--{name}: {found[1]} is a whole pipeline, and stands alone; docs/preprocessing.md tells its operations"
        )
    if function is None:
        raise unknown_name(f"--{name}: operation", found[1], known or OPERATIONS)
    what = f"--{name}: {text.strip()}"
    names = list(inspect.signature(function).parameters)
    if is_own and (not names or ("draws" in names and names.index("draws") != 1)):
        raise UsageError(f"{what}: it takes {', '.join(names) or 'nothing'}; wanted images, then draws if it is random")
    args, kwargs = _parse_arguments(what, found[2] or "")
    return Operation(found[1], function, *_bind(what, function, args, kwargs, is_own=is_own))


def _parse_arguments(what: str, text: str) -> tuple[list[Any], dict[str, Any]]:
    """Reads literals, and ranges as 0.5..1.5, which become pairs."""
    with_pairs = QUOTED_OR_RANGE.sub(lambda found: found[1] or f"({found[2]}, {found[3]})", text)
    try:
        call = ast.parse(f"f({with_pairs})", mode="eval").body
        assert isinstance(call, ast.Call)
        args = list(map(ast.literal_eval, call.args))
        return args, {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{what}: the arguments are no literals; write numbers, ranges as 0.5..1.5 and 'texts', joined by commas"
        ) from error


def _bind(
    what: str, function: Callable[..., object], args: list[Any], kwargs: dict[str, Any], *, is_own: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Checks arguments by the annotations of a function; returns them."""
    parameters = parameters_of(function, is_own)
    signature = inspect.Signature(parameters)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{what}: {error}; it takes {_describe(parameters) or 'no arguments'}") from error
    types = _own_types(parameters) if is_own else typing.get_type_hints(function, include_extras=True)
    for name, value in bound.arguments.items():
        if name not in types:
            continue
        is_several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for each in value if is_several else (value,):
            _check(f"{what}: {name}", types[name], each)
    return bound.args, bound.kwargs


def _own_types(parameters: Sequence[inspect.Parameter]) -> dict[str, type]:
    """Finds the plain types in the annotations of a user's operation."""
    by_name: dict[Any, type] = {key: each for each in CHECKED_TYPES for key in (each, each.__name__)}
    return {
        parameter.name: by_name[parameter.annotation] for parameter in parameters if parameter.annotation in by_name
    }


def _describe(parameters: list[inspect.Parameter]) -> str:
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
    kind = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "True or False"}.get(base, "")
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
