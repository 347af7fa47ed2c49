"""What is learned: a model, its loss, and how it is judged, as one value that training, evaluation and export share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trainer.data.spec import CLASS, IMAGE, LABEL, NUMBERS, SEVERAL, DatasetSpec
from trainer.errors import UsageError
from trainer.inputs.batch import RECORD, Features
from trainer.learning.losses import AUXILIARY_WEIGHT, Loss
from trainer.learning.metrics import LOSS, OF_KIND, Goal, Metrics, Part, is_correct, make_metrics, means
from trainer.models.building import build_model
from trainer.models.functions import SAMPLE, ModelFunction
from trainer.models.outputs import ModelOutput
from trainer.preprocessing.preprocessing import Preprocessing, Side, preprocessing_of
from trainer.settings.model import ONE_VIEW
from trainer.tf1 import tf


class Task(NamedTuple):
    """A model on a data set, and what is asked of it."""

    features: tuple[str, ...]  # of a batch, which a training reads
    preprocessing: Preprocessing  # of the pictures, part of `build`
    build: Callable[..., ModelOutput]  # (features, training=, preprocessed=, data_format=, draw=)
    # Of a training: (output, features) -> [batch], so that towers average exactly.
    loss: Callable[[ModelOutput, Features], tf.Tensor]
    scalars: Callable[[tf.Tensor, Features], dict[str, tf.Tensor]]  # of a training step, beside the loss: [] each
    metrics: Metrics  # of an evaluation; among them `loss`
    predictions: Callable[[tf.Tensor], dict[str, tf.Tensor]]  # logits -> what an export gives
    weight_decay: float = 0.0  # of all weights; 0 where the model chooses them itself
    takes_sample: bool = False  # does the model compute initial values from pictures


def make_task(
    spec: DatasetSpec,
    *,
    model: ModelFunction,
    loss: Loss,
    metrics: Part | None = None,
    goal: Goal | None = None,
    precision: str = "float32",
    preprocessing: Preprocessing | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    views: str = "",
) -> Task:
    """Makes the task of a data set.

    Args:
      spec: of the data set.
      model: its function.
      loss: of each example.
      metrics: beside those of the kind of label.
      goal: the metric by which one checkpoint is better; None: that of the kind of label.
      precision: float32, bfloat16 or float16, of everything between images and logits.
      preprocessing: of the pictures; None: the model sees them as they are stored.
      weight_decay: L2 factor; 0 where the decay of the weights is the optimizer's, and no part of the loss.
      seed: of the run, from which the masks of dropout follow.
      views: what the logits of all but the training are the mean of: the picture, or MIRROR, it and its mirror image;
        empty: as the model asks.

    Raises:
      UsageError: the goal is no metric, or two metrics have one name.
    """
    seen = preprocessing or preprocessing_of(spec)
    build = functools.partial(
        _build, model=model, seen=seen, views=views or model.views, num_classes=spec.num_classes, precision=precision
    )
    regularizer = functools.partial(_l2_loss, weight_decay=weight_decay) if weight_decay else None
    of_kind, own_goal = OF_KIND[spec.label_kind]
    parts = [of_kind, means(lambda logits, labels: {LOSS: loss(logits, labels)}, [LOSS])]
    return Task(
        features=(IMAGE, LABEL, RECORD) if seen.training.is_random_in_batches else (IMAGE, LABEL),
        preprocessing=seen,
        build=functools.partial(build, regularizer=regularizer, seed=seed),
        loss=functools.partial(_loss, loss=loss, side=seen.training),
        scalars=_class_scalars if spec.label_kind == CLASS else lambda logits, features: {},
        metrics=make_metrics([*parts, *([metrics] if metrics else [])], goal or own_goal),
        predictions=PREDICTIONS[spec.label_kind],
        weight_decay=0.0 if "regularizer" in model.takes else weight_decay,
        takes_sample=SAMPLE in model.takes,
    )


def _build(
    features: Features,
    *,
    model: ModelFunction,
    seen: Preprocessing,
    precision: str,
    training: bool = False,
    preprocessed: bool = False,
    views: str = ONE_VIEW,
    **settings: Any,
) -> ModelOutput:
    """Builds the preprocessing of a batch, and the model on it; `settings` are of `build_model`."""
    images, side = features[IMAGE], seen.training if training else seen.elsewhere
    floats = tf.as_dtype(precision) if precision == "bfloat16" else tf.float32
    pixels = images if preprocessed else side.in_batches(images, features.get(RECORD), floats)
    pixels = as_floats(pixels, precision)
    if training or views == ONE_VIEW:
        return build_model(model, pixels, training=training, **settings)
    both = build_model(model, tf.concat([pixels, tf.reverse(pixels, [2])], 0), training=False, **settings)
    return both._replace(logits=tf.add_n(tf.split(both.logits, 2)) / 2)


def as_floats(images: tf.Tensor, precision: str) -> tf.Tensor:
    """Makes what a model sees of images: floats as they are, uint8 as 0..1."""
    pixels = tf.cast(images, tf.as_dtype(precision))
    return pixels * (1 / 255) if images.dtype == tf.uint8 else pixels


def _l2_loss(weights: tf.Tensor, weight_decay: float) -> tf.Tensor:
    return weight_decay * tf.nn.l2_loss(weights)


def _loss(output: ModelOutput, features: Features, *, loss: Loss, side: Side) -> tf.Tensor:
    """Computes the loss of each example, with that of auxiliary logits: float32 [batch]."""
    labels = features[LABEL]
    of_logits = functools.partial(_mixed_loss, side, loss, features) if side.mixes else loss
    auxiliary = [AUXILIARY_WEIGHT * of_logits(logits, labels) for logits in output.aux_logits]
    return tf.add_n([of_logits(output.logits, labels), *auxiliary])


def _mixed_loss(side: Side, loss: Loss, features: Features, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Weighs the losses of a picture's own label and of its neighbour's by their shares: float32 [batch]."""
    shares = side.shares(features[RECORD])
    if labels.shape[0] == 1:
        raise UsageError(f"--preprocess={side.pipeline.text}: a tower has one picture a step, and none to mix it with")
    one, other = (loss(logits, each, are_mixed=True) for each in (labels, tf.roll(labels, 1, 0)))
    return shares * one + (1 - shares) * other


def _class_scalars(logits: tf.Tensor, features: Features) -> dict[str, tf.Tensor]:
    return {"accuracy": tf.reduce_mean(is_correct(logits, features[LABEL]))}


def class_predictions(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """Names logits, float32 [n, classes], their softmax, and the class of the largest, int64 [n]."""
    return {
        "logits": tf.identity(logits, "logits"),
        "probabilities": tf.nn.softmax(logits, name="probabilities"),
        "classes": tf.argmax(logits, 1, name="classes"),
    }


def several_predictions(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """Names logits, float32 [n, classes], their sigmoid, and where that is above one half, int64 [n, classes]."""
    return {
        "logits": tf.identity(logits, "logits"),
        "probabilities": tf.sigmoid(logits, name="probabilities"),
        "labels": tf.cast(logits > 0, tf.int64, name="labels"),
    }


def number_predictions(outputs: tf.Tensor) -> dict[str, tf.Tensor]:
    """Names outputs, float32 [n, numbers]."""
    return {"values": tf.identity(outputs, "values")}


PREDICTIONS: Mapping[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]] = {
    CLASS: class_predictions,
    SEVERAL: several_predictions,
    NUMBERS: number_predictions,
}
