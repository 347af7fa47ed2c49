"""Trains a model: `python -m trainer --num_gpus=2`."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.cluster.roles import choose_strategy, cluster_of
from trainer.console import OWNER_ONLY, WITH_GROUP, Console, run_program
from trainer.data.looking import check_data
from trainer.data.manifest import MANIFEST, load_manifest
from trainer.errors import OK
from trainer.rundir import RunDir
from trainer.saving.lock import wait_for_next
from trainer.settings import flags
from trainer.settings.config import Config
from trainer.settings.plugins import UserCode
from trainer.signals import Signals

LOOK_SECONDS = 2.0  # between an evaluator's looks for new checkpoints
START_SECONDS = 30.0  # from an evaluator's start to the chief's, where an earlier training has ended


Run = Callable[[Sequence[str], Console, Signals], int]  # of a program


def main(argv: Sequence[str] | None = None, *, follow: Run) -> int:
    """Trains; as the evaluator of a cluster, follows the training by `follow`, the program of evaluations."""
    at_stop = "; nothing had been trained since the last checkpoint, if any"
    return run_program(functools.partial(_program, follow=follow), argv, at_stop=at_stop, umask=OWNER_ONLY)


def _check_task(config: Config, console: Console) -> None:
    """Looks whether the pipelines fit the pictures, and the user's code can be loaded and takes what it is given.

    Raises:
      UsageError: they do not.
    """
    if not (Path(config.data_dir) / MANIFEST).is_file():
        return

    from trainer.saving.code import open_current  # TensorFlow is imported after parsing.
    from trainer.saving.models import task_of

    spec = load_manifest(Path(config.data_dir)).with_labels_offset(config.labels_offset)
    task_of(config, spec, open_current(config, RunDir(config.logdir), console.say))


def _program(argv: Sequence[str], console: Console, signals: Signals, follow: Run) -> int:
    config = flags.config_from_flags(argv)
    if config.help_model:
        from trainer.models.functions import describe_options  # TensorFlow is imported after parsing.

        print(describe_options(config.help_model, UserCode()))
        return OK
    if config.dry_run:
        choose_strategy(config, cluster_of(config, os.environ))
        reads_data = config.dry_run == "data" and not config.keeps_data  # Of a source the path was looked at.
        if reads_data:
            check_data(config.dataset, Path(config.data_dir))
            _check_task(config, console)
        console.say("the flags are right" + (", and the data is there" if reads_data else ""))
        return OK
    if config.group_readable:
        os.umask(WITH_GROUP)
    cluster = cluster_of(config, os.environ)
    if cluster and cluster.job == "evaluator":
        rundir = RunDir(config.logdir)
        rundir.path.mkdir(parents=True, exist_ok=True)
        console.open_log(rundir.task_log(cluster.job, cluster.task_index))
        wait_for_next(rundir, seconds=START_SECONDS, now=time.time, sleep=time.sleep, interval=LOOK_SECONDS)
        return follow([argv[0], f"--logdir={rundir.path}", "--follow", f"--interval={LOOK_SECONDS}"], console, signals)
    config = choose_strategy(config, cluster)
    if config.log_device_placement:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"  # The placement is an INFO line of TensorFlow's own.

    if cluster and cluster.job == "ps":
        from trainer.cluster.parameter_server import serve

        return serve(config, console, signals, cluster)

    from trainer.training.run import train  # TensorFlow is imported after parsing.

    return train(config, console, signals, cluster)
