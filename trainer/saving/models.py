"""The model of a run directory without its training: a clean graph, and the weights of one of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from trainer.data.manifest import load_run_data
from trainer.data.spec import IMAGE, DatasetSpec
from trainer.errors import TrainerError, UsageError, reason
from trainer.grammars import check_path
from trainer.learning.losses import find_loss
from trainer.learning.optimizers import DECOUPLED
from trainer.learning.own_metrics import find_metrics, parse_goal
from trainer.learning.task import Task, make_task
from trainer.models import layers
from trainer.models.functions import find_model
from trainer.preprocessing.preprocessing import preprocessing_of
from trainer.rundir import CHECKPOINT_PREFIX, RunDir
from trainer.saving.code import open_kept
from trainer.saving.files import READ_ERRORS, find_steps
from trainer.saving.tensors import find_checkpoint, list_tensors
from trainer.settings.config import Config, load_config, validate
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf, tf_path

WEIGHTS = ("ema", "raw")


class Model(NamedTuple):
    """What a run directory says of the model that it trains."""

    config: Config
    spec: DatasetSpec  # of the data that it was trained on
    task: Task
    code: UserCode

    @property
    def default_weights(self) -> str:
        return "ema" if self.config.ema_decay else "raw"


def load_model(
    rundir: RunDir,
    say: Callable[[str], None],
    *,
    trust_code: bool = False,
    given: Mapping[str, Callable[..., Any]] | None = None,
) -> Model:
    """Reads what the trainer has written of its run.

    Args:
      rundir: of the run.
      say: is told what could not be noted.
      trust_code: run the user's code that lies there, also where this user has not run it before.
      given: functions that Python gives.

    Raises:
      UsageError: there is no run, what it wrote is damaged, or its code may not be run.
    """
    check_path("logdir", str(rundir.path))
    if not rundir.config.is_file():
        raise UsageError(f"{rundir.path} holds no {rundir.config.name}; --logdir is the directory of a run")
    config, spec = validate(load_config(rundir.config)), load_run_data(rundir.data)
    return make_model(config, spec, open_kept(rundir, trust=trust_code, say=say, given=given))


def make_model(config: Config, spec: DatasetSpec, code: UserCode) -> Model:
    """Puts a run's settings, its data and the user's code together."""
    return Model(config, spec, task_of(config, spec, code), code)


def task_of(config: Config, spec: DatasetSpec, code: UserCode, ops: Mapping[str, Any] = MappingProxyType({})) -> Task:
    """Makes the task of a run; `ops` are modules of the trainer's own operations, by name."""
    preprocessing = preprocessing_of(spec, config.preprocess, config.eval_preprocess, seed=config.seed, code=code)
    return make_task(
        spec,
        model=find_model(config.model, config.model_args, code),
        loss=find_loss(config.loss, config.loss_args, spec.label_kind, code),
        metrics=find_metrics(config.metrics, spec, code),
        goal=parse_goal(config.best, spec),
        precision=config.precision,
        preprocessing=preprocessing.with_operation(ops.get("augment")),
        weight_decay=0.0 if config.optimizer in DECOUPLED else config.weight_decay,
        seed=config.seed,
        views=config.eval_views,
    )


def build_outputs(model: Model, images: tf.Tensor, *, device: str = "", data_format: str = "") -> tf.Tensor:
    """Builds the model without dropout: for classes, logits, float32 [n, classes].

    Args:
      model: from `load_model`.
      images: [n, height, width, depth], preprocessed.
      device: of the operations; none: any.
      data_format: of convolutions; none: that of the run.
    """
    chosen = layers.layout(data_format or model.config.data_format, device)
    # In a scope: no operation has a name that a variable asks for.
    with tf.device(device), tf.name_scope("model"):
        return model.task.build({IMAGE: images}, preprocessed=True, data_format=chosen).logits


def choose_checkpoint(rundir: RunDir, name: str) -> str:
    """Finds a checkpoint's path without the endings of its files.

    Args:
      rundir: of the run.
      name: a step, `best`, a path, or nothing for the newest.

    Raises:
      UsageError: there is no such checkpoint.
    """
    folder = rundir.best if name == "best" else rundir.path
    steps = find_steps(folder)
    if name in ("", "best"):
        if not steps:
            hint = "; python -m trainer.evaluate --follow keeps the best one" if name else ""
            raise UsageError(f"{folder} holds no checkpoint{hint}")
        return str(folder / f"{CHECKPOINT_PREFIX}-{steps[-1]}")
    if name.isdecimal():
        if int(name) not in steps:
            there = ", ".join(str(step) for step in steps) or "none"
            raise UsageError(f"{folder} holds no checkpoint of step {name}; there are: {there}")
        return str(folder / f"{CHECKPOINT_PREFIX}-{int(name)}")
    return find_checkpoint(name)


def step_of(path: str) -> int:
    """Reads the global step of a checkpoint, or else from its name; 0 where neither tells.

    Raises:
      TrainerError: it is damaged.
    """
    number = path.rpartition("-")[2]
    try:
        reader = tf.train.NewCheckpointReader(tf_path(path))
        if reader.has_tensor("global_step"):
            return int(reader.get_tensor("global_step"))
        return int(number) if number.isdecimal() else 0
    except READ_ERRORS as error:
        raise TrainerError(f"checkpoint {path} cannot be read: {reason(error)}") from error


def map_weights(path: str, weights: str) -> dict[str, tf.Variable]:
    """Finds what to restore the default graph's variables from in a checkpoint, averaged or raw: for a `Saver`.

    Variables that were frozen have no averages, and are restored as they are.

    Raises:
      UsageError: the checkpoint holds no averages, or is of another model.
      TrainerError: it is damaged.
    """
    shapes = {name: list(tensor.shape) for name, tensor in list_tensors(path).items()}
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    if weights == "ema":
        average = tf.train.ExponentialMovingAverage(0.0)  # Only for its names.
        averaged = [variable for variable in variables.values() if average.average_name(variable) in shapes]
        if not averaged:
            raise UsageError(f"checkpoint {path} holds no averaged weights; use --weights=raw")
        variables = average.variables_to_restore(averaged)
    _compare(path, variables, shapes)
    return variables


def _compare(path: str, variables: dict[str, tf.Variable], shapes: dict[str, list[int]]) -> None:
    wrong = [
        f"{name} {f'has shape {shapes[name]}, wanted {variable.shape.as_list()}' if name in shapes else 'is not in it'}"
        for name, variable in sorted(variables.items())
        if name not in shapes or shapes[name] != variable.shape.as_list()
    ]
    if wrong:
        listed = "".join(f"\n  {line}" for line in wrong)
        raise UsageError(f"checkpoint {path} is of another model than the run's config.json says:{listed}")
