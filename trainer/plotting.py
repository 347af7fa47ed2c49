"""Figures of measurements and evaluations as pictures."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
from matplotlib.figure import Figure  # Not pyplot, which would choose the display of a notebook's own figures.
from PIL import Image

warnings.filterwarnings("ignore", "Glyph .* missing from font")  # A box stands for it.
as_text = matplotlib.rc_context({"text.parse_math": False})  # Names of classes are no formulas.


@as_text
def plot_windows(figures: dict[str, Any], path: Path) -> None:
    """Draws the time of a step as its parts, and that of each window."""
    parts = figures["microseconds"]
    figure, (left, right) = _subplots(1, 2, figsize=(9, 4))
    begin = 0.0
    for name in ("input", "compute", "update", "hooks"):
        length = max(0.0, parts[name])
        left.barh("step", length, left=begin, label=f"{name} {parts[name]:,.0f} us")
        begin += length
    left.set(xlabel="microseconds", title="where a step's time goes")
    left.legend()
    for name in ("steps", "full_run", "fixed_batch"):
        right.plot([1e6 * window[name] for window in figures["windows"]], marker="o", label=name.replace("_", " "))
    right.set(xlabel="window", ylabel="microseconds a step", ylim=(0, None))
    right.legend()
    _save(figure, path)


@as_text
def plot_scaling(figures: dict[str, Any], path: Path) -> None:
    """Draws images a second over towers and over batch sizes."""
    figure, panels = _subplots(1, 2, figsize=(9, 4))
    for panel, name, key in zip(panels, ("towers", "batches"), ("towers", "batch_size"), strict=True):
        rows = figures[name]
        middle = [row["median"] for row in rows]
        spread = [[row["median"] - row["min"] for row in rows], [row["max"] - row["median"] for row in rows]]
        panel.errorbar([row[key] for row in rows], middle, yerr=spread, marker="o", capsize=3)
        panel.set_xscale("log", base=2)
        panel.set(xlabel=key.replace("_", " "), ylabel="images/s", ylim=(0, None))
    _save(figure, path)


@as_text
def plot_confusion(counts: Any, names: Sequence[str], path: Path) -> None:
    """Draws how many images of each class (rows) were taken for each class, int64 [classes, classes]."""
    size = 2.5 + 0.45 * len(names)
    figure, panel = _subplots(figsize=(size, size))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in [(row, column) for row in range(len(names)) for column in range(len(names))]:
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            panel.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    panel.set(xlabel="taken for", ylabel="label", title="images of each class")
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.set_yticks(range(len(names)), names)
    _save(figure, path)


@as_text
def plot_curves(precision: Any, recall: Any, names: Sequence[str], path: Path) -> None:
    """Draws precision against recall of each class over the thresholds, float64 [classes, thresholds]."""
    figure, panel = _subplots(figsize=(7, 6))
    for values, reached, name in zip(precision, recall, names, strict=True):
        panel.plot(reached, values, marker=".", label=name)
    panel.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    panel.legend(fontsize=8)
    _save(figure, path)


@as_text
def plot_images(images: Sequence[Any], titles: Sequence[str], path: Path) -> None:
    """Draws images, [height, width, depth], in a grid, each under its title.

    Numbers that are no bytes are drawn from the smallest of an image, black, to its largest, white.
    """
    columns = min(5, len(images))
    rows = math.ceil(len(images) / columns)
    figure, panels = _subplots(rows, columns, figsize=(1.9 * columns, 2.1 * rows), squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, image, title in zip(panels.flat, images, titles, strict=False):
        panel.imshow(_shade(image, *_limits([image])), cmap="gray", vmin=0, vmax=1)
        panel.set_title(title, fontsize=8)
    _save(figure, path)


@as_text
def plot_sheet(columns: Sequence[Any], titles: Sequence[str], names: Sequence[str], path: Path) -> None:
    """Draws pictures in rows, under the titles of their columns, each row with its name.

    Pictures of numbers that are no bytes are drawn from the smallest of them all, black, to the largest, white; each
    column's title says which these are.

    Args:
      columns: pictures of each row, uint8 or float32 [height, width, depth].
      titles: of the columns.
      names: of the rows.
      path: of the file.
    """
    size = (1.5 * len(columns) + 1, 1.5 * len(names) + 0.5)
    figure, panels = _subplots(len(names), len(columns), figsize=size, squeeze=False)
    for column, (pictures, title) in enumerate(zip(columns, titles, strict=True)):
        low, high = _limits(pictures)
        scale = "" if (low, high) == (0, 255) else f"\n{low:.3g} to {high:.3g}"
        panels[0][column].set_title(title + scale, fontsize=8)
        for row, picture in enumerate(pictures):
            panel = panels[row][column]
            panel.set_xticks([])
            panel.set_yticks([])
            panel.imshow(_shade(picture, low, high), cmap="gray", vmin=0, vmax=1)
    for row, name in enumerate(names):
        panels[row][0].set_ylabel(name, fontsize=8)
    _save(figure, path)


@as_text
def plot_training(rows: Sequence[Mapping[str, float]], goal: str, path: Path) -> None:
    """Draws the loss over steps, and the goal on the validation set, from the rows of metrics.jsonl."""
    figure, (left, right) = _subplots(1, 2, figsize=(9, 3.2))
    for panel, name, title in ((left, "loss", "training loss"), (right, f"validation_{goal}", f"validation {goal}")):
        found = [(row["step"], row[name]) for row in rows if name in row]
        panel.plot([step for step, _ in found], [value for _, value in found], marker="." if len(found) < 60 else "")
        panel.set(xlabel="step", title=title)
    _save(figure, path)


def _subplots(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], squeeze: bool = True
) -> tuple[Figure, Any]:
    figure = Figure(figsize=figsize)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def _shade(picture: Any, low: float, high: float) -> Any:
    """Makes 0..1 of a picture, [height, width, 3 or 4], or else of its first channel."""
    shade = ((picture - low) / (high - low)).clip(0, 1)
    return shade if shade.shape[2] in (3, 4) else shade[..., 0]


def _limits(pictures: Sequence[Any]) -> tuple[float, float]:
    """Finds what is drawn black and white: 0 and 255 of bytes, else the least and the greatest number."""
    if pictures[0].dtype.kind == "u":
        return 0, 255
    low, high = min(float(picture.min()) for picture in pictures), max(float(picture.max()) for picture in pictures)
    return low, high if high > low else low + 1


def png_size(file: BinaryIO) -> tuple[int, int]:
    """Reads width and height of a PNG file."""
    with Image.open(file) as image:
        width, height = image.size
    return width, height


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")  # Nobody sees half of it.
    try:
        figure.savefig(aside, format=path.suffix[1:] or "png")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
