"""The variables of a model's function: every building of it, as those of the towers, has the same ones.

They have the names that they have in a program without towers, also what `tf.Variable` makes; and initial values that
follow from the seed of the run and their names alone, where TensorFlow's own seeds count the operations before them.
"""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from trainer.errors import UsageError
from trainer.subgraphs import ancestors, copy_of
from trainer.tf1 import tf

LOW_PRECISION = (tf.bfloat16, tf.float16)
REPLICA = "replica_"  # in front of the names of the variables that other towers have
UNSEEDED = 1 << 30  # is inverted in the graph's seed of an operation that has no seed of its own


class _GraphSeed(int):
    """The seed of a graph, which marks operations without a seed of their own.

    For these TensorFlow takes the number of such operations before them, and notes it on the graph, before it reduces
    the graph's seed to 31 bits.
    """

    def __mod__(self, divisor: int) -> int:
        graph = tf.get_default_graph()
        is_unseeded, graph._seed_used = getattr(graph, "_seed_used", False), False
        return (int(self) ^ UNSEEDED if is_unseeded else int(self)) % divisor


class Sharing:
    """The variables of one building."""

    def __init__(self, model: str, met: Callable[[tf.Variable, str], None]) -> None:
        """Begins a building, in the scopes that are open.

        Args:
          model: whose variables they are, for messages.
          met: is told of each variable that the model gets, with the name that it asked for.
        """
        self._model, self._met = model, met
        self._prefix = tf.get_default_graph().get_name_scope()
        self._seed = _GraphSeed(tf.get_default_graph().seed or 0)
        self._root = tf.get_variable_scope()
        ours = {id(variable) for variable in tf.get_collection(tf.GraphKeys.MODEL_VARIABLES)}
        self._others = {variable.op.name for variable in tf.global_variables() if id(variable) not in ours}
        self._is_getting = 0  # calls of get_variable that are open
        self._is_sharing = False  # is the next of them for a tf.Variable
        self._taken: dict[str, bool] = {}  # names, and whether a tf.Variable has it

    @contextmanager
    def open(self) -> Iterator[None]:
        """Gives what is built inside its variables.

        What it draws by Python's or numpy's generators follows from the seed of the run too: Keras's initializers take
        their seeds there.

        Raises:
          UsageError: the seed of the graph is set inside.
        """
        graph = tf.get_default_graph()
        of_python, of_numpy = random.getstate(), np.random.get_state()
        random.seed(int(self._seed))
        np.random.seed(int(self._seed))
        before, graph.seed, graph._seed_used = graph.seed, self._seed, False
        try:
            with (
                tf.variable_creator_scope(self._create),
                tf.variable_scope(self._root, custom_getter=self._get) as self._root,
            ):
                yield
            if graph.seed is not self._seed:
                raise UsageError(f"{self._model} sets the seed of the graph, which is that of --seed: leave it out")
        finally:
            graph.seed = before
            random.setstate(of_python)
            np.random.set_state(of_numpy)

    def _get(self, getter: Callable[..., tf.Variable], name: str, *args: Any, **kwargs: Any) -> tf.Variable | tf.Tensor:
        """Is a `custom_getter`, outside of all others."""
        is_variable, self._is_sharing = self._is_sharing, False
        if kwargs.get("partitioner") is not None:
            raise UsageError(f"{self._model} asks for {name} in parts, by a partitioner: leave it out")
        if kwargs.get("use_resource") is False:
            raise UsageError(f"{self._model} asks for {name} with use_resource=False: leave it out")
        if (self._prefix and name.startswith(f"{self._prefix}/")) or name.startswith(REPLICA):
            raise UsageError(
                f"{self._model} asks for a variable {name}, named after a tower, as averages of tensors by "
                "tf.train.ExponentialMovingAverage are; keep them in variables of its own, by UPDATE_OPS"
            )
        if name in self._others:
            raise UsageError(f"{self._model} asks for a variable {name!r}, which is the trainer's: name it otherwise")
        if self._taken.setdefault(name, is_variable) != is_variable:
            raise UsageError(f"{self._model} makes a tf.Variable {name!r}, then asks get_variable for one of that name")
        initial = kwargs.get("initializer")
        if initial is not None and not callable(initial):
            # Of a value, the type is its own: where a variable is found again, TensorFlow compares it with float32.
            kwargs["dtype"] = initial.dtype if isinstance(initial, tf.Tensor) else tf.as_dtype(_type_of(initial))
        dtype = tf.as_dtype(kwargs.get("dtype") or tf.float32)
        # As in mixed precision elsewhere: what is multiplied has few bits, what is trained has all.
        is_low = dtype in LOW_PRECISION and kwargs.get("trainable") is not False
        if is_low:
            kwargs["dtype"] = tf.float32
        self._is_getting += 1
        try:
            variable = getter(name, *args, **kwargs)
        finally:
            self._is_getting -= 1
        self._met(variable, name)
        return tf.cast(variable, dtype) if is_low else variable

    def _create(self, create: Callable[..., tf.Variable], **kwargs: Any) -> tf.Variable:
        """Is a `variable_creator`: sees what get_variable makes, and each tf.Variable."""
        if self._is_getting:
            seeded = functools.partial(_seeded, kwargs["initial_value"], self._seed, str(kwargs["name"]))
            return create(**kwargs | {"initial_value": seeded})
        return self._share(**kwargs)

    def _share(
        self,
        *,
        initial_value: Any = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool | None = None,
        collections: Any = None,
        validate_shape: bool = True,
        constraint: Any = None,
        **_: Any,
    ) -> tf.Variable:
        """Makes a tf.Variable, or finds the one that an earlier building has made."""
        value = tf.convert_to_tensor(initial_value() if callable(initial_value) else initial_value, dtype)
        full = self._unique(name or "Variable")
        with tf.variable_scope(self._root, auxiliary_name_scope=False):
            self._is_sharing = True
            return tf.get_variable(
                full,
                initializer=tf.cast(value, tf.float32) if value.dtype in LOW_PRECISION else value,
                dtype=value.dtype.base_dtype,
                trainable=trainable is not False,
                collections=collections,
                validate_shape=validate_shape,
                constraint=constraint,
            )

    def _unique(self, name: str) -> str:
        """Names a tf.Variable as TensorFlow does, but as if the scope of this building were not there."""
        scope = tf.get_default_graph().get_name_scope()
        is_below = scope == self._prefix or scope.startswith(f"{self._prefix}/") or not self._prefix
        scope = scope[len(self._prefix) :].strip("/") if is_below else scope
        base = f"{scope}/{name}" if scope else name
        found, number = base, 0
        while found in self._taken:
            number += 1
            found = f"{base}_{number}"
        return found


