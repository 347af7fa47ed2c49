"""One building of a model's function: what it makes and collects, as TF1 programs do, and what it must not do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from trainer.errors import UsageError
from trainer.models import layers
from trainer.models.functions import TRAINING, ModelFunction
from trainer.models.normalization import CrossMean, statistics_over
from trainer.models.outputs import ModelOutput, check_logits, read_logits
from trainer.models.sharing import Sharing
from trainer.subgraphs import ancestors, names_that_draw
from trainer.tf1 import tf

SAMPLE_SIZE = 512  # most pictures of a sample
LOSSES = (tf.GraphKeys.LOSSES, tf.GraphKeys.REGULARIZATION_LOSSES)
COLLECTED = (*LOSSES, tf.GraphKeys.UPDATE_OPS)
# How each kind of assignment makes a new value of the old one.
ASSIGNMENTS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "assign": lambda old, value: value,
    "assign_add": lambda old, value: old + value,
    "assign_sub": lambda old, value: old - value,
}
PASSES = {"Enter", "Switch", "Identity"}  # a handle into a loop or a branch
READS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"}


class _Assignment(NamedTuple):
    """An assignment to a variable, which is not made while the model computes, but where the step is applied."""

    variable: tf.Variable
    kind: str  # of ASSIGNMENTS
    value: tf.Tensor  # that it takes
    result: tf.Tensor  # the value of the variable after it


_BUILDING: ContextVar[_Building | None] = ContextVar("building", default=None)


def build_model(
    function: ModelFunction,
    images: tf.Tensor,
    *,
    num_classes: int,
    training: bool,
    data_format: str = layers.CHANNELS_LAST,
    regularizer: Callable[[tf.Tensor], tf.Tensor] | None = None,
    seed: int = 0,
    draw: tf.Tensor | None = None,
    cross_mean: CrossMean | None = None,
    sample: np.ndarray | None = None,
) -> ModelOutput:
    """Builds a model on images.

    Args:
      function: of the model.
      images: [batch, height, width, depth] of uint8, which the model sees as 0..1, or of its floats.
      num_classes: width of the logits.
      training: is it for training.
      data_format: of convolutions.
      regularizer: of weights, for a model that takes one.
      seed: of the run.
      draw: int64 [], another number for each step and tower, from which the masks of `layers.dropout` follow.
      sample: float32 [n, height, width, depth], pictures of the training set as the model sees them, from which it may
        compute initial values; None: all 0, where its weights come from elsewhere.
      cross_mean: averages the statistics of `layers.batch_norm` over towers; None: each tower has its own.

    Raises:
      UsageError: the model fails, or does what cannot be kept to the trainer's promises.
    """
    building = _Building(function.name)
    with building.open(), layers.masks_from(seed, draw), statistics_over(cross_mean):
        built = function(
            images,
            num_classes=num_classes,
            **dict.fromkeys(TRAINING, training),
            reuse=tf.AUTO_REUSE,
            regularizer=regularizer,
            data_format=data_format,
            sample=np.zeros([SAMPLE_SIZE, *map(int, images.shape[1:])], np.float32) if sample is None else sample,
        )
    logits, auxiliary = read_logits(function.name, built)
    checked = [check_logits(function.name, tensor, images, num_classes) for tensor in (logits, *auxiliary)]
    return building.finish(checked[0], checked[1:], images, training=training)


class _Building:
    """What a model does while it is built."""

    def __init__(self, model: str) -> None:
        self._model, self._graph = model, tf.get_default_graph()
        self._first = len(self._graph.get_operations())
        # Private: nothing public tells whether what is built belongs to a branch or a loop of the model.
        self._context = self._graph._get_control_flow_context()
        self._collected = {name: len(self._graph.get_collection_ref(name)) for name in COLLECTED}
        self._assignments: list[_Assignment] = []
        self._names: dict[int, str] = {}  # of variables, by identity, as the model says them

    @contextmanager
    def open(self) -> Iterator[None]:
        before = _BUILDING.set(self)
        try:
            with Sharing(self._model, self._meet).open():
                yield
        finally:
            _BUILDING.reset(before)

    def _meet(self, variable: tf.Variable, name: str) -> None:
        self._names[id(variable)] = name
        models = self._graph.get_collection_ref(tf.GraphKeys.MODEL_VARIABLES)
        known, kept = ({id(other) for other in group} for group in (models, tf.global_variables()))
        if variable.op.name == name and id(variable) in kept - known:
            models.append(variable)
        if id(variable) not in kept | {id(local) for local in tf.local_variables()}:
            raise UsageError(f"{self._model} keeps {name} out of GLOBAL_VARIABLES: no checkpoint would hold it")
        if not hasattr(variable, "is_recorded"):
            variable.is_recorded = True
            for kind in ASSIGNMENTS:
                setattr(variable, kind, functools.partial(_assign, variable, getattr(variable, kind), kind))

    def record(self, variable: tf.Variable, kind: str, value: Any) -> tf.Tensor:
        """Notes an assignment; returns the value that the variable has after it.

        Raises:
          UsageError: it stands in a branch or a loop of the model.
        """
        name = self._names.get(id(variable), variable.op.name)
        is_inside = tf.get_default_graph() is not self._graph
        if is_inside or self._graph._get_control_flow_context() is not self._context:
            raise UsageError(
                f"{self._model} assigns to {name} inside of tf.cond or a loop; assign a value that tf.where chooses"
            )
        value = tf.convert_to_tensor(value, variable.dtype.base_dtype)
        fits = value.shape.is_compatible_with(variable.shape) or (kind != "assign" and value.shape.rank == 0)
        if not fits:
            raise UsageError(f"{self._model} assigns {value.shape} to {name}, which is {variable.shape}")
        result = tf.identity(ASSIGNMENTS[kind](variable.read_value(), value), name="assigned")
        self._assignments.append(_Assignment(variable, kind, value, result))
        return result

    def finish(
        self, logits: tf.Tensor, auxiliary: Sequence[tf.Tensor], images: tf.Tensor, *, training: bool
    ) -> ModelOutput:
        """Looks at what was built."""
        mine = set(self._graph.get_operations()[self._first :])
        collected = {name: self._take(name) for name in COLLECTED}
        losses = [tf.convert_to_tensor(loss) for name in LOSSES for loss in collected[name]]
        # A loss may stand in both.
        of_batch, of_variables = self._split({id(loss): loss for loss in losses}.values(), images)
        updates = [_operation_of(update) for update in collected[tf.GraphKeys.UPDATE_OPS]]
        live = ancestors([logits, *auxiliary, *losses, *updates], within=mine)
        made = [each for each in self._assignments if each.result.op in live]
        idle = {self._name_of(each) for each in self._assignments if each.result.op not in live}
        draws = sorted(names_that_draw(live, self._graph))
        if draws and not training:
            raise UsageError(
                f"{self._model} draws random numbers where it is not trained too ({draws[0]}): an evaluation would be "
                "chance; it gets `training`, which says when"
            )
        self._check_updates(collected[tf.GraphKeys.UPDATE_OPS], mine)
        self._check_writes(live)
        self._check_reads(made, live)
        return ModelOutput(
            logits=logits,
            aux_logits=auxiliary if training else (),
            losses=[self._scalar(loss) for loss in of_batch],
            regularization=[self._scalar(loss) for loss in of_variables],
            updates=self._fold(made) if training else {},
            idle=sorted(idle - {self._name_of(each) for each in made}),
            draws=draws,
            own_statistics=sorted(op.name for op in live if _normalizes_alone(op)),
        )

    def _take(self, name: str) -> list[Any]:
        """Takes what this building has put into a collection out of it."""
        collection = self._graph.get_collection_ref(name)
        mine = list(collection[self._collected[name] :])
        del collection[self._collected[name] :]
        return mine

    def _split(self, losses: Iterable[tf.Tensor], images: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Splits losses into those that depend on the images, or on chance, and those of variables alone."""
        of_batch: list[tf.Tensor] = []
        of_variables: list[tf.Tensor] = []
        for loss in losses:
            needs = ancestors([loss])
            depends = images.op in needs or names_that_draw(needs, self._graph)
            (of_batch if depends else of_variables).append(loss)
        return of_batch, of_variables

    def _scalar(self, loss: tf.Tensor) -> tf.Tensor:
        if loss.shape.rank != 0:
            raise UsageError(f"{self._model} collects a loss of shape {loss.shape} ({loss.op.name}); wanted a scalar")
        return tf.cast(loss, tf.float32)

    def _name_of(self, assignment: _Assignment) -> str:
        return self._names.get(id(assignment.variable)) or str(assignment.variable.op.name)

    def _fold(self, assignments: Sequence[_Assignment]) -> dict[str, tf.Tensor]:
        """Makes one value for each variable of the assignments to it, in their order."""
        values: dict[str, tf.Tensor] = {}
        for each in assignments:
            name = self._name_of(each)
            if not (each.variable.dtype.is_floating or each.variable.dtype.is_integer):
                raise UsageError(f"{self._model} updates {name}, which is {each.variable.dtype.name}; wanted numbers")
            earlier = values.get(name)
            values[name] = each.result if earlier is None else ASSIGNMENTS[each.kind](earlier, each.value)
        return values

    def _check_updates(self, updates: Sequence[Any], mine: set[tf.Operation]) -> None:
        """Refuses what is no assignment to a variable: it would never run."""
        assigned = {each.result.op for each in self._assignments}
        for update in updates:
            if not assigned & ancestors([_operation_of(update)], within=mine):
                op = _operation_of(update)
                raise UsageError(
                    f"{self._model} puts {op.name} ({op.type}) into UPDATE_OPS, which assigns to no variable; "
                    "wanted assign, assign_add or assign_sub"
                )

    def _check_writes(self, live: set[tf.Operation]) -> None:
        """Refuses what would write into a variable while the model computes."""
        for op in live:
            handles = [found for tensor in op.inputs if (found := _variable_of(tensor))]
            if handles and op.type not in (*READS, *PASSES):
                raise UsageError(
                    f"{self._model} writes into {handles[0].name} by {op.type} ({op.name}) while it computes; "
                    "wanted assign, assign_add or assign_sub of the variable, which happen where the step is applied"
                )

    def _check_reads(self, assignments: Sequence[_Assignment], live: set[tf.Operation]) -> None:
        """Refuses to read a variable after an assignment, which happens only at the end of the step."""
        handles = {each.variable.handle.op: each for each in assignments}
        for op in live if handles else ():
            each = handles.get(_variable_of(op.inputs[0])) if op.type in READS else None
            if each and op.control_inputs and each.result.op in ancestors([op], within=live):
                raise UsageError(
                    f"{self._model} reads {self._name_of(each)} after it has assigned to it ({op.name}); take what the "
                    "assignment returns, which is its new value"
                )


