"""Where built libraries lie: one directory each, made whole under a lock, and renamed into place."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError
from trainer.ops import toolchain
from trainer.ops.building import LIBRARY, LOG, Recipe, compile_library
from trainer.ops.sources import Sources
from trainer.signals import check_installed

ABOUT = "build.json"
PART, LOCK, FAILED = ".part-", ".lock", ".failed.log"
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class About:
    """What a library is, as it stands beside it."""

    name: str
    sources: str  # digest of them
    files: Sequence[str]
    flags: Sequence[str]  # of the user's
    compiler: str
    tensorflow: str
    target: str  # CPU
    cpu: Sequence[str]  # what that has to be able to do
    cuda: bool
    library: str  # sha256


@dataclass(frozen=True)
class Built:
    """A library that is there."""

    path: Path
    about: About
    seconds: float  # that it took to build; 0: it was there


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Names the user's cache; without a home directory it is among the temporary files."""
    try:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return temporary_cache()
    return base / "tower-trainer" / "ops"


def temporary_cache() -> Path:
    """Makes a cache among the temporary files that nobody else can write, where the user's own cannot be written."""
    folder = Path(tempfile.gettempdir()) / f"tower-trainer-ops-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="tower-trainer-ops-"))  # Somebody else has made it.
    return folder


def key_of(sources: Sources, recipe: Recipe) -> str:
    """Names a library by all that it follows from."""
    cpu = sorted(toolchain.cpu_features()) if recipe.target == toolchain.NATIVE else []
    parts = [sources.digest, recipe.flags, recipe.compiler, recipe.nvcc, toolchain.OPTIMIZE, recipe.target, cpu]
    parts.append(toolchain.tensorflow_version())
    return f"{sources.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def read_about(folder: Path) -> About | None:
    """Reads what a library is; None where it is damaged, or something else."""
    try:
        values: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        about = About(**values)
        if not all(isinstance(values[name], list) for name in ("files", "flags", "cpu")):
            return None
        content = (folder / LIBRARY).read_bytes()
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return about if hashlib.sha256(content).hexdigest() == about.library else None


def find_or_build(
    folder: Path,
    sources: Sources,
    recipe: Recipe,
    *,
    say: Callable[[str], None],
    limit_seconds: float,
    advice: str = "name another place in XDG_CACHE_HOME",
) -> Built:
    """Finds a library in a directory of libraries, or builds it there, once for all processes.

    Raises:
      TrainerError: it cannot be built or kept there.
    """
    path = folder / key_of(sources, recipe)
    if about := read_about(path):
        return Built(path / LIBRARY, about, 0.0)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path.with_name(path.name + LOCK), sources, say, 2 * limit_seconds):
            if about := read_about(path):  # Another process has built it meanwhile.
                return Built(path / LIBRARY, about, 0.0)
            _remove_parts(path)
            begin = time.monotonic()
            say(f"building the operations of {sources.shown}, once, by {recipe.compiler.version}")
            about = _build(path, sources, recipe, limit_seconds)
            return Built(path / LIBRARY, about, time.monotonic() - begin)
    except OSError as error:
        raise TrainerError(
            f"the operations of {sources.shown} cannot be kept in {folder}: {error.strerror}; make room there, or "
            f"{advice}"
        ) from error


def _build(path: Path, sources: Sources, recipe: Recipe, limit_seconds: float) -> About:
    aside = Path(tempfile.mkdtemp(prefix=path.name + PART, dir=path.parent))
    try:
        compile_library(sources, recipe, aside, limit_seconds)
        about = _about(sources, recipe, aside)
        (aside / ABOUT).write_text(json.dumps(asdict(about), indent=2) + "\n")
        for file in (LIBRARY, ABOUT):
            _sync(aside / file)
        shutil.rmtree(path, ignore_errors=True)  # What is there is damaged.
        aside.rename(path)
        _sync(path.parent)
    except TrainerError as error:
        raise type(error)(f"{error} (all of it: {_keep_log(aside, path)})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return about


def _keep_log(aside: Path, path: Path) -> Path:
    log = path.with_name(path.name + FAILED)
    with contextlib.suppress(OSError):  # The disk may be what has failed.
        shutil.copyfile(aside / LOG, log)
    return log


def _about(sources: Sources, recipe: Recipe, folder: Path) -> About:
    needs = toolchain.cpu_features() if recipe.target == toolchain.NATIVE else toolchain.LEVELS.get(recipe.target, ())
    return About(
        name=sources.name,
        sources=sources.digest,
        files=tuple(sorted(sources.contents)),
        flags=recipe.flags,
        compiler=recipe.compiler.version,
        tensorflow=toolchain.tensorflow_version(),
        target=recipe.target,
        cpu=tuple(sorted(needs)),
        cuda=recipe.nvcc is not None,
        library=hashlib.sha256((folder / LIBRARY).read_bytes()).hexdigest(),
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, sources: Sources, say: Callable[[str], None], seconds: float) -> Iterator[None]:
    """Holds the lock of a library, which the system frees when this process ends, however that is.

    Raises:
      TrainerError: another process holds it for too long.
    """
    end, is_said = time.monotonic() + seconds, False
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_said:
                    say(f"waiting for another process, which builds the operations of {sources.shown}")
                    is_said = True
                if time.monotonic() > end:
                    raise TrainerError(
                        f"another process has held {path} for {seconds:g} s, and has built nothing: end it (fuser "
                        f"{path} names it)"
                    ) from None
            check_installed()
            time.sleep(POLL_SECONDS)
        yield


def _remove_parts(path: Path) -> None:
    """Removes what processes have left that were killed while they built; the lock is held."""
    for left in path.parent.glob(f"{path.name}{PART}*"):
        shutil.rmtree(left, ignore_errors=True)


def remove_all(folder: Path) -> int:
    """Removes all libraries of a cache but those that are being built; returns how many. Their locks stay."""
    count = 0
    for path in sorted(folder.glob("*")):
        if path.is_dir() and PART not in path.name:
            with path.with_name(path.name + LOCK).open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(path)
                count += 1
        elif path.name.endswith(FAILED):
            path.unlink()
    return count
