"""The function of a model, built-in or the user's: what it takes, and what its options are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.errors import UsageError, unknown_name
from trainer.settings.arguments import describe, plain, read_options
from trainer.settings.fields import is_reference
from trainer.settings.model import MODELS, ONE_VIEW, VIEWS
from trainer.settings.plugins import UserCode, load_function
from trainer.tf1 import tf

# What the trainer gives by name to a function that has such a parameter; all others are its options.
TRAINING = ("training", "is_training", "train", "is_train", "phase_train")  # the names that it has in TF1 programs
SAMPLE = "sample"
GIVEN = ("num_classes", *TRAINING, "reuse", "regularizer", "data_format", SAMPLE)
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ModelFunction(NamedTuple):
    """`build(images, num_classes, training, **options)`, with its options."""

    name: str  # as --model says it
    function: Callable[..., Any]
    takes: frozenset[str]  # of GIVEN
    options: Mapping[str, Any]
    views: str = ONE_VIEW  # of VIEWS, that it asks for in evaluations

    def __call__(self, images: tf.Tensor, **given: Any) -> Any:
        """Calls it on images, with those of GIVEN that it takes."""
        return self.function(images, **{name: given[name] for name in self.takes}, **self.options)


def find_model(model: str, model_args: Sequence[str], code: UserCode) -> ModelFunction:
    """Finds a model's function, and checks its options.

    Args:
      model: a name of MODELS, `file.py:function` or `package.module:function`.
      model_args: texts of `name=value, ...`, of which later ones win.
      code: loads functions of the user's.

    Raises:
      UsageError: there is no such function, it takes something else, or an option is unknown or illegal.
    """
    function = _load(model, code)
    takes, parameters = _parameters(model, function)
    options = read_options("model", model, function, parameters, model_args, is_own=is_reference(model))
    views = getattr(plain(function), "eval_views", ONE_VIEW)
    if views not in VIEWS:
        raise unknown_name(f"{model}: eval_views", str(views), VIEWS)
    return ModelFunction(model, function, takes, options, views)


def _load(model: str, code: UserCode) -> Callable[..., Any]:
    return code.load(model, default="build") if is_reference(model) else load_function(MODELS[model])


def _parameters(model: str, function: Callable[..., Any]) -> tuple[frozenset[str], list[inspect.Parameter]]:
    """Finds which of GIVEN a model takes, and its options.

    Raises:
      UsageError: it does not begin with the images.
    """
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    parameters = [each for name, each in inspect.signature(function).parameters.items() if name not in fixed]
    takes = f"--model={model} takes ({describe(parameters)})"
    wanted = "wanted build(images, num_classes, training, option=default, ...)"
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional or parameters[0].name in GIVEN:
        raise UsageError(f"{takes}, and not the images in first place; {wanted}")
    others = [parameter for parameter in parameters[1:] if parameter.kind in NAMED]
    only = [parameter.name for parameter in parameters[1:] if parameter.kind is inspect.Parameter.POSITIONAL_ONLY]
    if only:
        raise UsageError(f"{takes}, of which {', '.join(only)} cannot be given by name; {wanted}")
    given = frozenset(parameter.name for parameter in others if parameter.name in GIVEN)
    options = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in others]
    return given, [option for option in options if option.name not in GIVEN]


def describe_options(model: str, code: UserCode) -> str:
    """Tells what a model is, and its options with their defaults, a line each.

    Raises:
      UsageError: there is no such function, or it takes something else.
    """
    if not is_reference(model) and model not in MODELS:
        raise unknown_name("help_model", model, MODELS)
    function = _load(model, code)
    given, options = _parameters(model, function)
    text = inspect.getdoc(plain(function)) or "no description"
    lines = [f"{model}: {text}", "", f"gets from the trainer: images, {', '.join(sorted(given)) or 'nothing else'}"]
    lines.append("options, for --model_args='name=value, ...':" if options else "it has no options")
    return "\n".join([*lines, *(f"  {describe([option])}" for option in options)])
