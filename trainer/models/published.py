"""What the published weights of a network want of the pictures."""

from __future__ import annotations

from typing import NamedTuple

from trainer.preprocessing.named import MEANS
from trainer.preprocessing.pipeline import Operation
from trainer.preprocessing.preprocessing import Preprocessing


class Published(NamedTuple):
    """The weights that TF-Slim's authors published for a network."""

    pipeline: str  # of `named.PIPELINES`, with which they were trained
    values: str  # operation of it that decides what numbers pixels become


INCEPTION = Published("inception", "scale(-1, 1)")
VGG = Published("vgg", MEANS)
PUBLISHED = {
    "mobilenet_v1": INCEPTION,
    "inception_v1": INCEPTION,
    "inception_v3": INCEPTION,
    "vgg_16": VGG,
    "vgg_19": VGG,
    **{f"resnet_v1_{depth}": VGG for depth in (50, 101, 152)},
    **{f"resnet_v2_{depth}": INCEPTION for depth in (50, 101, 152)},
}
VALUES = ("scale", "subtract_mean", "divide", "standardize")


def _text(operation: Operation) -> str:
    """Writes an operation as `Published` has it."""
    values = [value for each in operation.arguments.values() for value in (each if isinstance(each, tuple) else [each])]
    return f"{operation.name}({', '.join(f'{value:g}' for value in values if isinstance(value, int | float))})"


def describe_difference(model: str, preprocessing: Preprocessing) -> str | None:
    """Says that a run's pictures are other numbers than a network's published weights want; None where they are not."""
    published = PUBLISHED.get(model)
    if published is None:
        return None
    operations = preprocessing.elsewhere.pipeline.operations
    if any(operation.is_own for operation in operations):
        return None  # Nobody knows.
    found = "|".join(_text(operation) for operation in operations if operation.name in VALUES)
    if found == published.values:
        return None
    got = found or ("uint8 as 0..1" if preprocessing.dtype.is_integer else "the pixels' floats")
    return (
        f"{model}'s published weights were trained with --preprocess={published.pipeline}, whose pixels end in "
        f"{published.values}; this run's are {got}: if the weights are those, end --preprocess and --eval_preprocess "
        "in the same"
    )
