"""Classifies image files: `python -m trainer.predict --model=runs/mnist_lenet digit.png`."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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
    batch_size: int = option(0, "images at a time; 0: chosen by their size, at most 500")
    input_tensor: str = option("", "of a graph of others: the tensor of the images, as input:0")
    output_tensor: str = option("", "of a graph of others: the tensor of a probability for each class")
    preprocess: str = option("", "of a graph of others: what is done to pictures, as inception(224)")
    labels: str = option("", "of a graph of others: file with a name of a class on each line", path=True)
    operations: tuple[str, ...] = option(
        (), "C++ files of operations that the graph needs, or FILE.so; may be repeated", repeated=True
    )
    trust_code: bool = option(False, "run the user's code that a run holds, also where you have not run it before")
    json: bool = option(False, "print a line of JSON for each image")
    csv: bool = option(False, "print a table of comma-separated values: a row for each image, a column for each class")


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_predict, argv)


def _predict(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings, names = flags.parse_command(PredictSettings, argv, USAGE)
    names = [local_path("IMAGE", name) for name in names]
    _check(settings, names)
    signals.shield()  # Before TensorFlow's first thread.

    from trainer.data.pictures import read_pictures  # TensorFlow is imported after parsing.
    from trainer.evaluating.foreign import make_ends
    from trainer.evaluating.predicting import open_predictor
    from trainer.ops.loading import load_named

    signals.defer()
    load_named(settings.operations)
    failed = count = 0
    with open_predictor(
        settings.model,
        checkpoint=settings.checkpoint,
        weights=settings.weights,
        trust_code=settings.trust_code,
        say=console.say,
        ends=make_ends(settings.input_tensor, settings.output_tensor, settings.preprocess, settings.labels),
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
        for batch in _batches(pictures, settings.batch_size or predictor.at_once):
            signals.check()
            rows = _predictions(batch, predictor)
            if settings.csv and not count:
                console.say(_csv_line(["image", *predictor.class_names, "error"]))
            write = _json_line if settings.json else _csv_row if settings.csv else _line_of(batch)
            console.say("\n".join(write(row, predictor) for row in rows))
            failed += sum(picture.image is None for picture in batch)
            count += len(batch)
    if not count:
        raise UsageError(f"{', '.join(names)}: no images there")
    if failed:
        console.error(f"{failed} of {count} images could not be read")
    return ERROR if failed else OK


def _check(settings: PredictSettings, names: Sequence[str]) -> None:
    if not settings.model or not names:
        raise UsageError(f"{'--model' if not settings.model else 'IMAGE'} is missing; usage: {USAGE}")
    if settings.resize not in RESIZES:
        raise unknown_name("resize", settings.resize, RESIZES)
    if settings.weights not in ("", "ema", "raw"):
        raise unknown_name("weights", settings.weights, ("ema", "raw"))
    if settings.json and settings.csv:
        raise UsageError("--json and --csv conflict: give one of them")
    if not 0 <= settings.batch_size <= 100_000:
        raise UsageError(f"batch_size={settings.batch_size} is out of range: 0 to 100000")


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


class Prediction(NamedTuple):
    """What was predicted of an image."""

    image: str  # its name
    values: list[float]  # of each class or number; empty where the image could not be read
    error: str = ""


def _predictions(batch: list[Picture], predictor: Predictor) -> list[Prediction]:
    """Predicts images, in their order."""
    import numpy as np

    images = [picture.image for picture in batch if picture.image is not None]
    found = predictor.predict(images) if images else np.zeros([0, 1])
    if not np.isfinite(found).all():
        raise NotFiniteError("the model predicts numbers that are NaN or infinite")
    rows = iter(found)
    return [
        Prediction(picture.name, [], picture.error)
        if picture.image is None
        else Prediction(picture.name, [float(value) for value in next(rows)])
        for picture in batch
    ]


def _line_of(batch: list[Picture]) -> Callable[[Prediction, Predictor], str]:
    width = max(len(picture.name) for picture in batch)

    def write(found: Prediction, predictor: Predictor) -> str:
        return f"{found.image:{width}}  {_describe(found, predictor)}"

    return write


def _describe(found: Prediction, predictor: Predictor) -> str:
    """Writes a prediction for people."""
    if not found.values:
        return f"error: {found.error}"
    pairs = list(zip(predictor.class_names, found.values, strict=True))
    if predictor.label_kind == "numbers":
        return "  ".join(f"{name} {value:.6g}" for name, value in pairs)
    if predictor.label_kind == "several":
        return "  ".join(f"{name} {value:.2%}" for name, value in pairs if value > 0.5) or "none"
    name, value = max(pairs, key=lambda pair: pair[1])
    return f"{name}  {value:.2%}"


def _json_line(found: Prediction, predictor: Predictor) -> str:
    values: dict[str, Any] = {"image": found.image}
    if not found.values:
        return json.dumps(values | {"error": found.error})
    named = {name: round(value, 6) for name, value in zip(predictor.class_names, found.values, strict=True)}
    if predictor.label_kind == "numbers":
        values["values"] = named
    elif predictor.label_kind == "several":
        values |= {"classes": [name for name, value in named.items() if value > 0.5], "probabilities": named}
    else:
        index = max(range(len(found.values)), key=lambda each: found.values[each])
        values |= {"class": predictor.class_names[index], "index": index, "probability": found.values[index]}
        values["probabilities"] = [round(value, 6) for value in found.values]
    return json.dumps(values)


def _csv_row(found: Prediction, predictor: Predictor) -> str:
    values = [f"{value:.6g}" for value in found.values] or [""] * len(predictor.class_names)
    return _csv_line([found.image, *values, found.error])


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


if __name__ == "__main__":
    exit_program(main())
