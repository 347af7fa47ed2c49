"""What a run does to its pictures: in training, and in evaluation, export and predict.

Pictures of one shape are done batch by batch, on the towers. Encoded ones are decoded one by one, on the host; those of
several shapes go on one by one through the operations up to the first that makes them all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainer.errors import UsageError
from trainer.preprocessing.crops import CUTS
from trainer.preprocessing.decoding import decode_picture, decode_window
from trainer.preprocessing.draws import make_draws
from trainer.preprocessing.pipeline import Pipeline, evaluation_of, parse_pipeline
from trainer.tf1 import tf

StoredShape = tuple[int | None, int | None, int]  # height, width, depth; None where the pictures have several


class Side(NamedTuple):
    """The pipeline of the training, or that of all else."""

    pipeline: Pipeline
    num_alone: int  # of its operations, which take pictures one by one
    batch_shape: tuple[int, int, int]  # of the pictures in a batch, uint8
    stored_shape: StoredShape
    seed: int

    @property
    def is_random_alone(self) -> bool:
        return any(operation.is_random for operation in self.pipeline.operations[: self.num_alone])

    @property
    def is_random_in_batches(self) -> bool:
        return any(operation.is_random for operation in self.pipeline.operations[self.num_alone :])

    def in_batches(self, images: tf.Tensor, keys: tf.Tensor | None = None) -> tf.Tensor:
        """Does what is done to batches.

        Args:
          images: uint8 [n, *batch_shape].
          keys: int64 [n], of the records, as `make_draws` takes them; None where nothing is random.
        """
        return self.pipeline(images, seed=self.seed, keys=keys, begin=self.num_alone)

    def alone(self, image: tf.Tensor, key: tf.Tensor | None = None) -> tf.Tensor:
        """Does what is done to one picture, uint8 [1, *stored_shape]: uint8 [1, *batch_shape]."""
        return self.pipeline(image, seed=self.seed, keys=key, end=self.num_alone)

    def decode(self, data: tf.Tensor, orientations: tf.Tensor, sides: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Decodes pictures, one after the other, and does what is done to each of them.

        Args:
          data: string [n], JPEG or PNG.
          orientations: int64 [n], as EXIF numbers them.
          sides: int32 [n, 2], height and width, upright.
          keys: int64 [n], of the records.

        Returns:
          uint8 [n, *batch_shape].
        """
        decode: Callable[..., tf.Tensor] = self._decode_whole
        each: tuple[tf.Tensor, ...] = (data, orientations, keys)
        first = self.pipeline.operations[: self.num_alone][:1]
        if first and first[0].name in CUTS:
            draws = make_draws(self.seed, keys).of_operation(0)
            windows = CUTS[first[0].name].windows(sides, draws, *first[0].args, **first[0].kwargs)
            decode, each = self._decode_window, (data, orientations, keys, sides, windows)
        images = tf.map_fn(lambda one: decode(*one)[0], each, fn_output_signature=tf.uint8, parallel_iterations=1)
        return tf.reshape(images, [-1, *self.batch_shape])

    def _decode_whole(self, data: tf.Tensor, orientation: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        return self.alone(decode_picture(data, orientation, self.stored_shape)[tf.newaxis], key[tf.newaxis])

    def _decode_window(
        self, data: tf.Tensor, orientation: tf.Tensor, key: tf.Tensor, sides: tf.Tensor, window: tf.Tensor
    ) -> tf.Tensor:
        operation, depth = self.pipeline.operations[0], self.stored_shape[2]
        found = CUTS[operation.name]
        wanted = found.resized(*operation.args, **operation.kwargs)
        image = decode_window(data, orientation, sides, depth, window, wanted)[tf.newaxis]
        image.set_shape([1, None, None, depth])
        image = found.finish(image, *operation.args, **operation.kwargs)
        if self.num_alone == 1:
            image = tf.reshape(image, [1, *self.batch_shape])
        return self.pipeline(image, seed=self.seed, keys=key[tf.newaxis], begin=1, end=self.num_alone)


class Preprocessing(NamedTuple):
    """Two pipelines, which give pictures of one shape and type."""

    training: Side
    elsewhere: Side
    shape: tuple[int, int, int]  # height, width, depth of the pictures as the model sees them
    dtype: tf.DType  # uint8, which the model takes for 0..1, or float32

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """Builds the pipeline of all else on batches of uint8; float32 ones are as the model sees them already."""
        return self.elsewhere.in_batches(images) if images.dtype == tf.uint8 else images


def make_preprocessing(
    stored_shape: StoredShape,
    preprocess: str = "",
    eval_preprocess: str = "",
    *,
    seed: int = 0,
    smallest: tuple[int, int] | None = None,
) -> Preprocessing:
    """Reads both pipelines, and builds them once to see whether they fit.

    Args:
      stored_shape: of the pictures as they are stored.
      preprocess: of the training, as --preprocess.
      eval_preprocess: of all else, as --eval_preprocess.
      seed: of the run.
      smallest: where the pictures have several shapes, their least height and width.

    Raises:
      UsageError: one is no pipeline, does not fit the pictures, or gives others than the other one.
    """
    training = parse_pipeline("preprocess", preprocess, training=True)
    elsewhere = parse_pipeline("eval_preprocess", evaluation_of(preprocess, eval_preprocess))
    pipelines = {"preprocess": training, "eval_preprocess": elsewhere}
    sides = [_make_side(name, pipeline, stored_shape, smallest or (1, 1), seed) for name, pipeline in pipelines.items()]
    with tf.Graph().as_default():
        keys = tf.zeros([1], tf.int64)
        ends = [side.in_batches(tf.zeros([1, *side.batch_shape], tf.uint8), keys) for side in sides]
    (shape, dtype), (other, other_dtype) = [(tuple(end.shape.as_list()[1:]), end.dtype) for end in ends]
    if (shape, dtype) != (other, other_dtype):
        raise UsageError(
            f"--preprocess gives pictures {list(shape)} of {dtype.name}, and --eval_preprocess={elsewhere.text} "
            f"{list(other)} of {other_dtype.name}: the model needs the same in training and in evaluation"
        )
    return Preprocessing(sides[0], sides[1], shape, dtype)


def _make_side(name: str, pipeline: Pipeline, stored_shape: StoredShape, smallest: tuple[int, int], seed: int) -> Side:
    """Finds how many operations take pictures one by one.

    Raises:
      UsageError: the pipeline leaves pictures of several shapes, or an operation does not fit them.
    """
    height, width, depth = stored_shape
    if height and width:
        return Side(pipeline, 0, (height, width, depth), stored_shape, seed)
    with tf.Graph().as_default():
        key = tf.zeros([1], tf.int64)
        pipeline(tf.zeros([1, *smallest, depth], tf.uint8), keys=key)  # Does what is too large for them fail?
        images = tf.placeholder(tf.uint8, [1, height, width, depth])
        for number in range(len(pipeline.operations) + 1):
            found = pipeline(images, keys=key, end=number)
            shape = found.shape.as_list()[1:]
            if found.dtype != tf.uint8:
                raise UsageError(
                    f"--{name}={pipeline.text}: {pipeline.operations[number - 1].name} gives {found.dtype.name} before "
                    "the pictures, which have several sizes, have one; put it behind what crops or resizes them"
                )
            if None not in shape:
                return Side(pipeline, number, (shape[0], shape[1], shape[2]), stored_shape, seed)
    raise UsageError(
        f"--{name}={pipeline.text}: the pictures have several sizes, and have them still behind it; crop or resize "
        "them: --preprocess='resize_short(256)|random_crop(224)' --eval_preprocess='resize_short(256)|crop_or_pad(224)'"
    )
