"""Looks at a model before it is trained: `python -m trainer.check --model=my_net.py`."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from trainer.console import Console, exit_program, run_program
from trainer.errors import OK, UsageError
from trainer.settings import flags
from trainer.settings.config import Config, validate
from trainer.settings.fields import option
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.training.checking import Checked

USAGE = "python -m trainer.check --model=NAME [--flag=value ...]"
TOWERS = 2
EXAMPLE = '''"""A network: python -m trainer --model={file} --num_gpus=2."""

import tensorflow.compat.v1 as tf

from trainer.models import layers


def build(images, num_classes, training, width=16, dropout=0.2):
    """Computes logits, [batch, num_classes], of images, [batch, height, width, depth]."""
    x = layers.conv2d(images, width, 3, "conv1")
    x = layers.max_pool(x)
    x = layers.conv2d(x, 2 * width, 3, "conv2")
    x = layers.flatten(layers.global_avg_pool(x))
    x = layers.dropout(x, dropout, training=training)
    with tf.variable_scope("logits"):
        weights = tf.get_variable("weights", [x.shape[1], num_classes])
        biases = tf.get_variable("biases", [num_classes], initializer=tf.zeros_initializer())
        return tf.matmul(x, weights) + biases
'''


@dataclass(frozen=True)
class CheckSettings(Config):
    """All flags of a run, and what to write."""

    new: str = option("", "write a working example of a network to this file, and end", path=True)


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_check, argv)


def _check(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings: CheckSettings = flags.parse_flags(CheckSettings, argv, USAGE)
    if settings.new:
        return _write_example(Path(settings.new), console)
    names = [field.name for field in dataclasses.fields(Config)]
    config = Config(**{name: getattr(settings, name) for name in names})
    signals.shield()  # Before TensorFlow's first thread.
    signals.defer()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = _look(_settings_of(config, Path(folder)), console, signals)
        finally:
            console.close()  # The log goes with the folder.
    _show(found, config.model, console)
    return OK


def _settings_of(config: Config, folder: Path) -> Config:
    """Makes the settings of a short run on two towers, whose files go with it."""
    from trainer.training.checking import PICTURES_OF_TOWER, STEPS

    config = dataclasses.replace(config, num_gpus=TOWERS, batch_size=TOWERS * PICTURES_OF_TOWER, virtual_gpus=True)
    config = validate(dataclasses.replace(config, train_steps=STEPS, epochs=0.0, logdir=str(folder / "run")))
    if config.dataset == "digits" and not Path(config.data_dir).exists():
        config = dataclasses.replace(config, data_dir=str(folder / "digits"))
    return config


def _look(config: Config, console: Console, signals: Signals) -> Checked:
    from trainer.training.checking import check_model

    console.rich.quiet = True
    try:
        return check_model(config, console, signals)
    finally:
        console.rich.quiet = False


def _write_example(path: Path, console: Console) -> int:
    if path.exists():
        raise UsageError(f"--new={path}: there is such a file already")
    if path.suffix != ".py":
        raise UsageError(f"--new={path}: wanted a file that ends in .py")
    path.write_text(EXAMPLE.format(file=path))
    console.say(f"wrote {path}; look at it: python -m trainer.check --model={path}")
    return OK


def _show(found: Checked, model: str, console: Console) -> None:
    table = Table("variable", "shape", "values", "trained")
    for variable in found.variables:
        table.add_row(variable.name, str(variable.shape), f"{variable.size:,}", "yes" if variable.is_trained else "no")
    console.table(table)
    values = sum(variable.size for variable in found.variables)
    trained = sum(variable.size for variable in found.variables if variable.is_trained)
    console.say(
        f"{model}: {values:,} values in {len(found.variables)} variables, {trained:,} of them trained; "
        f"{found.other_values:,} more of optimizer, averages and counters"
    )
    console.say(
        f"{found.flops / 1e6:,.1f} million floating-point operations for a picture (products and convolutions); "
        f"this process took up to {found.peak_mib:,.0f} MiB"
    )
    losses = ", ".join(f"{loss:.4f}" for loss in found.losses)
    console.say(f"two steps on two towers, saved, restored, and built for inference: losses {losses}")
    for note in found.notes:
        console.say(f"note: {note}")


if __name__ == "__main__":
    exit_program(main())
