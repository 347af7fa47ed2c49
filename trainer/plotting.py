"""Figures of measurements as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

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


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
