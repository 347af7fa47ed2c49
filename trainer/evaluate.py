"""Evaluates checkpoints of a run: `python -m trainer.evaluate --logdir=runs/mnist_lenet`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer.console import OWNER_ONLY, WITH_GROUP, Console, exit_program, progress, run_program
from trainer.errors import ERROR, OK, NotFiniteError, TrainerError, UsageError, unknown_name
from trainer.rundir import RunDir
from trainer.settings import flags
from trainer.settings.fields import option
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.data.spec import DatasetSpec
    from trainer.evaluating.evaluator import Evaluation, Evaluator
    from trainer.evaluating.scoreboard import Scoreboard

USAGE = "python -m trainer.evaluate --logdir=DIR [--follow] [--flag=value ...]"
CHOICES = {"split": ("train", "validation", "test"), "weights": ("ema", "raw", "both"), "device": ("cpu", "gpu")}


@dataclass(frozen=True)
class EvaluateSettings:
    logdir: str = option("", "run directory that holds the checkpoints", path=True)
    follow: bool = option(False, "evaluate each checkpoint of a running training, until that is finished")
    interval: float = option(10.0, "--follow: seconds between two looks for new checkpoints")
    timeout: float = option(600.0, "--follow: seconds without a training at work after which it ends, with exit code 1")
    split: str = option("", "train | validation | test (default: test; with --follow, validation)")
    checkpoint: str = option("", "step, `best`, or path as DIR/model.ckpt-N (default: the newest)", path=True)
    weights: str = option("", "ema | raw | both (default: ema where the run has averages)")
    data_dir: str = option("", "directory of the shards (default: that of the run)", path=True)
    device: str = option("cpu", "cpu leaves GPUs and their memory to the training", ("cpu", "gpu"))
    batch_size: int = option(
        0, "images at a time; 0: chosen by their size, at most 500; the result does not depend on it"
    )
    top_k: int = option(5, "an image also counts where its label is among so many of the largest logits")
    worst: int = option(25, "of the pictures that were taken for another class, how many are drawn, the worst first")
    operations: tuple[str, ...] = option(
        (), "C++ files of operations that the graph needs, or FILE.so; may be repeated", repeated=True
    )
    trust_code: bool = option(False, "run the user's code that the run holds, also where you have not run it before")
    model: str = option(
        "", "a frozen graph or SavedModel, in the place of --logdir; --data_dir names the data", path=True
    )
    input_tensor: str = option("", "of --model by others: the tensor of the images, as input:0")
    output_tensor: str = option("", "of --model by others: the tensor of a number for each class")
    preprocess: str = option("", "of --model by others: what is done to pictures, as inception(224)")
    labels: str = option("", "of --model by others: file with a name of a class on each line", path=True)
    json: bool = option(False, "end with one line of JSON (with --follow, one for each checkpoint)")


class Work(NamedTuple):
    """What all evaluations of a process share."""

    evaluator: Evaluator
    spec: DatasetSpec
    split: str
    kinds: Sequence[str]  # of weights
    settings: EvaluateSettings
    console: Console
    signals: Signals


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(run, argv, umask=OWNER_ONLY)


def run(argv: Sequence[str], console: Console, signals: Signals) -> int:
    """Evaluates as a command line says, whose first word is the program; returns the exit code."""
    settings: EvaluateSettings = flags.parse_flags(EvaluateSettings, argv, USAGE)
    _check(settings)
    if settings.model:
        return _evaluate_graph(settings, console, signals)
    rundir = RunDir(settings.logdir)
    signals.shield()  # Before TensorFlow's first thread.

    from trainer.evaluating import scoreboard  # TensorFlow is imported after parsing.
    from trainer.evaluating.evaluator import find_data, open_evaluator
    from trainer.evaluating.following import index_time
    from trainer.saving import models
    from trainer.saving.lock import RunLock

    if settings.follow:
        _wait_for(rundir, settings, console, signals)
    model = models.load_model(rundir, console.say, trust_code=settings.trust_code)
    if model.config.group_readable:
        os.umask(WITH_GROUP)
    split = settings.split or ("validation" if settings.follow else "test")
    kinds = models.WEIGHTS if settings.weights == "both" else (settings.weights or model.default_weights,)
    signals.defer()
    spec, goal = find_data(model, rundir, settings.data_dir), model.task.metrics.goal
    with (
        open_evaluator(model, settings.device) as evaluator,
        scoreboard.Scoreboard(rundir, model.spec.class_names, goal, settings.top_k, console) as board,
    ):
        work = Work(evaluator, spec, split, kinds, settings, console, signals)
        if settings.follow:
            with RunLock(rundir, rundir.evaluation_lock(split), say=console.say):  # Each checkpoint once.
                left_out = _follow(work, rundir, board)
        else:
            left_out = 0
            path = models.choose_checkpoint(rundir, settings.checkpoint)
            evaluations = _score(work, path, kinds)
            board.log(evaluations, path, index_time(path))
            board.show(evaluations, path, tables=not settings.json, as_json=settings.json)
    return ERROR if board.failures.counts or left_out else OK


def _evaluate_graph(settings: EvaluateSettings, console: Console, signals: Signals) -> int:
    """Evaluates a graph that no run directory belongs to."""
    signals.shield()  # Before TensorFlow's first thread.

    from trainer.data.looking import open_data  # TensorFlow is imported after parsing.
    from trainer.evaluating.foreign import make_ends
    from trainer.evaluating.graphs import evaluate_graph
    from trainer.evaluating.predicting import open_predictor
    from trainer.ops.loading import load_named

    if (Path(settings.model) / "config.json").is_file():
        raise UsageError(f"--model={settings.model} is a run directory: name it by --logdir")
    ends = make_ends(settings.input_tensor, settings.output_tensor, settings.preprocess, settings.labels)
    spec, split = open_data("", Path(settings.data_dir)), settings.split or "test"
    signals.defer()
    load_named(settings.operations)
    with (
        open_predictor(settings.model, ends=ends, say=console.say) as predictor,
        progress(console, f"evaluating {Path(settings.model).name}", spec.num_examples(split)) as advance,
    ):
        found = evaluate_graph(
            predictor,
            spec,
            split,
            top_k=settings.top_k,
            batch_size=settings.batch_size,
            reading=signals.interruptible,
            after_batch=advance,
        )
    classes = len(spec.class_names)
    console.say(
        f"{split} accuracy {found.accuracy:.2%}, among the {classes:,} classes of the data "
        f"{found.accuracy_of_classes:.2%}  top-{settings.top_k} {found.top_k_accuracy:.2%}  "
        f"{found.num_examples:,} images"
    )
    if settings.json:
        console.say(json.dumps({"split": split, "top_k": settings.top_k, **found._asdict()}))
    return OK


def _check(settings: EvaluateSettings) -> None:
    ends = [settings.input_tensor, settings.output_tensor, settings.preprocess, settings.labels, *settings.operations]
    if settings.model and (settings.logdir or settings.follow or settings.checkpoint or settings.weights):
        raise UsageError("--model and --logdir conflict, with --follow, --checkpoint and --weights: they are of a run")
    if settings.model and not settings.data_dir:
        raise UsageError("--data_dir is missing: the data by which --model is judged")
    if any(ends) and not settings.model:
        raise UsageError("--input_tensor, --output_tensor, --preprocess, --labels and --operations are of --model")
    if not settings.logdir and not settings.model:
        raise UsageError("--logdir is missing: the directory of the run that is to be evaluated")
    for name, choices in CHOICES.items():
        value = getattr(settings, name)
        if value and value not in choices:
            raise unknown_name(name, value, choices)
    ranges = (
        ("interval", 0.01, 86400),
        ("timeout", 0, 1e9),
        ("batch_size", 0, 100_000),
        ("top_k", 1, 1000),
        ("worst", 1, 1000),
    )
    for name, low, high in ranges:
        if not low <= getattr(settings, name) <= high:
            raise UsageError(f"{name}={getattr(settings, name)} is out of range: {low} to {high:g}")
    if settings.follow and settings.checkpoint:
        raise UsageError("--follow and --checkpoint conflict: give one of them")


def _score(work: Work, path: str, kinds: Sequence[str]) -> list[Evaluation]:
    """Evaluates a checkpoint with each kind of weights."""
    total = len(kinds) * work.spec.num_examples(work.split)
    with progress(work.console, f"evaluating {Path(path).name}", total) as advance:
        return [
            work.evaluator.evaluate(
                path,
                weights=weights,
                spec=work.spec,
                split=work.split,
                top_k=work.settings.top_k,
                num_wrong=work.settings.worst,
                batch_size=work.settings.batch_size,
                reading=work.signals.interruptible,
                after_batch=advance,
            )
            for weights in kinds
        ]


def _wait_for(rundir: RunDir, settings: EvaluateSettings, console: Console, signals: Signals) -> None:
    """Waits until a training has begun."""
    deadline = time.monotonic() + settings.timeout
    said = False
    while not (rundir.config.exists() and rundir.data.exists()):
        if time.monotonic() > deadline:
            raise TrainerError(
                f"no training has begun in {rundir.path} for {settings.timeout:g} s; --timeout waits longer"
            )
        if not said:
            console.say(f"waiting up to {settings.timeout:g} s for a training to begin in {rundir.path}")
            said = True
        with signals.interruptible():
            time.sleep(settings.interval)


def _follow(work: Work, rundir: RunDir, board: Scoreboard) -> int:
    """Evaluates checkpoints as they come; returns how many stayed and could not be read."""
    from trainer.data.spec import DataError
    from trainer.evaluating.following import Candidate, Follower
    from trainer.saving.files import link_checkpoint

    def new_kinds(found: Candidate) -> list[str]:
        return [weights for weights in work.kinds if not board.knows(found.path, found.written, work.split, weights)]

    def sleep(seconds: float) -> None:
        with work.signals.interruptible():
            time.sleep(seconds)

    follower = Follower(
        rundir,
        is_known=lambda found: not new_kinds(found),
        interval=work.settings.interval,
        timeout=work.settings.timeout,
        clock=time.monotonic,
        sleep=sleep,
        say=work.console.say,
    )
    held = rundir.held(work.split)
    try:
        for found in follower.checkpoints():
            shutil.rmtree(held, ignore_errors=True)
            try:
                path = link_checkpoint(found.path, held)
            except FileNotFoundError:  # The training has deleted it.
                continue
            try:
                evaluations = _score(work, path, new_kinds(found))
            except (UsageError, NotFiniteError, DataError):
                raise
            except TrainerError as error:
                follower.failed(found, str(error))
                continue
            board.keep_best(evaluations[0], path)
            board.log(evaluations, found.path, found.written)
            board.show(evaluations, found.path, tables=False, as_json=work.settings.json)
    finally:
        shutil.rmtree(held, ignore_errors=True)
    if not work.settings.json:
        board.say_best()
    return follower.left_out


if __name__ == "__main__":
    exit_program(main())
