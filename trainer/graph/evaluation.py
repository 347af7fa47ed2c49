"""The graph of an evaluation: sums over records that are fed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trainer.data.spec import LABEL, DatasetSpec
from trainer.inputs.batch import Features
from trainer.inputs.parsing import parse_examples
from trainer.learning import averages
from trainer.learning.task import Task
from trainer.models import layers
from trainer.tf1 import tf


class EvalGraph(NamedTuple):
    """The ends of an evaluation's graph."""

    serialized: tf.Tensor  # string [n], placeholder for records
    sums: Mapping[str, tf.Tensor]  # of the task's metrics, over these records
    logits: tf.Tensor  # of the model
    features: Features


def build_eval_graph(
    task: Task,
    spec: DatasetSpec,
    *,
    data_format: str,
    device: str,
    ema: averages.Averages | None = None,
    reuse: bool = True,
) -> EvalGraph:
    """Builds sums over records that are fed.

    Args:
      task: how the records are judged.
      spec: of the data set.
      data_format: of convolutions, as --data_format.
      device: of the operations.
      ema: averages to take in the place of weights.
      reuse: are the variables there already.
    """
    with tf.name_scope("evaluation"), tf.device(device):
        with tf.device("/cpu:0"):
            serialized = tf.placeholder(tf.string, [None], name="serialized")
            features = parse_examples(serialized, spec, task.preprocessing.elsewhere)
        with tf.variable_scope("", reuse=reuse or None, custom_getter=averages.averaged_getter(ema)):
            logits = task.build(features, data_format=layers.layout(data_format, device)).logits
        return EvalGraph(serialized, task.metrics.sums(logits, features[LABEL]), logits, features)
