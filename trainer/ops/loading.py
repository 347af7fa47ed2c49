"""A library into this process: from the cache, from what was built elsewhere, or built now."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from trainer.console import say_note
from trainer.errors import TrainerError, UsageError, reason
from trainer.ops import toolchain
from trainer.ops.building import LIBRARY, LIMIT_SECONDS, make_recipe
from trainer.ops.cache import Built, cache_dir, find_or_build, read_about, temporary_cache
from trainer.ops.sources import Sources, read_sources
from trainer.ops.toolchain import NoCompilerError
from trainer.tf1 import tf

ELSEWHERE = "TOWER_OPS"  # names a directory of libraries that were built elsewhere


class Loaded(NamedTuple):
    """A library of this process."""

    module: Any
    built: Built
    sources: Sources


LOADED: dict[tuple[str, tuple[str, ...]], Loaded] = {}  # by digest and flags: TensorFlow never lets a library go


def find_loaded(
    paths: Sequence[Path],
    *,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    limit_seconds: float = LIMIT_SECONDS,
) -> Loaded:
    """Loads the operations of C++ files, which are built where that has not been done.

    Args:
      paths: of the files.
      flags: more of the compiler.
      environ: of the process: CXX, TOWER_OPS, XDG_CACHE_HOME.
      limit_seconds: that the compiler may take.

    Raises:
      UsageError: a file is missing or wrong.
      TrainerError: they cannot be built, or not be loaded.
    """
    sources = read_sources(paths)
    key = sources.digest, tuple(flags)
    if key not in LOADED:
        built = find_library(sources, flags, environ, limit_seconds)
        LOADED[key] = Loaded(_open(built, sources), built, sources)
    return LOADED[key]


def load_named(paths: Sequence[str]) -> None:
    """Loads what a user names: libraries that are built, FILE.so, and C++ files, all of which are one library.

    Raises:
      UsageError: there is no such file.
      TrainerError: one cannot be built, or not be loaded.
    """
    files = [Path(path) for path in paths]
    for library in (file for file in files if file.suffix == ".so"):
        if not library.is_file():
            raise UsageError(f"--operations={library}: there is no such file")
        about = read_about(library.parent) if library.name == LIBRARY else None
        if about and (missing := toolchain.missing_features(about.cpu)):
            raise UsageError(
                f"--operations={library} was built for a CPU with {missing}, which this one has not: name its sources, "
                "which lie beside it"
            )
        try:
            tf.load_op_library(str(library.absolute()))
        except tf.errors.OpError as error:
            raise TrainerError(f"--operations={library} cannot be loaded: {reason(error)}") from error
    if sources := [file for file in files if file.suffix != ".so"]:
        find_loaded(sources)


@contextmanager
def missing_named(path: Path) -> Iterator[None]:
    """Says which operation of a graph is not there while it is loaded.

    Raises:
      UsageError: there is such a one.
    """
    try:
        yield
    except (ValueError, tf.errors.OpError) as error:
        found = re.search(r"Op type not registered '(\w+)'", str(error))
        if not found:
            raise
        beside = sorted([*path.glob("ops/*/library.so"), *path.parent.glob(f"{path.name}.ops/*/library.so")])
        hint = f", as --operations={beside[0]}" if beside else ""
        raise UsageError(
            f"{path} needs the operation {found[1]}, which TensorFlow does not have: name its C++ files, or its "
            f"library, by --operations=FILE{hint}"
        ) from error


def find_library(
    sources: Sources, flags: Sequence[str], environ: Mapping[str, str], limit_seconds: float = LIMIT_SECONDS
) -> Built:
    """Finds the library of some sources, or builds it.

    Raises:
      TrainerError: it cannot be built.
    """
    unfit = ""
    if environ.get(ELSEWHERE):
        found, unfit = _find_in(Path(environ[ELSEWHERE]), sources, tuple(flags))
        if found:
            return found
    try:
        recipe = make_recipe(sources, environ, flags, toolchain.NATIVE)
    except NoCompilerError as error:
        kept, _ = _find_in(cache_dir(environ), sources, tuple(flags))  # Of another compiler, which has gone.
        if kept:
            return kept
        raise NoCompilerError(f"{sources.shown}: {unfit + ', and ' if unfit else ''}{error}") from error
    if unfit:
        say_note(f"{sources.shown}: {unfit}; built anew")
    if sources.cuda and not recipe.nvcc:
        say_note(f"{', '.join(sources.cuda)}: there is no nvcc on $PATH: these operations run on CPUs alone")
    folder = cache_dir(environ)
    if not _can_write(folder):
        kept, _ = _find_in(folder, sources, tuple(flags))
        if kept:
            return kept
        say_note(
            f"{folder} cannot be written: the operations of {sources.shown} are kept among the temporary files; name "
            "another place in XDG_CACHE_HOME"
        )
        folder = temporary_cache()
    built = find_or_build(folder, sources, recipe, say=say_note, limit_seconds=limit_seconds)
    if built.seconds:
        say_note(f"built the operations of {sources.shown} in {built.seconds:.1f} s: {built.path.parent}")
    return built


def _find_in(folder: Path, sources: Sources, flags: tuple[str, ...]) -> tuple[Built | None, str]:
    """Finds a library in a directory of them, whatever has built it; else says why none of it fits."""
    unfit = f"{folder} has no such library"
    for path in sorted(path for path in folder.glob(f"{sources.name}-*") if path.is_dir()):
        about = read_about(path)
        if about is None:
            unfit = f"{path} is damaged"
        elif about.sources != sources.digest or tuple(about.flags) != flags:
            unfit = f"{path} was built from other sources"
        elif about.tensorflow != toolchain.tensorflow_version():
            here = toolchain.tensorflow_version()
            unfit = f"{path} was built for TensorFlow {about.tensorflow}, and this is {here}"
        elif missing := toolchain.missing_features(about.cpu):
            unfit = f"{path} was built for a CPU with {missing}, which this one has not"
        else:
            return Built(path / LIBRARY, about, 0.0), ""
    return None, unfit


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _open(built: Built, sources: Sources) -> Any:
    try:
        return tf.load_op_library(str(built.path))
    except tf.errors.AlreadyExistsError as error:
        raise UsageError(
            f"{sources.shown}: {reason(error)}: another library of this process has this operation, perhaps the same "
            "file before it was changed; start the program again, or give it another name"
        ) from error
    except tf.errors.OpError as error:
        raise TrainerError(f"{sources.shown}: {built.path} cannot be loaded: {reason(error)}") from error
