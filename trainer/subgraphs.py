"""What a tensor is computed from, and another copy of that computation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from trainer.tf1 import tf

GENERATORS = {"StatefulUniform", "StatefulStandardNormalV2", "StatefulTruncatedNormal", "RngSkip", "RngReadAndSkip"}
PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def draws_by_itself(node: tf.NodeDef) -> bool:
    """Does a node draw random numbers that follow from how often it was run?

    Such nodes have two seeds, or are of GENERATORS; the stateless ones take theirs as a tensor.
    """
    return "seed2" in node.attr or node.op in GENERATORS


def names_that_draw(operations: Iterable[tf.Operation], graph: tf.Graph) -> list[str]:
    """Names the operations that draw random numbers by themselves, also inside of functions."""
    found, has_functions = [], False
    for op in operations:
        if op.type in ("Const", "VarHandleOp"):
            continue
        node = op.node_def
        if draws_by_itself(node):
            found.append(op.name)
        has_functions |= any(value.HasField("func") for value in node.attr.values())
    if has_functions:
        library = graph.as_graph_def().library
        found += [
            f"{function.signature.name}/{node.name}"
            for function in library.function
            for node in function.node_def
            if draws_by_itself(node)
        ]
    return found


def ancestors(
    ends: Iterable[tf.Tensor | tf.Operation], within: Collection[tf.Operation] | None = None
) -> set[tf.Operation]:
    """Finds the operations that some tensors or operations need, those of the ends among them.

    Args:
      ends: tensors or operations.
      within: looks no farther than these; None: everywhere.
    """
    found: set[tf.Operation] = set()
    left = [end if isinstance(end, tf.Operation) else end.op for end in ends]
    while left:
        op = left.pop()
        if op in found or (within is not None and op not in within):
            continue
        found.add(op)
        left += [tensor.op for tensor in op.inputs]
        left += op.control_inputs
    return found


def copy_of(
    tensor: tf.Tensor,
    operations: Collection[tf.Operation],
    *,
    instead: Mapping[str, tf.Tensor] | None = None,
    change: Callable[[tf.NodeDef], None] = lambda node: None,
    name: str,
) -> tf.Tensor:
    """Copies the operations that compute a tensor, into the current device and control flow.

    Args:
      tensor: of the default graph.
      operations: those to be copied; what they read from others is read from there too.
      instead: tensors to read in the place of others, by the names of these.
      change: changes a copied node.
      name: of the scope of the copies.
    """
    instead = instead or {}
    if tensor.op not in operations:
        return instead.get(tensor.name, tensor)
    names = {op.name for op in operations}
    graph_def = tf.GraphDef(versions=tf.get_default_graph().graph_def_versions)
    inputs: dict[str, tf.Tensor] = {}
    for op in operations:
        node = graph_def.node.add()
        node.CopyFrom(op.node_def)
        node.device = ""
        node.attr.pop("_class", None)  # It names what another operation lies beside, which is not copied.
        kept = [text for text in node.input if not text.startswith("^") or text[1:] in names]
        node.input[:] = kept
        change(node)
        inputs |= {read.name: instead.get(read.name, read) for read in op.inputs if read.op not in operations}
    (copied,) = tf.import_graph_def(graph_def, input_map=inputs, return_elements=[tensor.name], name=name)
    copied.set_shape(tensor.shape)
    return copied