def _type_of(value: Any) -> np.dtype[Any]:
    """Returns the type that TensorFlow gives a value: numbers of Python have 32 bits."""
    dtype = np.asarray(value).dtype
    if isinstance(value, np.ndarray | np.generic):
        return dtype
    return {"f": np.dtype(np.float32), "i": np.dtype(np.int32)}.get(dtype.kind, dtype)


def _seeded(initial_value: Any, seed: int, name: str) -> Any:
    """Gives what an initial value draws, without a seed of its own, one that follows from the variable's name."""
    value = initial_value() if callable(initial_value) else initial_value
    if not isinstance(value, tf.Tensor):
        return value
    operations = {op for op in ancestors([value]) if op.type != "VarHandleOp"}
    unseeded = int(seed) ^ UNSEEDED
    drawing = sorted(op.name for op in operations if _seed_of(op) == unseeded)
    if not drawing:
        return value

    def change(node: tf.NodeDef) -> None:
        if node.name in drawing:
            number = drawing.index(node.name)
            node.attr["seed"].i = int(seed)
            node.attr["seed2"].i = zlib.crc32(f"{name}/{number}".encode()) & 0x7FFFFFFF

    return copy_of(value, operations, change=change, name="seeded")


def _seed_of(op: tf.Operation) -> int | None:
    """Reads the graph's seed of what draws by itself; None of another operation."""
    try:
        return int(op.get_attr("seed"))
    except ValueError:
        return None
