"""A model looked at before it is trained: two steps on two towers, saved, restored, and built for inference."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainer.console import Console
from trainer.errors import NotFiniteError, UsageError
from trainer.rundir import RunDir
from trainer.saving import checkpoints
from trainer.saving.exporting import open_serving
from trainer.saving.models import make_model
from trainer.settings.config import Config
from trainer.signals import Signals
from trainer.tf1 import tf
from trainer.training.measuring import Bench, open_bench, step_flops

STEPS = 2
PICTURES_OF_TOWER = 2  # so that batch normalization has more than one


class Variable(NamedTuple):
    """A variable of the model."""

    name: str
    shape: list[int]
    is_trained: bool

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class Checked(NamedTuple):
    """What was found."""

    variables: list[Variable]
    other_values: int  # of optimizer, averages and counters
    flops: int  # of an image, in inference
    peak_mib: float  # of this process
    losses: list[float]  # of the steps
    notes: list[str]


def check_model(config: Config, console: Console, signals: Signals) -> Checked:
    """Builds a run, makes its first steps, and looks at the model in inference too.

    Args:
      config: of a run whose log directory is empty, and will hold a checkpoint.
      console: is told what a run says.
      signals: of the program.

    Raises:
      UsageError: the model cannot be trained, or does not come back from its checkpoint.
      NotFiniteError: a loss is NaN or infinite.
    """
    path = f"{RunDir(config.logdir).checkpoint_prefix}-{STEPS}"
    with open_bench(config, console, signals) as bench:
        losses = [_step(bench) for _ in range(STEPS)]
        with bench.session.graph.as_default():
            models = {variable.op.name for variable in tf.get_collection(tf.GraphKeys.MODEL_VARIABLES)}
            trained = {variable.op.name for variable in tf.trainable_variables()}
            everywhere = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
            _save_and_restore(bench)
        notes = list(bench.graphs.notes)
        model = make_model(config, bench.job.spec, bench.job.code)
    variables = [Variable(name, shape, name in trained) for name, shape in everywhere.items() if name in models]
    with open_serving(model, path, "raw") as serving:
        there = {variable.op.name for variable in tf.global_variables()}
        flops = _flops_of_image(serving.session.graph, model.task.preprocessing.elsewhere.batch_shape)
    alone = sorted(trained - there)
    if alone:
        notes.append(f"only in training: {', '.join(alone)}")
    return Checked(
        variables=variables,
        other_values=sum(int(np.prod(shape)) for name, shape in everywhere.items() if name not in models),
        flops=flops,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        losses=losses,
        notes=[*notes, *_twins(variables)],
    )


def _step(bench: Bench) -> float:
    """Makes a step; returns its loss."""
    train = bench.graphs.train
    loss, not_finite = bench.session.run([train.loss, train.not_finite])
    if len(not_finite):
        row, column = not_finite[0]
        what = f"{train.checked.columns[column]} of {train.checked.rows[row]}"
        raise NotFiniteError(f"the first steps are not finite: {what}")
    return float(loss)


def _save_and_restore(bench: Bench) -> None:
    """Saves all variables, changes them by a step, restores them, and compares."""
    session, variables = bench.session, tf.global_variables()
    before = session.run(variables)
    checkpoints.save(bench.ops, session, bench.job.rundir, STEPS, keep=1)
    _step(bench)
    checkpoints.restore(bench.ops, session, path=f"{bench.job.rundir.checkpoint_prefix}-{STEPS}")
    for variable, old, new in zip(variables, before, session.run(variables), strict=True):
        if not np.array_equal(old, new):
            raise UsageError(f"{variable.op.name} does not come back from a checkpoint as it was")


def _flops_of_image(graph: tf.Graph, shape: Sequence[int]) -> int:
    """Adds up the operations of the inference of one picture."""
    with tf.Graph().as_default():
        one = tf.placeholder(graph.get_tensor_by_name("images:0").dtype, [1, *shape])
        (logits,) = tf.import_graph_def(
            graph.as_graph_def(), input_map={"images:0": one}, return_elements=[_first_output(graph)], name=""
        )
        return step_flops([logits])


def _first_output(graph: tf.Graph) -> str:
    names = {operation.name for operation in graph.get_operations()}
    return "outputs/logits:0" if "outputs/logits" in names else "outputs/values:0"


def _twins(variables: Sequence[Variable]) -> list[str]:
    """Names variables that look as if one of them was meant to be the other: `w` and `w_1`, of one shape."""
    shapes = {variable.name: variable.shape for variable in variables}
    pairs = []
    for name, shape in shapes.items():
        base, _, number = name.rpartition("_")
        if number.isdecimal() and shapes.get(base) == shape and not base.endswith("Variable"):
            pairs.append(f"{name} beside {base}, of the same shape: is one of them made twice?")
    return pairs
