"""The files of a library: what is compiled, what that includes, and what all of it is called."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.errors import UsageError
from trainer.settings.importing import note_file

ENDINGS = (".cc", ".cpp", ".cxx", ".cu")
INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


class Sources(NamedTuple):
    """C++ files, read once: what is hashed is what is compiled."""

    root: Path  # of all of them
    compiled: tuple[str, ...]  # below the root
    contents: dict[str, bytes]  # of those, and of what they include, by path below the root

    @property
    def name(self) -> str:
        """Names the library."""
        return re.sub(r"\W", "_", Path(self.compiled[0]).stem)

    @property
    def cuda(self) -> tuple[str, ...]:
        return tuple(file for file in self.compiled if file.endswith(".cu"))

    @property
    def shown(self) -> str:
        return ", ".join(Path(file).name for file in self.compiled)

    @property
    def digest(self) -> str:
        parts = [(file, hashlib.sha256(self.contents[file]).hexdigest()) for file in sorted(self.contents)]
        return hashlib.sha256(json.dumps([self.compiled, parts]).encode()).hexdigest()


def read_sources(paths: Sequence[Path]) -> Sources:
    """Reads C++ files, the `.cu` beside each, and what they include from beside them.

    Raises:
      UsageError: one is missing, or is no source.
    """
    if not paths:
        raise UsageError("no C++ file is named; wanted at least one, as trainer.ops.load('own_ops.cc')")
    named = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  (a link's own directory holds its headers)
    for path in named:
        if path.suffix not in ENDINGS:
            raise UsageError(f"{path}: wanted a C++ file that ends in {', '.join(ENDINGS)}")
    beside = [path.with_suffix(".cu") for path in named if path.with_suffix(".cu").is_file()]
    compiled = list(dict.fromkeys([*named, *beside]))
    found: dict[Path, bytes] = {}
    left = list(compiled)
    while left:
        path = left.pop()
        if path not in found:
            found[path] = _read(path)
            note_file(path, found[path])
            left += _included(path, found[path])
    root = Path(os.path.commonpath([path.parent for path in found]))
    contents = {str(path.relative_to(root)): content for path, content in found.items()}
    return Sources(root, tuple(str(path.relative_to(root)) for path in compiled), contents)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        there = sorted(other.name for other in path.parent.glob("*") if other.suffix in ENDINGS)
        beside = f"; beside it lie {', '.join(there)}" if there else f"; {path.parent} holds no C++ file"
        raise UsageError(f"there is no file {path}{beside}") from None


def _included(path: Path, content: bytes) -> list[Path]:
    names = [os.fsdecode(name) for name in INCLUDE.findall(content)]
    # What does not lie beside it is TensorFlow's, or the compiler says that there is none.
    paths = [Path(os.path.abspath(path.parent / name)) for name in names]  # noqa: PTH100
    return [each for each in paths if each.is_file()]
