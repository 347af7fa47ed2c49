"""Figures of measurements and evaluations as pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
from PIL import Image

matplotlib.use("agg")  # No display is needed.
from matplotlib import pyplot


def plot_windows(figures: dict[str, Any], path: Path) -> None:
    """Draws the time of a step as its parts, and that of each window."""
    parts = figures["microseconds"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
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


def plot_scaling(figures: dict[str, Any], path: Path) -> None:
    """Draws images a second over towers and over batch sizes."""
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4))
    for panel, name, key in zip(panels, ("towers", "batches"), ("towers", "batch_size"), strict=True):
        rows = figures[name]
        middle = [row["median"] for row in rows]
        spread = [[row["median"] - row["min"] for row in rows], [row["max"] - row["median"] for row in rows]]
        panel.errorbar([row[key] for row in rows], middle, yerr=spread, marker="o", capsize=3)
        panel.set_xscale("log", base=2)
        panel.set(xlabel=key.replace("_", " "), ylabel="images/s", ylim=(0, None))
    _save(figure, path)


def plot_confusion(counts: Any, names: Sequence[str], path: Path) -> None:
    """Draws how many images of each class (rows) were taken for each class, int64 [classes, classes]."""
    size = 2.5 + 0.45 * len(names)
    figure, panel = pyplot.subplots(figsize=(size, size))
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


def plot_curves(precision: Any, recall: Any, names: Sequence[str], path: Path) -> None:
    """Draws precision against recall of each class over the thresholds, float64 [classes, thresholds]."""
    figure, panel = pyplot.subplots(figsize=(7, 6))
    for values, reached, name in zip(precision, recall, names, strict=True):
        panel.plot(reached, values, marker=".", label=name)
    panel.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    panel.legend(fontsize=8)
    _save(figure, path)


def plot_images(images: Sequence[Any], titles: Sequence[str], path: Path) -> None:
    """Draws images, uint8 [height, width, depth], in a grid, each under its title."""
    columns = min(5, len(images))
    rows = math.ceil(len(images) / columns)
    figure, panels = pyplot.subplots(rows, columns, figsize=(1.9 * columns, 2.1 * rows), squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, image, title in zip(panels.flat, images, titles, strict=False):
        panel.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        panel.set_title(title, fontsize=8)
    _save(figure, path)


def png_size(file: BinaryIO) -> tuple[int, int]:
    """Reads width and height of a PNG file."""
    with Image.open(file) as image:
        width, height = image.size
    return width, height


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")  # Nobody sees half of it.
    try:
        figure.savefig(aside, format=path.suffix[1:] or "png")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
        pyplot.close(figure)
