"""Where a user's code lies, and how it is imported: as it is read, with what lies beside it."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from trainer.errors import UsageError
from trainer.grammars import local_path

# Of the trainer itself, which may lie in the directory of a user's file.
OWN_PACKAGES = tuple(Path(__file__).parents[2] / name for name in ("trainer", "launch"))
INSTALLED = ("site-packages", "dist-packages")


class Place(NamedTuple):
    """Where code lies."""

    root: Path  # from where its imports are looked for
    file: str  # below the root: `aug.py`, or `package/module.py`


def find_file(path: str) -> Place:
    """Finds a user's file.

    Raises:
      UsageError: there is none.
    """
    file = Path(os.path.abspath(local_path(path, path)))  # noqa: PTH100  (a link's own directory holds its modules)
    if not file.is_file():
        there = sorted(other.name for other in file.parent.glob("*.py")) if file.parent.is_dir() else []
        beside = f"; beside it lie {', '.join(there[:10])}" if there else f"; {file.parent} holds no Python file"
        raise UsageError(f"{path}: there is no file {file}{beside}")
    return Place(file.parent, file.name)


def find_module(path: str) -> Path | None:
    """Finds the directory that holds a module of the user's, or its package; None for one of an installed package.

    Raises:
      UsageError: there is none.
    """
    top = path.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top) if top else None
    except ValueError:  # Of `__main__`.
        spec = None
    if spec is None:
        hint = f"; the file beside you is named {path}.py:FUNCTION" if Path(f"{path}.py").is_file() else ""
        raise UsageError(f"there is no module {top!r}; wanted package.module:function or path/file.py:function{hint}")
    folders = list(spec.submodule_search_locations or [])
    if not folders and not spec.has_location:
        return None
    root = Path(folders[0] if folders else str(spec.origin)).parent
    is_own = root / top in OWN_PACKAGES
    is_standard = root == Path(os.__file__).parent
    return None if is_own or is_standard or set(INSTALLED) & set(root.parts) else root


def root_of(path: str) -> Path:
    """Finds the directory from which a reference's path is imported now.

    Raises:
      UsageError: there is none, or it is that of an installed package.
    """
    root = find_file(path).root if path.endswith(".py") else find_module(path)
    if root is None:
        raise UsageError(f"{path} is of an installed package")
    return root


def is_below(path: Path, root: Path) -> bool:
    """Is a path in this directory, and the user's?

    What lies in another directory of `sys.path` within it is not, as a virtual environment, nor the trainer in the
    directory of a checkout.
    """
    if not path.is_relative_to(root) or any(path.is_relative_to(own) for own in OWN_PACKAGES):
        return False
    return not any(
        path.is_relative_to(other) and Path(other).is_relative_to(root) and Path(other) != root
        for other in filter(None, sys.path)
    )


class FileNotes:
    """Keeps what user code reads to be run, as C++ sources, besides Python files."""

    def __init__(self) -> None:
        self._open: list[tuple[Path, dict[Path, bytes], dict[Path, Path]]] = []

    @contextmanager
    def kept_in(self, root: Path, contents: dict[Path, bytes], roots: dict[Path, Path]) -> Iterator[None]:
        """Keeps the files of a root: their contents, and for each the root."""
        self._open.append((root, contents, roots))
        try:
            yield
        finally:
            self._open.pop()

    def note(self, path: Path, content: bytes) -> None:
        """Keeps a file, if user code is running.

        Raises:
          UsageError: it lies where no copy of the code could find its own copy of it.
        """
        if not self._open:
            return
        root, contents, roots = self._open[-1]
        if not path.is_relative_to(root):
            raise UsageError(
                f"{path} does not lie below {root}, and the run keeps copies of what lies there: move it beside your "
                "Python file, or name that as package.module:function from a directory above both"
            )
        contents[path], roots[path] = content, root


_notes = FileNotes()
keep_noted, note_file = _notes.kept_in, _notes.note


class Loader(SourceFileLoader):
    """Runs a source file as it is, and keeps what it has run.

    What is run is what can be read, and whose hash is known: never a compiled file that lies beside it.
    """

    def __init__(self, name: str, path: str, contents: dict[Path, bytes]) -> None:
        super().__init__(name, path)
        self._contents = contents

    def path_stats(self, path: Any) -> Any:
        raise OSError("Python reads and writes no compiled file where it cannot tell how old its source is")

    def get_data(self, path: Any) -> bytes:
        data = super().get_data(path)
        self._contents[Path(path)] = data
        return data


class Finder:
    """Finds the modules of a user's directory, in front of all others."""

    def __init__(self, root: Path, contents: dict[Path, bytes]) -> None:
        self._root, self._load = root, functools.partial(Loader, contents=contents)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        for folder in [str(self._root)] if path is None else path:
            if not is_below(Path(folder) / name.rpartition(".")[2], self._root):
                continue
            kinds: Any = ((self._load, [".py"]), (ExtensionFileLoader, EXTENSION_SUFFIXES))
            found = FileFinder(folder, *kinds).find_spec(name)
            if found and found.loader:
                return found
        return None


# What tf_slim's batch normalization imports, and where tf_keras has it since 2.16.
LEGACY_LAYERS, LEGACY_LAYERS_NOW = "tf_keras.legacy_tf_layers", "tf_keras.src.legacy_tf_layers"


class MovedLayers(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the layers of TF1 where tf_keras has moved them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_moved = name == LEGACY_LAYERS or name.startswith(f"{LEGACY_LAYERS}.")
        return ModuleSpec(name, self) if is_moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(spec.name.replace(LEGACY_LAYERS, LEGACY_LAYERS_NOW))

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: it has been run under its own name."""


def allow_legacy_layers() -> None:
    """Lets TF1 code find its layers where the package tf_keras is installed: `tf.layers`, and those of tf_slim.

    TensorFlow reads the variable when `tf.layers` or `tf.keras` is used for the first time; who has set it decides.
    """
    if importlib.util.find_spec("tf_keras") is None:
        return
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    if not any(isinstance(finder, MovedLayers) for finder in sys.meta_path):
        sys.meta_path.append(MovedLayers())  # Behind all others: only where nobody has the module.