def _normalizes_alone(op: tf.Operation) -> bool:
    """Is this a normalization by the statistics of one tower: the fused operation, or `tf.nn.moments` of the batch?"""
    if op.type.startswith("FusedBatchNorm"):
        return bool(op.get_attr("is_training"))
    if op.type != "Mean" or op.name.split("/")[-2:] != ["moments", "mean"]:
        return False
    axes = tf.get_static_value(op.inputs[1])
    return axes is not None and 0 in np.ravel(axes)


def _variable_of(tensor: tf.Tensor) -> tf.Operation | None:
    """Finds the variable to which a tensor is the handle, also inside of a loop."""
    if tensor.dtype != tf.resource:
        return None
    op = tensor.op
    while op.type in PASSES:
        op = op.inputs[0].op
    return op if op.type == "VarHandleOp" else None


def _operation_of(update: Any) -> tf.Operation:
    return update if isinstance(update, tf.Operation) else update.op


def _assign(
    variable: tf.Variable,
    original: Callable[..., Any],
    kind: str,
    value: Any,
    use_locking: bool | None = None,
    name: str | None = None,
    read_value: bool = True,
) -> Any:
    """Is an assignment to a variable: noted while a model is built, else made."""
    building = _BUILDING.get()
    if building is None:
        return original(value, use_locking=use_locking, name=name, read_value=read_value)
    result = building.record(variable, kind, value)
    return result if read_value else result.op
