"""Measures what a run would reach: `python -m trainer.benchmark --model=mlp --batch_size=128`."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.table import Table

from trainer.cluster.roles import choose_strategy
from trainer.console import Console, exit_program, run_program
from trainer.errors import OK, UsageError
from trainer.rundir import replace_text
from trainer.settings import flags
from trainer.settings.config import Config, validate
from trainer.settings.fields import option
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.training.measuring import Bench

USAGE = "python -m trainer.benchmark [--flagfile=configs/NAME.flags] [--flag=value ...]"
TOWERS = (1, 2, 4, 8)
BATCHES = (16, 32, 64, 128, 256, 512, 1024)
INPUT_BOUND = 0.1  # of a step's time spent waiting for its batch


@dataclass(frozen=True)
class BenchmarkSettings(Config):
    """All flags of a run, and those of the measurement."""

    windows: int = option(5, "windows that are measured; each figure is their median")
    window_seconds: float = option(2.0, "length of a window")
    warmup_seconds: float = option(2.0, "time before the first window")
    scaling: bool = option(False, "measure 1 to 8 towers and batches of 16 to 1024 instead")
    json: str = option("", "write the figures to this file", path=True)
    plot: str = option("", "draw the figures into this PNG file", path=True)


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_benchmark, argv)


def _benchmark(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings: BenchmarkSettings = flags.parse_flags(BenchmarkSettings, argv, USAGE)
    _check(settings)
    settings = flags.choose_length(settings, argv)
    names = [field.name for field in dataclasses.fields(Config)]
    config = choose_strategy(validate(Config(**{name: getattr(settings, name) for name in names})), None)
    signals.grace_seconds = config.grace_seconds
    with tempfile.TemporaryDirectory() as logdir:
        config = dataclasses.replace(config, logdir=logdir)
        figures = (
            _measure_scaling(config, settings, console, signals)
            if settings.scaling
            else _measure(config, settings, signals)
        )
    console.say(
        f"{config.model} on {config.dataset or config.data_dir}, {config.input} input, batch {config.batch_size}"
    )
    for table in _scaling_tables(figures) if settings.scaling else [_table(figures)]:
        console.rich.print(table)
    if settings.json:
        replace_text(Path(settings.json), json.dumps(figures, indent=2) + "\n")
    if settings.plot:
        from trainer.plotting import plot_scaling, plot_windows  # Loads matplotlib.

        (plot_scaling if settings.scaling else plot_windows)(figures, Path(settings.plot))
    return OK


def _check(settings: BenchmarkSettings) -> None:
    for name, low, high in (("windows", 1, 1000), ("window_seconds", 0.01, 3600), ("warmup_seconds", 0, 3600)):
        if not low <= getattr(settings, name) <= high:
            raise UsageError(f"{name}={getattr(settings, name)} is out of range: {low} to {high}")
    for path in (settings.json, settings.plot):
        if path and not Path(path).absolute().parent.is_dir():
            raise UsageError(f"{path}: no such directory")
        if path and Path(path).is_dir():
            raise UsageError(f"{path} is a directory; wanted: the name of a file")
    if settings.plot and not settings.plot.endswith(".png"):
        raise UsageError(f"plot={settings.plot}: the picture is a PNG; use a name that ends with .png")
    if settings.logdir:
        raise UsageError("--logdir: a measurement keeps no log directory; leave it out")


def _measure(config: Config, settings: BenchmarkSettings, signals: Signals) -> dict[str, Any]:
    """Measures each part in turn, window after window, so that a machine that slows down slows all of them down."""
    begin = time.time()

    from trainer.training import measuring

    import_seconds = time.time() - begin
    quiet = Console()
    quiet.rich.quiet = True
    logdir = Path(config.logdir)
    own = dataclasses.replace(config, logdir=str(logdir / "own"))
    fixed = dataclasses.replace(config, logdir=str(logdir / "fixed"), input="synthetic", staging="no")
    signals.shield()
    with measuring.open_bench(own, quiet, signals) as bench:
        bench.steps(0)
        started = time.time() - psutil.Process().create_time()
        bench.steps(settings.warmup_seconds)
        peak = measuring.peak_memory_mib()  # Of this run alone: what it is compared with comes after.
        with (
            measuring.open_bench(fixed, quiet, signals) as still,
            measuring.open_matmul(bench.job) as limit,
        ):
            still.steps(settings.warmup_seconds)
            windows = [_window(bench, still, limit, settings.window_seconds) for _ in range(settings.windows)]
            flops = measuring.step_flops(still.graphs.train.gradients)
    figures = _summarize(windows, config.batch_size, flops)
    figures["start_up"] = {"seconds_to_first_step": round(started, 2), "of_it_importing": round(import_seconds, 2)}
    figures["peak_memory_mib"] = round(peak)
    figures["windows"] = windows
    return figures


def _window(bench: Bench, still: Bench, limit: Any, seconds: float) -> dict[str, float]:
    gradients = [gradient.op for gradient in still.graphs.train.gradients]
    return {
        "steps": bench.steps(seconds),
        "full_run": bench.steps(seconds, hooks=True),
        "fixed_batch": still.steps(seconds),
        "gradients": still.runs(gradients, seconds / 2),
        "matmul_flops": limit(seconds / 2),
    }


def _summarize(windows: list[dict[str, float]], batch_size: int, flops: int) -> dict[str, Any]:
    median = statistics.median

    def difference(one: str, other: str) -> float:
        return median([window[one] - window[other] for window in windows])

    speeds = [batch_size / window["steps"] for window in windows]
    step = median([window["steps"] for window in windows])
    waits = [window["steps"] - window["fixed_batch"] for window in windows]
    reached = [flops / window["steps"] / window["matmul_flops"] for window in windows]
    return {
        "images_per_second": {"median": median(speeds), "min": min(speeds), "max": max(speeds)},
        "full_run_ratio": median([window["steps"] / window["full_run"] for window in windows]),
        "microseconds": {
            "step": 1e6 * step,
            "input": 1e6 * median(waits),
            "compute": 1e6 * median([window["gradients"] for window in windows]),
            "update": 1e6 * difference("fixed_batch", "gradients"),
            "hooks": 1e6 * difference("full_run", "steps"),
        },
        "flops_per_step": flops,
        "matmul_gflops": median([window["matmul_flops"] for window in windows]) / 1e9,
        "fraction_of_matmul": median(reached),
        "input_seen": min(waits) > 0,  # In each window; else what is above is noise.
        "input_bound": min(waits) > 0 and median(waits) > INPUT_BOUND * step,
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title="medians of the windows", show_header=False)
    speed, parts = figures["images_per_second"], figures["microseconds"]
    table.add_row("images/s", f"{speed['median']:,.0f}  [{speed['min']:,.0f} - {speed['max']:,.0f}]")
    table.add_row("with summaries, checkpoints, lines", f"{figures['full_run_ratio']:.3f} of that")
    table.add_row("time of a step", f"{parts['step']:,.0f} us")
    for name, what in (
        ("input", "waiting for the batch"),
        ("compute", "forward and back"),
        ("update", "clip, check, apply, average"),
        ("hooks", "everything periodic"),
    ):
        noise = name == "input" and not figures["input_seen"]
        table.add_row(f"  {name}", f"{'not above the noise' if noise else f'{parts[name]:,.0f} us'}  {what}")
    table.add_row("verdict", "input-bound" if figures["input_bound"] else "compute-bound")
    table.add_row("matrix product of this machine", f"{figures['matmul_gflops']:,.1f} GFLOP/s")
    table.add_row("  reached by the step", f"{figures['fraction_of_matmul']:.1%}")
    start = figures["start_up"]
    table.add_row("start-up to the first step", f"{start['seconds_to_first_step']} s")
    table.add_row("  of it importing TensorFlow", f"{start['of_it_importing']} s")
    table.add_row("peak memory", f"{figures['peak_memory_mib']:,} MiB")
    return table


def _measure_scaling(config: Config, settings: BenchmarkSettings, console: Console, signals: Signals) -> dict[str, Any]:
    """Measures images a second over towers and over batch sizes."""
    signals.shield()
    figures: dict[str, Any] = {"towers": [], "batches": []}
    runs = [("towers", "towers", {"num_gpus": towers}) for towers in TOWERS]
    runs += [("batches", "batch_size", {"batch_size": size}) for size in BATCHES]
    for table, key, change in runs:
        changed: Any = change
        try:
            speed = _speed(validate(dataclasses.replace(config, **changed)), settings, signals)
            figures[table].append({key: next(iter(change.values())), **speed})
        except UsageError as error:  # More towers than GPUs, or a batch that does not split over them.
            console.say(f"left out: {error}")
    return figures


def _speed(config: Config, settings: BenchmarkSettings, signals: Signals) -> dict[str, float]:
    from trainer.training import measuring

    quiet = Console()
    quiet.rich.quiet = True
    with (
        tempfile.TemporaryDirectory() as logdir,
        measuring.open_bench(dataclasses.replace(config, logdir=logdir), quiet, signals) as bench,
    ):
        bench.steps(settings.warmup_seconds)
        speeds = [config.batch_size / bench.steps(settings.window_seconds) for _ in range(settings.windows)]
    return {"median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}


def _scaling_tables(figures: dict[str, Any]) -> list[Table]:
    tables = []
    for title, key in (("towers", "towers"), ("batches", "batch_size")):
        table = Table(key, "images/s", "range", title=f"images/s over {title}")
        for row in figures[title]:
            table.add_row(str(row[key]), f"{row['median']:,.0f}", f"{row['min']:,.0f} - {row['max']:,.0f}")
        tables.append(table)
    return tables


if __name__ == "__main__":
    exit_program(main())
