"""`pad(4)|random_crop(32)|flip_lr` into a pipeline: the grammar of --preprocess, and pipelines with a name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from trainer.errors import UsageError, unknown_name
from trainer.preprocessing import geometry
from trainer.preprocessing.named import PIPELINES, Named
from trainer.preprocessing.pipeline import OPERATIONS, Operation, Pipeline, parameters_of
from trainer.settings.arguments import bind, parse_arguments
from trainer.settings.fields import is_reference
from trainer.settings.plugins import UserCode

# A name, or a function of the user's: `path/file.py:function`, `package.module:function`.
CALL = re.compile(r"\s*([^\W\d]\w*|[^()|]*?:\s*[^\W\d]\w*|[^()|]*?\.py)\s*(?:\((.*)\))?\s*", re.DOTALL)


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
    args, kwargs = parse_arguments(what, found[2])
    if not named.size:
        raise UsageError(f"{what}: {found[1]} takes no arguments")
    parameters = list(inspect.signature(_takes_size).parameters.values())
    return named.of(bind(what, _takes_size, parameters, args, kwargs).arguments["size"])


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
    args, kwargs = parse_arguments(what, found[2] or "")
    bound = bind(what, function, parameters_of(function, is_own), args, kwargs, is_own=is_own)
    return Operation(found[1], function, bound.args, bound.kwargs)
