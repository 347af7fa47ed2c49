"""Files and directories that appear whole or not at all, in place of older ones or of nothing."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from trainer.errors import UsageError
from trainer.saving.files import sync

OWN_FILES = ("config.json", "manifest.json")  # of a run, and of a data set
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>


@contextmanager
def replacing(target: Path, *, overwrite: bool, marker: str = "") -> Iterator[Path]:
    """Gives a path beside the target, whose file or directory becomes the target when all of it is on the disk.

    Args:
      target: file or directory.
      overwrite: may an older one be replaced.
      marker: a file that a directory has to hold to be replaced; none: only files are.

    Raises:
      UsageError: the target exists and may not be replaced, or is none.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  (`.` has no name)
    if not target.name:
        raise UsageError(f"{target} cannot be written; give another --output")
    if target.parent.exists() and not target.parent.is_dir():
        raise UsageError(f"{target.parent} is a file; give another --output")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already; --overwrite replaces it, another --output keeps it")
    if target.is_file() and any((target.parent / name).is_file() for name in OWN_FILES):
        raise UsageError(f"{target} is a file of a run or of a data set; give another --output")
    if target.is_dir() and not (marker and (target / marker).is_file()):
        raise UsageError(f"{target} is a directory of something else, which --overwrite does not replace")
    aside = aside_of(target)
    old = target.with_name(f".{target.name}.{os.getpid()}.old.part")
    try:
        yield aside
        for path in [*sorted(aside.rglob("*")), aside]:
            sync(path)
        if target.is_dir() and not _exchange(aside, target):
            target.rename(old)  # Where the file system cannot exchange: a directory replaces only an empty one.
        if not target.is_dir():
            aside.replace(target)
        sync(target.parent)
    finally:
        for path in (aside, old):
            _remove(path)


def aside_of(target: Path) -> Path:
    """Names what this process writes before it becomes the target."""
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def remove_leftovers(target: Path) -> None:
    """Removes what killed processes were writing; what one had already moved out of the way comes back."""
    for path in sorted(target.parent.glob(".*.part")):
        number, _, ending = path.name.removeprefix(f".{target.name}.").partition(".")
        if not path.name.startswith(f".{target.name}.") or not number.isdecimal() or psutil.pid_exists(int(number)):
            continue
        if ending == "old.part" and not target.exists():
            path.rename(target)
        else:
            _remove(path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names at once; returns whether the system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and not rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
