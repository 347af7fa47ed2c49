"""Losses of each example, L2 on the weights, and losses of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from trainer.data.spec import CLASS, NUMBERS, SEVERAL
from trainer.errors import UsageError
from trainer.settings.arguments import bind_options
from trainer.settings.fields import FRACTION, Legal, above, is_reference
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

Loss = Callable[..., tf.Tensor]  # (logits, labels, are_mixed=) -> float32 [batch]
AUXILIARY_WEIGHT = 0.4  # of the loss of auxiliary logits (Szegedy et al. 2014 take 0.3, TF-Slim's programs 0.4)
WEIGHTS = Legal(
    lambda weights: all(isinstance(each, int | float) and each >= 0 for each in weights), "numbers of 0 or more"
)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the softmax cross entropy of each example: float32 [batch].

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def softmax(
    logits: tf.Tensor,
    labels: tf.Tensor,
    label_smoothing: Annotated[float, FRACTION] = 0.0,
    class_weights: Annotated[tuple, WEIGHTS] = (),  # type: ignore[type-arg]
) -> tf.Tensor:
    """Computes the softmax cross entropy of each example: float32 [batch].

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch].
      label_smoothing: s makes of a label (1 - s) of its class and s / classes of each (Szegedy et al. 2016).
      class_weights: by which the loss of an example of each class is multiplied; (): by 1.
    """
    classes = int(logits.shape[1])
    loss = cross_entropy(logits, labels)
    if label_smoothing:
        # -sum(q log p) with q = (1 - s) one_hot + s / classes.
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), 1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    if not class_weights:
        return loss
    if len(class_weights) != classes:
        raise UsageError(f"class_weights holds {len(class_weights)} numbers, wanted one for each of {classes} classes")
    return loss * tf.gather(tf.constant(class_weights, tf.float32), labels)


def sigmoid(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the sum over the classes of the sigmoid cross entropy of each example: float32 [batch].

    Args:
      logits: float32 [batch, classes].
      labels: float32 [batch, classes], 0 or 1.
    """
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits), 1)


def mse(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Computes the mean over the numbers of the squared error of each example: float32 [batch].

    Both arguments are float32 [batch, n].
    """
    return tf.reduce_mean(tf.math.squared_difference(outputs, targets), 1)


def huber(outputs: tf.Tensor, targets: tf.Tensor, delta: Annotated[float, above(0, 1e30)] = 1.0) -> tf.Tensor:
    """Computes the mean over the numbers of Huber's loss (1964) of each example: float32 [batch].

    Of an error e: e^2 / 2 where |e| <= delta, else delta * |e| - delta^2 / 2. Both tensors are float32 [batch, n].
    """
    error = tf.abs(outputs - targets)
    inside = tf.minimum(error, delta)
    return tf.reduce_mean(inside**2 / 2 + delta * (error - inside), 1)


def hinge(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes the hinge loss of each example: float32 [batch].

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch]: max(0, 1 + the largest other logit - that of the label) (Crammer and Singer 2001); or
        float32 [batch, classes], 0 or 1: the sum of max(0, 1 - logit) where it is 1, max(0, 1 + logit) elsewhere.
    """
    if labels.dtype.is_floating:
        return tf.reduce_sum(tf.nn.relu(1 - (2 * labels - 1) * logits), 1)
    own = tf.one_hot(labels, int(logits.shape[1]))
    others = tf.reduce_max(logits - 1e30 * own, 1)
    return tf.nn.relu(1 + others - tf.reduce_sum(own * logits, 1))


# By name: the function, and the kinds of label that it is for.
LOSSES: dict[str, tuple[Callable[..., tf.Tensor], tuple[str, ...]]] = {
    "softmax": (softmax, (CLASS,)),
    "sigmoid": (sigmoid, (SEVERAL,)),
    "mse": (mse, (NUMBERS,)),
    "huber": (huber, (NUMBERS,)),
    "hinge": (hinge, (CLASS, SEVERAL)),
}
DEFAULTS = {CLASS: "softmax", SEVERAL: "sigmoid", NUMBERS: "mse"}


def find_loss(loss: str, loss_args: Sequence[str], label_kind: str, code: UserCode) -> Loss:
    """Finds the loss of a kind of label, with its options.

    Args:
      loss: a name of LOSSES, `file.py:function` or `package.module:function`; empty: that of the kind.
      loss_args: texts of `name=value, ...`, of which later ones win.
      label_kind: of the data.
      code: loads functions of the user's.

    Raises:
      UsageError: there is no such function, it is for other labels, or an option is unknown or illegal.
    """
    name = loss or DEFAULTS[label_kind]
    is_own = is_reference(name)
    function = code.load(name, default="loss") if is_own else LOSSES[name][0]
    if not is_own and label_kind not in LOSSES[name][1]:
        fitting = [other for other, (_, kinds) in LOSSES.items() if label_kind in kinds]
        raise UsageError(
            f"--loss={name} is for labels of kind {' or '.join(LOSSES[name][1])}, and these are of kind {label_kind}: "
            f"use {' or '.join(fitting)}, or a function of your own"
        )
    options = bind_options("loss", name, function, ("logits", "labels"), loss_args, is_own=is_own)

    def of_examples(logits: tf.Tensor, labels: tf.Tensor, *, are_mixed: bool = False) -> tf.Tensor:
        values = function(logits, labels, **options)
        if not isinstance(values, tf.Tensor) or not values.dtype.is_floating or values.shape.rank not in (0, 1):
            got = f"{values.dtype.name} {values.shape}" if isinstance(values, tf.Tensor) else type(values).__name__
            raise UsageError(f"--loss={name} returned {got}; wanted floats, one for each example, or their mean")
        if not values.shape.is_compatible_with(logits.shape[:1]) and values.shape.rank:
            raise UsageError(
                f"--loss={name} returned {values.shape} for {logits.shape[0]} examples; wanted one for each"
            )
        if are_mixed and values.shape.rank == 0:
            raise UsageError(
                f"--loss={name} returned a mean; where pictures are mixed, each has its own share: wanted [batch]"
            )
        return tf.broadcast_to(tf.cast(values, tf.float32), tf.shape(logits)[:1])

    return of_examples


def l2_losses(variables: Iterable[tf.Variable], weight_decay: float) -> list[tf.Tensor]:
    """Builds weight_decay * sum(w^2) / 2 of each weight: [].

    Weights are variables of two dimensions or more: biases, and scales of normalizations, are not regularized.
    """
    return [weight_decay * tf.nn.l2_loss(variable) for variable in variables if is_decayed(variable)]


def is_decayed(variable: tf.Variable) -> bool:
    """Is it a weight, which is regularized?"""
    return bool(variable.shape.rank >= 2)
