"""What an exported graph needs of operations that TensorFlow does not have: their libraries and sources, beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.ops.loading import LOADED, Loaded
from trainer.tf1 import tf

FOLDER = "ops"


def libraries_of(graph: tf.Graph) -> dict[str, Loaded]:
    """Finds the libraries that the operations of a graph come from, by the names of the operations."""
    types = {op.type for op in graph.get_operations() if not hasattr(tf.raw_ops, op.type)}
    return {
        op_type: loaded for op_type in sorted(types) for loaded in LOADED.values() if hasattr(loaded.module, op_type)
    }


def carry_operations(graph: tf.Graph, target: Path, shown: Path) -> list[str]:
    """Writes the libraries of a graph, with their sources, into a directory beside or in what is exported.

    Args:
      graph: that was exported.
      target: what was written; in a directory they go into `ops`, a file gets `FILE.ops` beside it.
      shown: what it will be called.

    Returns:
      What to do with them, a line each; none where the graph needs none.
    """
    lines = []
    found = libraries_of(graph)
    folder = target / FOLDER if target.is_dir() else shown.with_name(f"{shown.name}.{FOLDER}")
    if not target.is_dir():
        shutil.rmtree(folder, ignore_errors=True)  # Of an earlier export of this name.
    for loaded in {id(each): each for each in found.values()}.values():
        mine = ", ".join(name for name, library in found.items() if library is loaded)
        name = loaded.sources.name
        if (folder / name).exists():  # Of another file of that name.
            name = f"{name}-{loaded.sources.digest[:8]}"
        shutil.copytree(loaded.built.path.parent, folder / name)
        where = (shown / FOLDER if target.is_dir() else folder) / name
        lines.append(
            f"needs {mine}: tf.load_op_library('{where / loaded.built.path.name}'), built for this CPU; its sources "
            "are beside it"
        )
    return lines
