"""Which operations of a pipeline the trainer's own operation does in one pass, as these do them, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.ops.augment import Plan, Step

if TYPE_CHECKING:
    from trainer.preprocessing.pipeline import Operation

Steps = tuple[Step, ...]
TO_UNIT: Steps = (Step("multiply", (float(np.float32(1 / 255)),)),)


def _scale(_: int, is_bytes: bool, low: float, high: float) -> Steps:
    return (*(TO_UNIT if is_bytes else ()), Step("add", (low / (high - low),)), Step("multiply", (high - low,)))


def _divide(_: int, __: bool, by: float) -> Steps:
    return (Step("multiply", (float(np.float32(1) / np.float32(by)),)),)  # As TensorFlow's optimizer rewrites it.


# Of values: (place in the pipeline, are they uint8, arguments) -> steps that make float32 of them.
VALUES: dict[str, Callable[..., Steps]] = {
    "divide": _divide,
    "float": lambda place, is_bytes: (),
    "scale": _scale,
    "standardize": lambda place, is_bytes: (Step("standardize"),),
    "subtract_mean": lambda place, is_bytes, *means: (Step("add", tuple(-mean for mean in means)),),
    "unit": lambda place, is_bytes: TO_UNIT if is_bytes else (),
}
# Those that of uint8 would give rounded uint8.
OF_FLOATS: dict[str, Callable[..., Steps]] = {
    "brightness": lambda place, is_bytes, delta: (Step("brightness", (-delta, delta), place),),
    "contrast": lambda place, is_bytes, factor: (Step("contrast", factor, place),),
}
PLACES = ("pad", "random_crop", "flip_lr", "cutout")  # of which each may stand once, in this order, in front of VALUES


def plan_of(operations: Sequence[Operation], begin: int) -> tuple[Plan, int]:
    """Finds what can be done in one pass of uint8 pictures of one size, and the first operation behind it."""
    plan, place, end = Plan(), 0, begin
    for number, operation in list(enumerate(operations))[begin:]:
        if operation.name in PLACES[place:] and not plan.floats:
            place = PLACES.index(operation.name) + 1
            plan = plan._replace(**_geometry(operation.name, operation.arguments, number))
        elif make := VALUES.get(operation.name) or (OF_FLOATS.get(operation.name) if plan.floats else None):
            steps = make(number, not plan.floats, *operation.args, **operation.kwargs)
            plan = plan._replace(floats=True, steps=(*plan.steps, *steps))
        else:
            break
        end = number + 1
    return plan, end


def _geometry(name: str, arguments: dict[str, Any], number: int) -> dict[str, Any]:
    if name == "pad":
        return {"pad": arguments["n"]}
    if name == "random_crop":
        return {"crop": number, "size": (arguments["height"], arguments["width"] or arguments["height"])}
    return {"flip": number} if name == "flip_lr" else {"cutout": number, "hole": arguments["n"]}
