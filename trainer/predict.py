"""Classifies image files: `python -m trainer.predict --model=runs/mnist_lenet digit.png`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.console import Console, exit_program, run_program
from trainer.errors import ERROR, OK, NotFiniteError, UsageError, unknown_name
from trainer.grammars import local_path
from trainer.settings import flags
from trainer.settings.fields import option
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.data.pictures import Picture
    from trainer.evaluating.predicting import Predictor

USAGE = "python -m trainer.predict --model=PATH [--flag=value ...] IMAGE..."
RESIZES = ("stretch", "pad", "no")

T = TypeVar("T")


@dataclass(frozen=True)
class PredictSettings:
    model: str = option("", "run directory, SavedModel (or the directory of its versions), or frozen .pb", path=True)
    checkpoint: str = option("", "of a run directory: step, `best`, or path (default: the newest)", path=True)
    weights: str = option("", "of a run directory: ema | raw (default: ema where the run has averages)")
    resize: str = option(
        "stretch", "images of another size: stretch them, pad them to keep their proportions, or no: an error", RESIZES
    )
    invert: bool = option(False, "turn dark on light, as on paper, into light on dark, as in MNIST")
    batch_size: int = option(500, "images at a time")
    trust_code: bool = option(False, "run the user's code that a run holds, also where you have not run it before")
    json: bool = option(False, "print a line of JSON for each image")


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_predict, argv)


def _predict(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings, names = flags.parse_command(PredictSettings, argv, USAGE)
    names = [local_path("IMAGE", name) for name in names]
    if not settings.model or not names:
        raise UsageError(f"{'--model' if not settings.model else 'IMAGE'} is missing; usage: {USAGE}")
    if settings.resize not in RESIZES:
        raise unknown_name("resize", settings.resize, RESIZES)
    if settings.weights not in ("", "ema", "raw"):
        raise unknown_name("weights", settings.weights, ("ema", "raw"))
    if not 1 <= settings.batch_size <= 100_000:
        raise UsageError(f"batch_size={settings.batch_size} is out of range: 1 to 100000")
    signals.shield()  # Before TensorFlow's first thread.

    from trainer.data.pictures import read_pictures  # TensorFlow is imported after parsing.
    from trainer.evaluating.predicting import open_predictor

    signals.defer()
    failed = count = 0
    with open_predictor(
        settings.model,
        checkpoint=settings.checkpoint,
        weights=settings.weights,
        trust_code=settings.trust_code,
        say=console.say,
    ) as predictor:
        if None in predictor.image_shape and settings.resize != "stretch":
            raise UsageError(
                f"--resize={settings.resize} is for models of pictures of one size: this one takes any, and its "
                "--eval_preprocess brings them to one"
            )
        pictures = read_pictures(
            names,
            shape=predictor.image_shape,
            resize=settings.resize,
            invert=settings.invert,
            reading=signals.interruptible,
        )
        for batch in _batches(pictures, settings.batch_size):
            signals.check()
            lines = _classify(batch, predictor, as_json=settings.json)
            console.say("\n".join(lines))
            failed += sum(picture.image is None for picture in batch)
            count += len(batch)
    if not count:
        raise UsageError(f"{', '.join(names)}: no images there")
    if failed:
        console.error(f"{failed} of {count} images could not be read")
    return ERROR if failed else OK


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _classify(batch: list[Picture], predictor: Predictor, *, as_json: bool) -> list[str]:
    """Makes a line for each image, in their order."""
    import numpy as np

    images = [picture.image for picture in batch if picture.image is not None]
    found = predictor.predict(images) if images else np.zeros([0, 1])
    if not np.isfinite(found).all():
        raise NotFiniteError("the model gives probabilities that are NaN or infinite")
    rows = iter(found)
    width = max(len(picture.name) for picture in batch)
    lines = []
    for picture in batch:
        if picture.image is None:
            failure = {"image": picture.name, "error": picture.error}
            lines.append(json.dumps(failure) if as_json else f"{picture.name:{width}}  error: {picture.error}")
            continue
        row = next(rows)
        index = int(row.argmax())
        name, probability = predictor.class_names[index], float(row[index])
        values: dict[str, Any] = {"image": picture.name, "class": name, "index": index, "probability": probability}
        values["probabilities"] = [round(float(value), 6) for value in row]
        lines.append(json.dumps(values) if as_json else f"{picture.name:{width}}  {name}  {probability:.2%}")
    return lines


if __name__ == "__main__":
    exit_program(main())
