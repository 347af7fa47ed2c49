"""What a run does to its pictures: in training, and in evaluation, export and predict."""

from __future__ import annotations

from typing import NamedTuple

from trainer.errors import UsageError
from trainer.preprocessing.pipeline import Pipeline, evaluation_of, parse_pipeline
from trainer.tf1 import tf


class Preprocessing(NamedTuple):
    """Two pipelines, which give pictures of one shape and type."""

    training: Pipeline
    elsewhere: Pipeline
    seed: int
    shape: tuple[int, int, int]  # height, width, depth of the pictures as the model sees them
    dtype: tf.DType  # uint8, which the model takes for 0..1, or float32

    def train(self, images: tf.Tensor, keys: tf.Tensor | None) -> tf.Tensor:
        """Builds the pipeline of the training.

        Args:
          images: uint8 [n, height, width, depth].
          keys: int64 [n], of the records, as `make_draws` takes them; None where nothing is random.
        """
        return self.training(images, seed=self.seed, keys=keys)

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """Builds the pipeline of all else on uint8 pictures; float32 ones are as the model sees them already."""
        return self.elsewhere(images) if images.dtype == tf.uint8 else images


def make_preprocessing(
    image_shape: tuple[int, int, int], preprocess: str = "", eval_preprocess: str = "", *, seed: int = 0
) -> Preprocessing:
    """Reads both pipelines, and builds them once to see whether they fit.

    Args:
      image_shape: height, width, depth of the pictures as they are stored.
      preprocess: of the training, as --preprocess.
      eval_preprocess: of all else, as --eval_preprocess.
      seed: of the run.

    Raises:
      UsageError: one is no pipeline, does not fit the pictures, or gives others than the other one.
    """
    training = parse_pipeline("preprocess", preprocess, training=True)
    elsewhere = parse_pipeline("eval_preprocess", evaluation_of(preprocess, eval_preprocess))
    with tf.Graph().as_default():
        images, keys = tf.zeros([1, *image_shape], tf.uint8), tf.zeros([1], tf.int64)
        ends = [training(images, keys=keys), elsewhere(images)]
    (shape, dtype), (other, other_dtype) = [(tuple(end.shape.as_list()[1:]), end.dtype) for end in ends]
    if (shape, dtype) != (other, other_dtype):
        raise UsageError(
            f"--preprocess gives pictures {list(shape)} of {dtype.name}, and --eval_preprocess={elsewhere.text} "
            f"{list(other)} of {other_dtype.name}: the model needs the same in training and in evaluation"
        )
    return Preprocessing(training, elsewhere, seed, shape, dtype)
