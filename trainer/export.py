"""Exports the model of a run: `python -m trainer.export --logdir=runs/mnist_lenet --format=saved_model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.console import Console, exit_program, run_program
from trainer.errors import OK, UsageError, unknown_name
from trainer.rundir import RunDir
from trainer.settings import flags
from trainer.settings.fields import option
from trainer.signals import Signals

USAGE = "python -m trainer.export --logdir=DIR --format=NAME [--output=PATH] [--flag=value ...]"
FORMATS = {
    "saved_model": "a directory with a SavedModel for each version",
    "frozen": "one GraphDef, variables made constants",
    "graph": "a directory with the GraphDef as text and binary",
    "meta": "a directory with the MetaGraph as text and binary, and the weights",
    "tflite": "one TensorFlow Lite model",
}
# What a directory holds that was exported before.
MARKERS = {"saved_model": "saved_model.pb", "graph": "graph.pb", "meta": "model.ckpt.meta"}
NAMES = {"frozen": "frozen.pb", "tflite": "model.tflite"}  # of the default output


@dataclass(frozen=True)
class ExportSettings:
    logdir: str = option("", "run directory that holds the checkpoints", path=True)
    format: str = option("saved_model", "; ".join(f"{name}: {what}" for name, what in FORMATS.items()))
    output: str = option("", "file or directory that is written (default: LOGDIR/export/FORMAT)", path=True)
    version: int = option(1, "saved_model: the directory under --output")
    checkpoint: str = option("", "step, `best`, or path as DIR/model.ckpt-N (default: the newest)", path=True)
    weights: str = option("", "ema | raw (default: ema where the run has averages)")
    overwrite: bool = option(False, "replace what is there")
    trust_code: bool = option(False, "run the user's code that the run holds, also where you have not run it before")


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_export, argv)


def _export(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings: ExportSettings = flags.parse_flags(ExportSettings, argv, USAGE)
    if not settings.logdir:
        raise UsageError("--logdir is missing: the directory of the run whose model is to be exported")
    if settings.format not in FORMATS:
        raise unknown_name("format", settings.format, FORMATS)
    if settings.weights not in ("", "ema", "raw"):
        raise unknown_name("weights", settings.weights, ("ema", "raw"))
    if settings.version < 1:
        raise UsageError(f"version={settings.version} is out of range: 1 or more")
    if settings.version != 1 and settings.format != "saved_model":
        raise UsageError(f"--version={settings.version} is of --format=saved_model, not of {settings.format}")
    signals.shield()  # Before TensorFlow's first thread.

    from trainer.ops.carrying import carry_operations
    from trainer.saving import exporting, models  # TensorFlow is imported after parsing.
    from trainer.saving.replacing import replacing

    rundir = RunDir(settings.logdir)
    model = models.load_model(rundir, console.say, trust_code=settings.trust_code)
    path = models.choose_checkpoint(rundir, settings.checkpoint)
    weights = settings.weights or model.default_weights
    output = Path(settings.output) if settings.output else rundir.export / NAMES.get(settings.format, settings.format)
    target = output / str(settings.version) if settings.format == "saved_model" else output
    signals.defer()
    with (
        replacing(target, overwrite=settings.overwrite, marker=MARKERS.get(settings.format, "")) as aside,
        exporting.open_serving(model, path, weights) as serving,
    ):
        lines = exporting.FORMATS[settings.format](serving, aside)
        lines += carry_operations(serving.session.graph, aside, target)
        signals.check()
    console.say(f"wrote {target} from {path}, {weights} weights")
    for line in lines:
        console.say(f"  {line}")
    return OK


if __name__ == "__main__":
    exit_program(main())
