"""One data set into a directory of shards: all of it or nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from trainer.console import Console, progress
from trainer.data.manifest import MANIFEST, load_manifest, save_manifest
from trainer.data.sources.named import Source
from trainer.data.spec import SPLITS, DataError, DatasetSpec, describe_images
from trainer.data.writing import write_shards
from trainer.errors import UsageError

EVAL_SHARDS = 2  # of the validation and of the test split, which are read in order


def is_converted(dataset: str, data_dir: Path) -> bool:
    """Does `data_dir` already hold this data set?

    Raises:
      UsageError: it holds another data set, or files that no conversion wrote.
    """
    if (data_dir / MANIFEST).is_file():
        found = load_manifest(data_dir).name
        if found != dataset:
            raise UsageError(f"{data_dir} holds {found}, not {dataset}; give another --data_dir")
        return True
    if (data_dir.exists() or data_dir.is_symlink()) and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise UsageError(f"{data_dir} is in the way: it is no converted data set; give another --data_dir")
    return False


def convert(
    dataset: str, source: Source, *, source_dir: Path, data_dir: Path, num_shards: int, console: Console
) -> DatasetSpec:
    """Writes the shards of a data set, and its manifest.

    Raises:
      DataError: the source files are missing or damaged; nothing is left behind.
    """
    return write_aside(data_dir, lambda folder: _write(dataset, source, source_dir, folder, num_shards, console))


def write_aside(data_dir: Path, write: Callable[[Path], DatasetSpec]) -> DatasetSpec:
    """Lets `write` fill a directory, adds the manifest, and renames the directory to `data_dir`: all or nothing.

    Raises:
      DataError: of `write`; nothing is left behind.
    """
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(data_dir)
    partial = data_dir.parent / _partial_name(data_dir, os.getpid())
    partial.mkdir()
    try:
        written = write(partial)
        save_manifest(written)
        _sync(partial)
        _publish(partial, data_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dataclasses.replace(written, data_dir=data_dir)


def _publish(partial: Path, data_dir: Path) -> None:
    try:
        partial.rename(data_dir)
    except OSError:
        # The name is taken: by another conversion that was faster, which is as good.
        if not (data_dir / MANIFEST).is_file():
            raise


def _write(
    dataset: str, source: Source, source_dir: Path, folder: Path, num_shards: int, console: Console
) -> DatasetSpec:
    with progress(console, f"converting {dataset}", sum(source.sizes.values())) as advance:
        splits = {}
        for split in SPLITS:
            shards = num_shards if split == "train" else EVAL_SHARDS
            splits[split] = write_shards(
                source.read(source_dir, split),
                folder=folder,
                split=split,
                num_shards=min(shards, source.sizes[split]),
                advance=advance,
            )
            count = sum(shard.num_examples for shard in splits[split])
            if count != source.sizes[split]:
                raise DataError(
                    f"{source_dir} gives {count:,} {split} examples, {dataset} has {source.sizes[split]:,}; "
                    "are all its files there, each under its own name?"
                )
    spec = describe_images(
        dataset,
        source.image_shape,
        source.class_names,
        splits,
        folder,
        source.attribution,
        source.smallest,
        source.label_kind,
    )
    return dataclasses.replace(spec, fields=source.fields)


def _sync(folder: Path) -> None:
    """Makes the files durable before the rename makes them visible."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _partial_name(data_dir: Path, pid: int) -> str:
    return f".{data_dir.name}.partial-{socket.gethostname()}-{pid}"


def _remove_leftovers(data_dir: Path) -> None:
    """Removes what killed conversions on this host left aside."""
    prefix = _partial_name(data_dir, 0)[:-1]
    for path in data_dir.parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        pid = path.name.removeprefix(prefix)
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is somebody else's, and alive.
    return True
