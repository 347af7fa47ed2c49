"""Which operations of a pipeline do not fit behind others, or not the data."""

from __future__ import annotations

from trainer.errors import UsageError
from trainer.preprocessing.mixing import MIXES
from trainer.preprocessing.pipeline import OF_VALUES, Pipeline

OTHER_RANGES = {"float", "scale", "standardize", "subtract_mean", "divide"}  # than 0..1, of what they give


def check_order(pipeline: Pipeline) -> None:
    """Refuses what does not fit behind other operations.

    Raises:
      UsageError: something else than values changes behind a mix, whose shares would be others; or colours of 0..1
        change where pixels have another range.
    """
    names = [operation.name for operation in pipeline.operations]
    mixes = [place for place, name in enumerate(names) if name in MIXES]
    if len(mixes) > 1:
        raise UsageError(f"--preprocess={pipeline.text}: only one of {' and '.join(MIXES)} may be in it, once")
    for operation in pipeline.operations[mixes[0] + 1 :] if mixes else ():
        if operation.is_random or operation.name not in OF_VALUES:
            raise UsageError(f"--preprocess={pipeline.text}: {operation.name} must stand before {names[mixes[0]]}")
    for place in (place for place, name in enumerate(names) if name == "color"):
        before = next((name for name in names[:place] if name in OTHER_RANGES), None)
        if before:
            raise UsageError(
                f"--preprocess={pipeline.text}: color takes bytes, or float32 of 0..1 as unit gives it, and {before} "
                "before it gives another range"
            )


def check_boxes(pipeline: Pipeline, *, is_encoded: bool) -> None:
    """Refuses a pipeline that would pass over the boxes of the objects.

    Raises:
      UsageError: it is one.
    """
    for number, operation in enumerate(pipeline.operations):
        if not operation.takes_boxes or not operation.arguments["min_object_covered"]:
            continue
        if not is_encoded or number:
            where = "as the first operation" if is_encoded else "where they are stored by --store=encoded"
            raise UsageError(
                f"--preprocess={pipeline.text}: {operation.name} keeps the objects of pictures, which have boxes here, "
                f"in its window only {where}; min_object_covered=0 takes any window"
            )
