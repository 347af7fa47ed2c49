"""Frozen graphs of others: their weights, which are constants under the names of the variables that they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.errors import UsageError, reason
from trainer.tf1 import tf

TFLITE = b"TFL3"  # behind the first four bytes of such a file


def load_graph(path: Path) -> tf.GraphDef:
    """Reads a frozen graph.

    Raises:
      UsageError: there is none.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; wanted a frozen graph, a GraphDef whose weights are constants")
    graph_def, data = tf.GraphDef(), path.read_bytes()
    if data[4:8] == TFLITE:
        raise UsageError(f"{path} is a TensorFlow Lite model, which tf.lite.Interpreter runs; wanted a frozen graph")
    try:
        graph_def.ParseFromString(data)
    except Exception as error:  # The class of protobuf's error differs between its implementations.
        raise UsageError(f"{path} is no frozen graph: {reason(error)}") from error
    if not graph_def.node:
        raise UsageError(f"{path} is no frozen graph: it has no nodes")
    return graph_def


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """Reads the constants of a frozen graph that were variables, by name.

    Such a constant is read by an Identity, as the variable was by its reading.

    Raises:
      UsageError: there is no such graph, or it has no such constant.
    """
    graph_def = load_graph(path)
    constants = {node.name: node for node in graph_def.node if node.op == "Const"}
    read = {node.input[0].removesuffix(":0") for node in graph_def.node if node.op == "Identity" and node.input}
    found = {
        name: tf.make_ndarray(node.attr["value"].tensor)
        for name, node in constants.items()
        if name in read and tf.as_dtype(node.attr["dtype"].type).is_floating
    }
    if not found:
        raise UsageError(f"{path} holds {len(constants)} constants, and none that was a variable")
    return found
