"""What a run does to its pictures: in training, and in evaluation, export and predict.

Pictures of one shape are done batch by batch, on the towers. Encoded ones are decoded one by one, on the host; where
they have several shapes they go on one by one through the operations up to the first that makes them all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.data.spec import DatasetSpec
from trainer.errors import UsageError
from trainer.preprocessing.crops import CUTS, Cut
from trainer.preprocessing.decoding import decode_picture, decode_window
from trainer.preprocessing.draws import make_draws
from trainer.preprocessing.fitting import check_boxes, check_order
from trainer.preprocessing.mixing import MIXES
from trainer.preprocessing.parsing import evaluation_of, parse_pipeline
from trainer.preprocessing.pipeline import OF_VALUES, Pipeline
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

StoredShape = tuple[int | None, int | None, int]  # height, width, depth; None where the pictures have several


class Side(NamedTuple):
    """The pipeline of the training, or that of all else."""

    pipeline: Pipeline
    num_alone: int  # of its operations, which take pictures one by one
    batch_shape: tuple[int, int, int]  # of the pictures in a batch
    batch_dtype: tf.DType  # of them, uint8 or float32
    stored_shape: StoredShape
    seed: int
    operation: Any = None  # module of `ops.augment`, for batches; None: TensorFlow's operations do all

    @property
    def is_random_alone(self) -> bool:
        return any(operation.is_random for operation in self.pipeline.operations[: self.num_alone])

    @property
    def has_batch_operations(self) -> bool:
        return len(self.pipeline.operations) > self.num_alone

    @property
    def is_random_in_batches(self) -> bool:
        return any(operation.is_random for operation in self.pipeline.operations[self.num_alone :])

    @property
    def mixes(self) -> bool:
        """Are the pictures of a batch mixed with each other?"""
        return any(operation.name in MIXES for operation in self.pipeline.operations)

    def shares(self, keys: tf.Tensor) -> tf.Tensor:
        """Returns how much of each picture of a batch is its own where it is mixed with another: float32 [n].

        Args:
          keys: int64 [n], of the records.
        """
        number = next(place for place, each in enumerate(self.pipeline.operations) if each.name in MIXES)
        operation = self.pipeline.operations[number]
        with tf.Graph().as_default():  # Only for the size.
            blank = tf.zeros([1, *self.batch_shape], self.batch_dtype)
            before = self.pipeline(
                blank, seed=self.seed, keys=tf.zeros([1], tf.int64), begin=self.num_alone, end=number
            )
        height, width = before.shape.as_list()[1:3]
        draws = make_draws(self.seed, keys).of_operation(number)
        return MIXES[operation.name].shares(draws, (height, width), **operation.arguments)

    @property
    def _cut(self) -> Cut | None:
        """Returns the first operation of the pictures alone, where it cuts a window out of what need not be decoded."""
        return CUTS.get(self.pipeline.operations[0].name) if self.num_alone else None

    @property
    def takes_boxes(self) -> bool:
        """Do the boxes of the objects decide what becomes of a picture?"""
        return bool(self._cut and self._cut.takes_boxes)

    def in_batches(self, images: tf.Tensor, keys: tf.Tensor | None = None, floats: tf.DType = tf.float32) -> tf.Tensor:
        """Does what is done to batches.

        Args:
          images: [n, *batch_shape] of batch_dtype.
          keys: int64 [n], of the records, as `make_draws` takes them; None where nothing is random.
          floats: as `Pipeline` takes it.
        """
        how = {"begin": self.num_alone, "operation": self.operation, "floats": floats}
        return self.pipeline(images, seed=self.seed, keys=keys, **how)

    def of_values(self, images: tf.Tensor) -> tf.Tensor:
        """Does what is done to the values of pixels, to pictures that have their size, uint8 [n, *batch_shape]."""
        alone = [operation for operation in self.pipeline.operations[: self.num_alone] if operation.name in OF_VALUES]
        return self.in_batches(Pipeline(self.pipeline.text, tuple(alone))(images))

    def alone(self, image: tf.Tensor, key: tf.Tensor | None = None, boxes: tf.Tensor | None = None) -> tf.Tensor:
        """Does what is done to one picture, uint8 [1, *stored_shape]: [1, *batch_shape] of batch_dtype.

        Args:
          image: the picture.
          key: int64 [1], of its record.
          boxes: float32 [1, objects, 4], as `crops.distorted_windows` takes them.
        """
        return self.pipeline(image, seed=self.seed, keys=key, boxes=boxes, end=self.num_alone)

    def decode(
        self,
        data: tf.Tensor,
        orientations: tf.Tensor,
        sides: tf.Tensor,
        keys: tf.Tensor,
        boxes: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Decodes pictures, one after the other, and does what is done to each of them.

        Args:
          data: string [n], JPEG or PNG.
          orientations: int64 [n], as EXIF numbers them.
          sides: int32 [n, 2], height and width, upright.
          keys: int64 [n], of the records.
          boxes: float32 [n, objects, 4], as `crops.distorted_windows` takes them.

        Returns:
          [n, *batch_shape] of batch_dtype.
        """
        decode: Callable[..., tf.Tensor] = self._decode_whole
        each: tuple[tf.Tensor, ...] = (data, orientations, keys)
        if self._cut:
            draws = make_draws(self.seed, keys).of_operation(0)
            more = {"boxes": boxes} if self._cut.takes_boxes else {}
            windows = self._cut.windows(sides, draws, **self.pipeline.operations[0].arguments, **more)
            decode, each = self._decode_window, (data, orientations, keys, sides, windows)
        dtype = self.batch_dtype
        images = tf.map_fn(lambda one: decode(*one)[0], each, fn_output_signature=dtype, parallel_iterations=1)
        return tf.reshape(images, [-1, *self.batch_shape])

    def _decode_whole(self, data: tf.Tensor, orientation: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        return self.alone(decode_picture(data, orientation, self.stored_shape)[tf.newaxis], key[tf.newaxis])

    def _decode_window(
        self, data: tf.Tensor, orientation: tf.Tensor, key: tf.Tensor, sides: tf.Tensor, window: tf.Tensor
    ) -> tf.Tensor:
        arguments, depth = self.pipeline.operations[0].arguments, self.stored_shape[2]
        assert self._cut
        wanted = self._cut.resized(**arguments)
        image = decode_window(data, orientation, sides, depth, window, wanted)[tf.newaxis]
        image.set_shape([1, None, None, depth])
        image = self._cut.finish(image, window, **arguments)
        if self.num_alone == 1:
            image = tf.reshape(image, [1, *self.batch_shape])
        return self.pipeline(image, seed=self.seed, keys=key[tf.newaxis], begin=1, end=self.num_alone)


class Preprocessing(NamedTuple):
    """Two pipelines, which give pictures of one shape and type."""

    training: Side
    elsewhere: Side
    shape: tuple[int, int, int]  # height, width, depth of the pictures as the model sees them
    dtype: tf.DType  # uint8, which the model takes for 0..1, or float32

    def with_operation(self, operation: Any) -> Preprocessing:
        """Lets the trainer's own operation do what it can of the training; `operation` is the module of `ops.augment`.

        Everything else, exports among it, needs none.
        """
        return self._replace(training=self.training._replace(operation=operation))


def preprocessing_of(
    spec: DatasetSpec, preprocess: str = "", eval_preprocess: str = "", *, seed: int = 0, code: UserCode | None = None
) -> Preprocessing:
    """Makes what is done to the pictures of a data set, as `make_preprocessing`."""
    return make_preprocessing(
        spec.stored_shape,
        preprocess,
        eval_preprocess,
        seed=seed,
        smallest=spec.smallest,
        has_boxes=spec.has_boxes,
        code=code,
    )


def make_preprocessing(
    stored_shape: StoredShape,
    preprocess: str = "",
    eval_preprocess: str = "",
    *,
    seed: int = 0,
    smallest: tuple[int, int] | None = None,
    has_boxes: bool = False,
    code: UserCode | None = None,
) -> Preprocessing:
    """Reads both pipelines, and builds them once to see whether they fit.

    Args:
      stored_shape: of the pictures as they are stored.
      preprocess: of the training, as --preprocess.
      eval_preprocess: of all else, as --eval_preprocess.
      seed: of the run.
      smallest: of encoded pictures, their least height and width.
      has_boxes: do records tell where in the pictures their objects are.
      code: loads the functions of the user's; None: from where they say.

    Raises:
      UsageError: one is no pipeline, does not fit the pictures, or gives others than the other one.
    """
    code = code or UserCode()
    training = parse_pipeline("preprocess", preprocess, training=True, code=code)
    elsewhere = parse_pipeline("eval_preprocess", evaluation_of(preprocess, eval_preprocess, code), code=code)
    check_order(training)
    if has_boxes:
        check_boxes(training, is_encoded=smallest is not None)
    sides = [
        _make_side(name, pipeline, stored_shape, smallest, seed, has_boxes=has_boxes)
        for name, pipeline in (("preprocess", training), ("eval_preprocess", elsewhere))
    ]
    with tf.Graph().as_default():
        keys = tf.zeros([2], tf.int64)  # Two, so that an operation which loses pictures is found.
        ends = [side.in_batches(tf.zeros([2, *side.batch_shape], side.batch_dtype), keys) for side in sides]
    (shape, dtype), (other, other_dtype) = [(tuple(end.shape.as_list()[1:]), end.dtype) for end in ends]
    if (shape, dtype) != (other, other_dtype):
        raise UsageError(
            f"--preprocess gives pictures {list(shape)} of {dtype.name}, and --eval_preprocess={elsewhere.text} "
            f"{list(other)} of {other_dtype.name}: the model needs the same in training and in evaluation"
        )
    return Preprocessing(sides[0], sides[1], shape, dtype)


def _make_side(
    name: str,
    pipeline: Pipeline,
    stored_shape: StoredShape,
    smallest: tuple[int, int] | None,
    seed: int,
    *,
    has_boxes: bool,
) -> Side:
    """Finds how many operations take pictures one by one: up to the first behind which all have one shape for good.

    Raises:
      UsageError: the pipeline leaves pictures of several shapes, or an operation does not fit them.
    """
    height, width, depth = stored_shape
    with tf.Graph().as_default():
        key = tf.placeholder(tf.int64, [1])  # Of a constant TensorFlow would compute what is drawn, and a size of it.
        least = tf.zeros([1, *(smallest or (height, width)), depth], tf.uint8)
        pipeline(least, keys=key)  # Does what is too large for it fail?
        images = tf.placeholder(tf.uint8, [1, height, width, depth])
        ends = [pipeline(images, keys=key, end=number) for number in range(len(pipeline.operations) + 1)]
    shapes = [end.shape.as_list()[1:] for end in ends]
    several = [number for number, shape in enumerate(shapes) if None in shape]
    num_alone = several[-1] + 1 if several else 0
    if has_boxes and smallest and pipeline.operations and pipeline.operations[0].takes_boxes:
        num_alone = max(num_alone, 1)  # Boxes do not travel farther than to the decoder.
    if several and not smallest:
        raise UsageError(
            f"--{name}={pipeline.text}: {pipeline.operations[several[0] - 1].name} gives each picture another size, "
            "and these are stored as pixels, of which whole batches are done at once: convert them by --store=encoded"
        )
    if num_alone < len(ends):
        shape = shapes[num_alone]
        return Side(pipeline, num_alone, (shape[0], shape[1], shape[2]), ends[num_alone].dtype, stored_shape, seed)
    raise UsageError(
        f"--{name}={pipeline.text}: the pictures have several sizes, and have them still behind it; crop or resize "
        "them: --preprocess='resize_short(256)|random_crop(224)' --eval_preprocess='resize_short(256)|crop_or_pad(224)'"
    )
