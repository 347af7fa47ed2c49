"""Metrics of the user's own, and the goal that --best names."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.data.spec import DatasetSpec
from trainer.errors import UsageError
from trainer.learning.metrics import COUNT, OF_KIND, Goal, Part, means
from trainer.settings.arguments import bind_options
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

# What reports say beside metrics.
RESERVED = {COUNT, "step", "split", "weights", "checkpoint", "written", "classes", "num_examples"}
RESERVED |= {"top_k", "top_k_accuracy"}
PROBE = 3  # examples with which a function of metrics is tried


def find_metrics(metrics: str, spec: DatasetSpec, code: UserCode) -> Part | None:
    """Finds a function `metrics(logits, labels) -> {name: [batch]}`, and tries it; None where none is named.

    Raises:
      UsageError: there is no such function, or it takes or gives something else.
    """
    if not metrics:
        return None
    function = code.load(metrics, default="metrics")
    bind_options("metrics", metrics, function, ("logits", "labels"), (), is_own=True)

    def per_example(logits: tf.Tensor, labels: tf.Tensor) -> Mapping[str, tf.Tensor]:
        found = function(logits, labels)
        if not isinstance(found, Mapping) or not found:
            raise UsageError(f"--metrics={metrics} returned a {type(found).__name__}; wanted a dict of metrics by name")
        return {str(name): _checked(metrics, str(name), value, logits) for name, value in found.items()}

    with tf.Graph().as_default():
        label = spec.features["label"]
        labels = tf.placeholder(tf.as_dtype(label.dtype), [PROBE, *label.shape])
        names = sorted(per_example(tf.placeholder(tf.float32, [PROBE, spec.num_classes]), labels))
    taken = sorted(RESERVED & set(names))
    if taken:
        raise UsageError(
            f"--metrics={metrics}: the name {taken[0]} stands for something else in reports: choose another"
        )
    return means(per_example, names)


def _checked(metrics: str, name: str, value: object, logits: tf.Tensor) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--metrics={metrics}: {name} is a {type(value).__name__}; wanted a tensor, [batch]"
        ) from error
    if not tensor.shape.is_compatible_with(logits.shape[:1]):
        raise UsageError(
            f"--metrics={metrics}: {name} has shape {tensor.shape}; wanted a value of each example, [batch]"
        )
    return tf.cast(tensor, tf.float32)


def parse_goal(best: str, spec: DatasetSpec) -> Goal | None:
    """Reads `METRIC:max` or `METRIC:min`; None where it is empty.

    Raises:
      UsageError: it is neither.
    """
    name, _, direction = best.partition(":")
    if not best:
        return None
    own = OF_KIND[spec.label_kind][1]
    if not direction and name == own.name:
        return own
    if direction not in ("max", "min"):
        raise UsageError(f"best={best} is no goal; write METRIC:max or METRIC:min, as {own.name}:max")
    return Goal(name, direction == "max", own.is_fraction and name == own.name)
