"""The files of checkpoints in a directory: found, named, made durable, moved."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import warnings
from pathlib import Path

from trainer.errors import TrainerWarning
from trainer.rundir import CHECKPOINT_PREFIX, RunDir
from trainer.tf1 import tf, tf_path

FILE_PATTERN = re.compile(re.escape(CHECKPOINT_PREFIX) + r"-(\d+)\.(index|meta|data-\d{5}-of-\d{5})")

# What TensorFlow raises on damaged files: its own errors, and others where it takes garbage for a header.
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)

_told: set[int] = set()  # file systems, by their devices

READ_ERRORS = (tf.errors.OpError, ValueError, IndexError, RuntimeError, SystemError)


def sync(path: Path) -> None:
    """Waits until a file or a directory's list of names is on the disk.

    Where a file system cannot sync directories, as some network and user-space ones, that is said once.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC or not path.is_dir():
            raise
        if path.stat().st_dev not in _told:
            _told.add(path.stat().st_dev)
            warnings.warn(
                f"{path}: this file system cannot sync a directory ({error.strerror}): after a loss of power the "
                "newest checkpoint may be missing, though its files are synced",
                TrainerWarning,
                stacklevel=2,
            )
    finally:
        os.close(descriptor)


def files_by_step(folder: Path) -> dict[int, list[Path]]:
    """Finds the files of all checkpoints, finished or not."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob(f"{CHECKPOINT_PREFIX}-*")):
        if match := FILE_PATTERN.fullmatch(path.name):
            found.setdefault(int(match[1]), []).append(path)
    return found


def find_steps(folder: Path) -> list[int]:
    """Finds the steps of the checkpoints in a folder that have an index and data, whole or not, in order."""
    kinds: dict[int, set[str]] = {}
    for path in folder.glob(f"{CHECKPOINT_PREFIX}-*"):
        if match := FILE_PATTERN.fullmatch(path.name):
            kinds.setdefault(int(match[1]), set()).add(match[2].partition("-")[0])
    return sorted(step for step, found in kinds.items() if {"index", "data"} <= found)


def name_newest(folder: Path, steps: list[int]) -> None:
    """Replaces the `checkpoint` file; the names in it are relative, so that the directory can be moved."""
    names = [f"{CHECKPOINT_PREFIX}-{step}" for step in steps]
    # With the name of a directory that is itself relative, TensorFlow would make other names of these.
    times = [(folder / f"{name}.index").stat().st_mtime for name in names]  # By which `edited_step` knows it.
    tf.train.update_checkpoint_state(tf_path(folder.resolve()), names[-1], names, all_model_checkpoint_timestamps=times)
    sync(folder / "checkpoint")
    sync(folder)


def has_files(rundir: RunDir) -> bool:
    """Are there files of any checkpoint, whole or not?"""
    return bool(files_by_step(rundir.path))


def remove_leftovers(rundir: RunDir) -> None:
    """Removes what a killed run was writing; nothing else must be writing there."""
    for pattern in (f"{CHECKPOINT_PREFIX}-*.temp*", f"{CHECKPOINT_PREFIX}-*.tmp*", "checkpoint.tmp*", "*.part"):
        for path in rundir.path.glob(pattern):
            if path.is_file():
                path.unlink()


def move_aside(rundir: RunDir) -> Path | None:
    """Renames an existing run directory to the first free `LOGDIR.N`; None where there was no run."""
    if not rundir.config.exists() and not has_files(rundir):
        return None
    number = 1
    while (target := rundir.path.with_name(f"{rundir.path.name}.{number}")).exists():
        number += 1
    return rundir.path.rename(target)


def link_checkpoint(path: str, folder: Path) -> str:
    """Gives the files of a checkpoint second names in a folder, which is made; returns its path there.

    Raises:
      OSError: it cannot be written, or the checkpoint has gone.
    """
    folder.mkdir(exist_ok=True)
    files = [file for file in Path(path).parent.glob(f"{Path(path).name}.*") if FILE_PATTERN.fullmatch(file.name)]
    if not any(file.suffix == ".index" for file in files):
        raise FileNotFoundError(errno.ENOENT, "the checkpoint has gone", path)
    for file in files:
        _link(file, folder / file.name)
    return str(folder / Path(path).name)


def _link(file: Path, target: Path) -> None:
    if target.exists() and target.samefile(file):
        return
    aside = target.with_name(f"{target.name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    try:
        os.link(file, aside)
    except FileNotFoundError:
        raise
    except OSError:  # A file system without links.
        shutil.copyfile(file, aside)
        sync(aside)
    aside.replace(target)


def keep_for_ever(rundir: RunDir, step: int) -> None:
    """Keeps the checkpoint of a step in `kept/` of the run directory, where nothing is deleted.

    Raises:
      OSError: it cannot be written.
    """
    link_checkpoint(f"{rundir.checkpoint_prefix}-{step}", rundir.kept)
    sync(rundir.kept)
    name_newest(rundir.kept, sorted(files_by_step(rundir.kept)))


def last_kept(rundir: RunDir) -> float | None:
    """Reads when the newest checkpoint of `kept/` was written, in seconds since 1970; None where there is none."""
    times = [path.stat().st_mtime for files in files_by_step(rundir.kept).values() for path in files]
    return max(times, default=None)
