"""`pad(4)|random_crop(32)|flip_lr` into a function of pictures: the grammar of --preprocess, and pipelines with a name.

An operation is a function of pictures, [n, height, width, depth], and of its arguments; one that also takes `draws` is
random. The annotations of its arguments say what is legal.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trainer.errors import UsageError, unknown_name
from trainer.preprocessing import colour, crops, geometry, mixing
from trainer.preprocessing.draws import make_draws
from trainer.preprocessing.named import PIPELINES, Named
from trainer.settings.fields import Legal
from trainer.tf1 import tf

OPERATIONS: dict[str, Callable[..., tf.Tensor]] = {
    "brightness": colour.brightness,
    "central_crop": geometry.central_crop,
    "color": colour.color,
    "contrast": colour.contrast,
    "crop_or_pad": geometry.crop_or_pad,
    "cutmix": mixing.cutmix,
    "cutout": geometry.cutout,
    "distorted_crop": crops.distorted_crop,
    "divide": colour.divide,
    "elastic": geometry.elastic,
    "flip_lr": geometry.flip_lr,
    "flip_ud": geometry.flip_ud,
    "float": colour.to_float,
    "grayscale": colour.grayscale,
    "hue": colour.hue,
    "mixup": mixing.mixup,
    "pad": geometry.pad,
    "random_crop": crops.random_crop,
    "random_resize_short": geometry.random_resize_short,
    "resize": geometry.resize,
    "resize_long": geometry.resize_long,
    "resize_short": geometry.resize_short,
    "rotate": geometry.rotate,
    "saturation": colour.saturation,
    "scale": colour.scale,
    "standardize": colour.standardize,
    "subtract_mean": colour.subtract_mean,
    "translate": crops.translate,
    "transpose": geometry.transpose,
    "unit": colour.unit,
}
# Those that change the values of pixels, and not where they are.
OF_VALUES = frozenset(name for name, function in OPERATIONS.items() if function.__module__ == colour.__name__)


RANGE = re.compile(r"(-?[\d.]*\d)\.\.(-?\d[\d.]*)")
CALL = re.compile(r"\s*([A-Za-z_][\w.:/-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


class Operation(NamedTuple):
    """An operation with its arguments."""

    name: str
    function: Callable[..., tf.Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def is_random(self) -> bool:
        return "draws" in inspect.signature(self.function).parameters

    @property
    def takes_boxes(self) -> bool:
        return "boxes" in inspect.signature(self.function).parameters

    @property
    def arguments(self) -> dict[str, Any]:
        """Returns the arguments by name, with the defaults of those that are left out."""
        bound = inspect.Signature(_parameters_of(self.function)).bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        return bound.arguments


class Pipeline(NamedTuple):
    """What is done to pictures, in this order."""

    text: str
    operations: tuple[Operation, ...]

    @property
    def is_random(self) -> bool:
        return any(operation.is_random for operation in self.operations)

    def __call__(
        self,
        images: tf.Tensor,
        *,
        seed: int = 0,
        keys: tf.Tensor | None = None,
        boxes: tf.Tensor | None = None,
        begin: int = 0,
        end: int | None = None,
    ) -> tf.Tensor:
        """Builds it, or some of its operations.

        Args:
          images: uint8 [n, height, width, depth].
          seed: of the run.
          keys: int64 [n], of the records, as `make_draws` takes them; what is random needs them.
          boxes: of the records' objects, for the first operation, as `crops.distorted_windows` takes them.
          begin: the first operation.
          end: the one behind the last; None: all are built.

        Raises:
          UsageError: an operation does not fit what it gets.
        """
        draws = make_draws(seed, keys) if self.is_random and keys is not None else None
        with tf.name_scope("preprocess"):
            for number, operation in list(enumerate(self.operations))[begin:end]:
                first = [images]
                if operation.is_random:
                    assert draws
                    first.append(draws.of_operation(number))
                more = {"boxes": boxes} if operation.takes_boxes and number == 0 else {}
                images = operation.function(*first, *operation.args, **operation.kwargs, **more)
        return images


def parse_pipeline(name: str, text: str, *, training: bool = False) -> Pipeline:
    """Reads a pipeline.

    Args:
      name: of the flag, for messages.
      text: operations joined by `|`, or the name of a pipeline.
      training: may it be random.

    Raises:
      UsageError: it is none.
    """
    named = _find_named(name, text)
    if named:
        text = named.training if training else named.evaluation
    parts = _split(text)
    known = [*OPERATIONS, *PIPELINES] if len(parts) == 1 else [*OPERATIONS]
    operations = tuple(_parse_operation(name, part, known) for part in parts)
    random = [operation.name for operation in operations if operation.is_random]
    if random and not training:
        raise UsageError(f"--{name}={text}: {random[0]} is random, and only --preprocess, of the training, may be")
    return Pipeline(text, operations)


def evaluation_of(preprocess: str, eval_preprocess: str) -> str:
    """Chooses the pipeline of all but the training: given, or that of the same name, or the one without what is random.

    Args:
      preprocess: of the training.
      eval_preprocess: empty where none is given.
    """
    if eval_preprocess or _find_named("preprocess", preprocess):
        return eval_preprocess or preprocess
    parts = _split(preprocess)
    return "|".join(part.strip() for part in parts if not _parse_operation("preprocess", part).is_random)


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


def _parse_operation(name: str, text: str, known: Sequence[str] = ()) -> Operation:
    found = CALL.fullmatch(text)
    if not found:
        raise UsageError(f"--{name}: {text.strip()!r} is no operation; write NAME or NAME(1, name=2), joined by |")
    function = OPERATIONS.get(found[1])
    if function is None and found[1] in PIPELINES:
        raise UsageError(
            f"--{name}: {found[1]} is a whole pipeline, and stands alone; docs/preprocessing.md tells its operations"
        )
    if function is None:
        raise unknown_name(f"--{name}: operation", found[1], known or OPERATIONS)
    what = f"--{name}: {text.strip()}"
    args, kwargs = _parse_arguments(what, found[2] or "")
    return Operation(found[1], function, *_bind(what, function, args, kwargs))


def _parse_arguments(what: str, text: str) -> tuple[list[Any], dict[str, Any]]:
    """Reads literals, and ranges as 0.5..1.5, which become pairs."""
    with_pairs = RANGE.sub(r"(\1, \2)", text)
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
    what: str, function: Callable[..., object], args: list[Any], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Checks arguments by the annotations of a function; returns them."""
    parameters = _parameters_of(function)
    signature = inspect.Signature(parameters)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{what}: {error}; it takes {_describe(parameters) or 'no arguments'}") from error
    types = typing.get_type_hints(function, include_extras=True)
    for name, value in bound.arguments.items():
        is_several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for each in value if is_several else (value,):
            _check(f"{what}: {name}", types[name], each)
    return bound.args, bound.kwargs


def _parameters_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Lists what stands in the parentheses of an operation."""
    given = ("images", "draws", "boxes")
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.name not in given]


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
    if not _is_of(base, value) or (limits and not limits.holds(value)):
        wanted = limits.text if limits else base.__name__
        kind = {int: "a whole number, ", float: "a number, "}.get(base, "")
        raise UsageError(f"{what}={value!r} is out of range: {kind}{wanted}")


def _is_of(base: Any, value: Any) -> bool:
    if base is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if base is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(base) is tuple:
        kinds = typing.get_args(base)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_of, kinds, value))
    return isinstance(value, base)
