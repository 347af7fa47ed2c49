"""Batch normalization behind a convolution becomes a part of its weights, in a graph whose weights are constants.

With given means and variances it multiplies each channel by a = gamma / sqrt(variance + epsilon) and adds
beta - mean * a: so does a convolution with weights * a and these as its biases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.tf1 import tf

Nodes = Mapping[str, tf.NodeDef]


def fold_batch_norms(graph_def: tf.GraphDef, outputs: Sequence[str]) -> tf.GraphDef:
    """Folds each normalization that alone takes a convolution's output, and drops what nothing needs any more.

    Args:
      graph_def: of inference, with constants in the place of variables.
      outputs: names of the operations that stay.
    """
    nodes = {node.name: node for node in graph_def.node}
    readers = Counter(_name(text) for node in graph_def.node for text in node.input)
    readers.update(outputs)
    folded = tf.GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        found = _fold(node, nodes, readers)
        folded.node.extend(found or [node])
    return tf.graph_util.extract_sub_graph(folded, list(outputs))


def _fold(norm: tf.NodeDef, nodes: Nodes, readers: Mapping[str, int]) -> list[tf.NodeDef] | None:
    """Makes what takes the place of a normalization; None where it stays."""
    if not norm.op.startswith("FusedBatchNorm") or norm.attr["is_training"].b:
        return None
    convolution = nodes[_name(norm.input[0])]
    if convolution.op not in ("Conv2D", "DepthwiseConv2dNative") or readers[convolution.name] > 1:
        return None
    if convolution.attr["data_format"].s != norm.attr["data_format"].s:
        return None
    weights, *values = [_constant(text, nodes) for text in (convolution.input[1], *norm.input[1:5])]
    if weights is None or any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + norm.attr["epsilon"].f)
    # Of a depthwise convolution the last two dimensions are the channels.
    own = (weights * scale.reshape(weights.shape[2:] if convolution.op != "Conv2D" else [-1])).astype(weights.dtype)
    biases = (beta - mean * scale).astype(weights.dtype)
    constants = [_make_constant(f"{norm.name}/{name}", value) for name, value in (("weights", own), ("biases", biases))]
    moved = tf.NodeDef()
    moved.CopyFrom(convolution)
    moved.name = f"{norm.name}/convolution"
    moved.input[1] = constants[0].name
    added = tf.NodeDef(name=norm.name, op="BiasAdd", input=[moved.name, constants[1].name], device=norm.device)
    added.attr["T"].CopyFrom(convolution.attr["T"])
    added.attr["data_format"].CopyFrom(norm.attr["data_format"])
    return [*constants, moved, added]


def _name(text: str) -> str:
    """Names the operation of an input, which may be a control input, or another output than the first."""
    return text.removeprefix("^").partition(":")[0]


def _constant(text: str, nodes: Nodes) -> np.ndarray | None:
    """Reads the constant that an input is; None where it is none."""
    node = nodes[_name(text)]
    while node.op == "Identity":
        node = nodes[_name(node.input[0])]
    if node.op == "Fill":  # As `tf.ones` of a thousand or more.
        shape, value = (_constant(each, nodes) for each in node.input)
        return None if shape is None or value is None else np.full(shape, value)
    return tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" else None


def _make_constant(name: str, value: np.ndarray) -> tf.NodeDef:
    node = tf.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return node
