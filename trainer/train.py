"""Trains a model: `python -m trainer --num_gpus=2`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from trainer import flags
from trainer.console import Console, run_program
from trainer.signals import Signals


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_train, argv, at_stop="; nothing had been trained since the last checkpoint, if any")


def _train(argv: Sequence[str], console: Console, signals: Signals) -> int:
    config = flags.config_from_flags(argv)
    if config.log_device_placement:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"  # The placement is an INFO line of TensorFlow's own.

    from trainer.running.training import train  # TensorFlow is imported after parsing.

    return train(config, console, signals)
