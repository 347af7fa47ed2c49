"""What is done to pictures: operations, and a pipeline of them as one function of pictures.

An operation is a function of pictures, [n, height, width, depth], and of its arguments; one that also takes `draws` is
random. The annotations of its arguments say what is legal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.errors import UsageError
from trainer.ops.augment import build_augment
from trainer.preprocessing import colour, crops, geometry, mixing
from trainer.preprocessing.draws import make_draws
from trainer.preprocessing.fusing import plan_of
from trainer.settings.fields import is_reference
from trainer.subgraphs import PYTHON, draws_by_itself
from trainer.tf1 import tf

OPERATIONS: dict[str, Callable[..., tf.Tensor]] = {
    "brightness": colour.brightness,
    "central_crop": geometry.central_crop,
    "color": colour.color,
    "contrast": colour.contrast,
    "crop_or_pad": geometry.crop_or_pad,
    "cutmix": mixing.cutmix,
    "cutout": geometry.cutout,
    "distorted_crop": crops.distorted_crop,
    "divide": colour.divide,
    "elastic": geometry.elastic,
    "flip_lr": geometry.flip_lr,
    "flip_ud": geometry.flip_ud,
    "float": colour.to_float,
    "grayscale": colour.grayscale,
    "hue": colour.hue,
    "mixup": mixing.mixup,
    "pad": geometry.pad,
    "random_crop": crops.random_crop,
    "random_resize_short": geometry.random_resize_short,
    "resize": geometry.resize,
    "resize_long": geometry.resize_long,
    "resize_short": geometry.resize_short,
    "rotate": geometry.rotate,
    "saturation": colour.saturation,
    "scale": colour.scale,
    "standardize": colour.standardize,
    "subtract_mean": colour.subtract_mean,
    "translate": crops.translate,
    "transpose": geometry.transpose,
    "unit": colour.unit,
}
# Those that change the values of pixels, and not where they are.
OF_VALUES = frozenset(name for name, function in OPERATIONS.items() if function.__module__ == colour.__name__)


PICTURE_TYPES = (tf.uint8, tf.float32)


class Operation(NamedTuple):
    """An operation with its arguments."""

    name: str
    function: Callable[..., tf.Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def is_own(self) -> bool:
        """Is it the user's, whose first argument may have any name?"""
        return is_reference(self.name)

    @property
    def is_random(self) -> bool:
        return "draws" in inspect.signature(self.function).parameters

    @property
    def takes_boxes(self) -> bool:
        return "boxes" in inspect.signature(self.function).parameters and not self.is_own

    @property
    def arguments(self) -> dict[str, Any]:
        """Returns the arguments by name, with the defaults of those that are left out."""
        bound = inspect.Signature(parameters_of(self.function, self.is_own)).bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        return bound.arguments


class Pipeline(NamedTuple):
    """What is done to pictures, in this order."""

    text: str
    operations: tuple[Operation, ...]

    @property
    def is_random(self) -> bool:
        return any(operation.is_random for operation in self.operations)

    def __call__(
        self,
        images: tf.Tensor,
        *,
        seed: int = 0,
        keys: tf.Tensor | None = None,
        boxes: tf.Tensor | None = None,
        begin: int = 0,
        end: int | None = None,
        operation: Any = None,
        floats: tf.DType = tf.float32,
    ) -> tf.Tensor:
        """Builds it, or some of its operations.

        Args:
          images: uint8 [n, height, width, depth].
          seed: of the run.
          keys: int64 [n], of the records, as `make_draws` takes them; what is random needs them.
          boxes: of the records' objects, for the first operation, as `crops.distorted_windows` takes them.
          begin: the first operation.
          end: the one behind the last; None: all are built.
          operation: module of `ops.augment`, which does the first of them in one pass; None: TensorFlow's do all.
          floats: type that what comes out may have in the place of float32, rounded, where `operation` does all.

        Raises:
          UsageError: an operation does not fit what it gets.
        """
        draws = make_draws(seed, keys) if self.is_random and keys is not None else None
        with tf.name_scope("preprocess"):
            if operation is not None and draws is not None and _is_on_cpu(images):
                assert keys is not None and end is None
                plan, behind = plan_of(self.operations, begin)
                dtype = floats if plan.floats and behind == len(self.operations) else None
                if behind > begin:
                    images = build_augment(operation, images, keys, seed=seed, plan=plan, dtype=dtype)
                    begin = behind
            for number, operation in list(enumerate(self.operations))[begin:end]:
                first = [images]
                if operation.is_random:
                    assert draws
                    first.append(draws.of_operation(number))
                more = {"boxes": boxes} if operation.takes_boxes and number == 0 else {}
                images = _call(operation, *first, **more)
        return images


def _is_on_cpu(images: tf.Tensor) -> bool:
    """Are pictures bytes of one size on a CPU?"""
    return images.dtype == tf.uint8 and None not in images.shape.as_list()[1:] and "GPU" not in images.device.upper()


def _call(operation: Operation, *first: Any, **more: Any) -> tf.Tensor:
    """Builds an operation, and looks at what one of the user's has built.

    Raises:
      UsageError: it gives no pictures, or draws what no seed decides.
    """
    graph = tf.get_default_graph()
    before = _unsuitable(graph) if operation.is_own else {}
    images = operation.function(*first, *operation.args, **operation.kwargs, **more)
    if not operation.is_own:
        return images
    is_tensor = isinstance(images, tf.Tensor)
    if not is_tensor or images.dtype not in PICTURE_TYPES or images.shape.rank != 4 or images.shape[3] is None:
        got = f"{images.dtype.name} {images.shape}" if is_tensor else f"a {type(images).__name__}"
        raise UsageError(
            f"{operation.name} returned {got}; wanted pictures as it takes them, uint8 or float32 "
            "[n, height, width, depth], of a known depth"
        )
    given = first[0].shape
    if not given[:1].is_compatible_with(images.shape[:1]):
        raise UsageError(f"{operation.name} returned {images.shape[0]} pictures, and was given {given[0]}")
    for name, kind in _unsuitable(graph).items():
        if name not in before and kind in PYTHON:
            raise UsageError(f"{operation.name} runs Python in the graph ({kind}), which no export could hold")
        if name not in before:
            raise UsageError(
                f"{operation.name} draws by {kind}, which after a resume draws something else; take an argument "
                "`draws` in second place, whose numbers follow from the record (docs/preprocessing.md)"
            )
    return images


def _unsuitable(graph: tf.Graph) -> dict[str, str]:
    """Finds what draws numbers that no record decides, or runs Python: types of nodes by name, also of functions."""
    definition = graph.as_graph_def()
    nodes = {node.name: node for node in definition.node}
    for function in definition.library.function:
        nodes |= {f"{function.signature.name}/{node.name}": node for node in function.node_def}
    return {name: node.op for name, node in nodes.items() if draws_by_itself(node) or node.op in PYTHON}


def parameters_of(function: Callable[..., object], is_own: bool = False) -> list[inspect.Parameter]:
    """Lists what stands in the parentheses of an operation."""
    parameters = list(inspect.signature(function).parameters.values())
    if is_own:
        return [parameter for parameter in parameters[1:] if parameter.name != "draws"]
    return [parameter for parameter in parameters if parameter.name not in ("images", "draws", "boxes")]
