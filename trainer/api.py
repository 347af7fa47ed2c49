"""The trainer from Python: `from trainer import api; result = api.train(num_gpus=2, epochs=5)`.

TensorFlow stays as the caller has it: eager mode goes on outside of these functions. They may be called again and
again, and in any thread; signals are the caller's own.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.cluster.roles import choose_strategy, cluster_of
from trainer.console import Console, describe_os_error, progress
from trainer.errors import TrainerError, UsageError, unknown_name
from trainer.notebook import is_notebook, show_picture
from trainer.rundir import RunDir
from trainer.settings.from_python import Functions, make_config, name_functions, only_functions
from trainer.signals import Signals

__all__ = ["Dataset", "Predictions", "evaluate", "load_dataset", "make_config", "predict", "train"]

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.spec import DatasetSpec
    from trainer.evaluating.evaluator import Evaluation
    from trainer.reporting.result import RunResult
    from trainer.saving.models import Model


TOP_K, NUM_WRONG = 5, 25  # of an evaluation
PICTURES = ("confusion", "wrong")  # of an evaluation, that a notebook shows
_given: dict[Path, Functions] = {}  # by run directory


class Predictions(NamedTuple):
    """What a model says of pictures."""

    values: np.ndarray  # float32 [n, classes or numbers]: probabilities, or the numbers themselves
    class_names: list[str]  # or the names of the numbers

    @property
    def classes(self) -> list[str]:
        """Returns the most probable class of each picture."""
        return [self.class_names[int(number)] for number in self.values.argmax(1)]


class Dataset(NamedTuple):
    """The examples of a split."""

    images: (
        np.ndarray | list[np.ndarray]
    )  # uint8 [height, width, depth] each; one array [n, ...] where all are of one size
    labels: np.ndarray  # int32 [n]; of several classes and of numbers float32 [n, width]
    class_names: list[str]


def train(*, quiet: bool = False, **settings: Any) -> RunResult:
    """Trains, as `python -m trainer` does with flags of the same names; returns what `result.json` holds.

    Files are written as the process's umask says. Ctrl-C, a KeyboardInterrupt, saves what has been trained first. A
    notebook shows a bar, and the curves at the end.

    Args:
      quiet: print nothing; the run directory holds all lines.
      settings: fields of `Config`; paths may be `Path`s, lists stand for comma-separated flags, and functions for
        the names of functions: `model=build`.

    Raises:
      UsageError: a setting is unknown or illegal, or the data do not fit.
      NotFiniteError: a loss, a gradient or a weight became NaN or infinite.
      TrainerError: anything else that ends a run.
    """
    settings, given = name_functions(settings)
    config = make_config(**settings)
    cluster = cluster_of(config, os.environ)
    if cluster and not cluster.is_chief:
        raise UsageError(
            f"api.train is of a process that is alone, or the chief; {cluster.source} makes this {cluster.task}"
        )
    config = choose_strategy(config, cluster)
    _given[Path(config.logdir).absolute()] = given

    from trainer.training.run import train_to_result  # TensorFlow is imported after the checks.

    with _open_console(quiet) as console:
        result = train_to_result(config, console, Signals(), cluster, given)
    assert result
    if is_notebook() and not quiet:
        _show_curves(RunDir(config.logdir), result.goal)
    return result


def evaluate(
    logdir: str | os.PathLike[str],
    *,
    split: str = "test",
    checkpoint: str = "",
    weights: str = "",
    data_dir: str | os.PathLike[str] = "",
    quiet: bool = False,
    trust_code: bool = False,
    **functions: Callable[..., Any],
) -> dict[str, float]:
    """Evaluates a checkpoint of a run on every example of a split once; returns its metrics by name.

    A notebook shows which classes were taken for which, and the pictures that were most wrong.

    Args:
      logdir: directory of the run.
      split: train, validation or test.
      checkpoint: a step, `best` or a path; empty: the newest.
      weights: ema or raw; empty: ema where the run has averages.
      data_dir: of the shards; empty: those of the run.
      quiet: show nothing.
      trust_code: run the user's code that the run holds, also where you have not run it before.
      functions: which `train` was given for the run by another process: `model=build`.

    Raises:
      UsageError: there is no such run, checkpoint, split or data.
      TrainerError: the checkpoint or a record is damaged.
    """
    from trainer.data.spec import SPLITS  # TensorFlow is imported after the checks.
    from trainer.evaluating.evaluator import find_data
    from trainer.saving.models import WEIGHTS, choose_checkpoint, load_model

    for name, value, choices in (("split", split, SPLITS), ("weights", weights, ("", *WEIGHTS))):
        if value not in choices:
            raise unknown_name(name, value, choices)
    rundir = RunDir(Path(logdir))
    with _open_console(quiet) as console:
        model = load_model(rundir, console.say, trust_code=trust_code, given=_functions_of(logdir, functions))
        path, spec = choose_checkpoint(rundir, str(checkpoint)), find_data(model, rundir, str(data_dir))
        found = _evaluate_checkpoint(rundir, model, path, spec, split, weights or model.default_weights, console)
    if is_notebook() and not quiet and found.scores:
        for name in PICTURES:
            if (picture := rundir.picture(split, found.weights, name)).is_file():
                show_picture(picture)
    return dict(found.metrics)


def _evaluate_checkpoint(
    rundir: RunDir, model: Model, path: str, spec: DatasetSpec, split: str, weights: str, console: Console
) -> Evaluation:
    """Evaluates a checkpoint, and writes what `trainer.evaluate` writes of it."""
    from trainer.evaluating.evaluator import open_evaluator
    from trainer.evaluating.following import index_time
    from trainer.evaluating.scoreboard import Scoreboard

    with (
        open_evaluator(model, "cpu") as evaluator,
        Scoreboard(rundir, model.spec.class_names, model.task.metrics.goal, TOP_K, console) as board,
        progress(console, f"evaluating {Path(path).name}", spec.num_examples(split)) as advance,
    ):
        found = evaluator.evaluate(
            path,
            weights=weights,
            spec=spec,
            split=split,
            top_k=TOP_K,
            num_wrong=NUM_WRONG,
            batch_size=0,
            reading=nullcontext,
            after_batch=advance,
        )
        board.log([found], path, index_time(path))
        board.show([found], path, tables=False, as_json=False)
        return found


def predict(
    path: str | os.PathLike[str],
    images: Sequence[Any],
    /,
    *,
    checkpoint: str = "",
    weights: str = "",
    trust_code: bool = False,
    **functions: Callable[..., Any],
) -> Predictions:
    """Predicts what pictures show.

    Args:
      path: of a run directory, a SavedModel, or a frozen graph of `trainer.export`.
      images: paths of picture files, or arrays, uint8 [height, width] or [height, width, depth].
      checkpoint: of a run: a step, `best` or a path; empty: the newest.
      weights: of a run: ema or raw; empty: ema where it has averages.
      trust_code: of a run: run the user's code that it holds, also where you have not run it before.
      functions: which `train` was given for the run by another process: `model=build`.

    Raises:
      UsageError: there is no such model, or a picture cannot be read.
    """
    from trainer.data.pictures import to_arrays  # TensorFlow is imported after the checks.
    from trainer.evaluating.predicting import open_predictor
    from trainer.saving.models import WEIGHTS

    if weights not in ("", *WEIGHTS):
        raise unknown_name("weights", weights, WEIGHTS)
    given = _functions_of(path, functions)
    with (
        _open_console(quiet=True) as console,
        open_predictor(
            str(path),
            checkpoint=str(checkpoint),
            weights=weights,
            trust_code=trust_code,
            say=console.say,
            given=given,
        ) as predictor,
    ):
        arrays = to_arrays(images, predictor.image_shape)
        return Predictions(predictor.predict(arrays), list(predictor.class_names))


def load_dataset(data_dir: str | os.PathLike[str], split: str = "train") -> Dataset:
    """Reads the examples of converted data into memory.

    Args:
      data_dir: of the shards.
      split: train, validation or test.

    Raises:
      UsageError: there is no such split.
      DataError: there are no such data, or a record is damaged.
    """
    import numpy as np

    from trainer.data.looking import open_data
    from trainer.data.records import load_examples
    from trainer.data.spec import SPLITS

    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    spec = open_data("", Path(data_dir))
    images, labels = load_examples(spec, split)
    if len({image.shape for image in images}) == 1:
        return Dataset(np.stack(images), labels, list(spec.class_names))
    return Dataset(images, labels, list(spec.class_names))


def _functions_of(logdir: str | os.PathLike[str], functions: Mapping[str, Callable[..., Any]]) -> Functions:
    """Finds the functions that this process has given to a run, or is giving now."""
    given = only_functions(functions)
    return {**_given.get(Path(logdir).absolute(), {}), **given}


def _show_curves(rundir: RunDir, goal: str) -> None:
    from trainer.plotting import plot_training

    rows = [json.loads(line) for line in rundir.metrics.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        plot_training(rows, goal, Path(folder) / "curves.png")
        show_picture(Path(folder) / "curves.png")


@contextmanager
def _open_console(quiet: bool) -> Iterator[Console]:
    """Opens a console; errors of the system become the trainer's."""
    console = Console()
    console.rich.quiet = quiet
    try:
        yield console
    except OSError as error:
        raise TrainerError(describe_os_error(error)) from error
    finally:
        console.close()
