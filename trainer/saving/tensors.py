"""The tensors of any checkpoint, of this trainer or not: read, described, and written again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.errors import TrainerError, UsageError, reason
from trainer.grammars import check_path
from trainer.rundir import CHECKPOINT_PREFIX
from trainer.saving.files import READ_ERRORS, find_steps, sync
from trainer.saving.replacing import aside_of, remove_leftovers
from trainer.tf1 import tf, tf_path

FORMATS = ("v1", "v2")
SHOWN_NAMES = 8  # of a directory, in a message
TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")  # tensorflow/core/lib/io/format.h
WANTED = "wanted a checkpoint of TensorFlow, as `tf.train.Saver` writes it"


class TensorInfo(NamedTuple):
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def find_checkpoint(path: str) -> str:
    """Finds a checkpoint by what names it: its path, one of its files, or a directory, whose newest it is.

    Raises:
      UsageError: there is none; the message says what lies there.
    """
    check_path("checkpoint", path)
    folder = Path(path)
    if folder.name == "checkpoint" and folder.is_file():  # The file that names the newest.
        folder = folder.parent
    if folder.is_dir():
        return _find_in(folder)
    head, dot, tail = path.rpartition(".")
    prefix = head if dot and (tail in ("index", "meta") or tail.startswith("data-")) else path
    if folder.is_file() and prefix == path:
        _check_kind(folder)
    try:
        if tf.train.checkpoint_exists(tf_path(prefix)):
            return prefix
    except READ_ERRORS as error:
        raise TrainerError(f"checkpoint {prefix} cannot be read: {reason(error)}") from error
    there = _describe_folder(folder.parent)
    raise UsageError(f"checkpoint {path} does not exist; wanted a path as DIR/model.ckpt-N, or a directory{there}")


def _find_in(folder: Path) -> str:
    """Finds the newest checkpoint of a directory, of this trainer or of another program."""
    if steps := find_steps(folder):
        return str(folder / f"{CHECKPOINT_PREFIX}-{steps[-1]}")
    state = tf.train.get_checkpoint_state(tf_path(folder))
    named = [Path(state.model_checkpoint_path).name] if state else []  # The directory may have been moved since.
    newest = sorted(folder.glob("*.index"), key=lambda file: file.stat().st_mtime, reverse=True)
    single = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
    inside = ["variables/variables"] if (folder / "saved_model.pb").is_file() else []
    for name in [*named, *(file.stem for file in newest), *(file.name for file in single), *inside]:
        if tf.train.checkpoint_exists(tf_path(folder / name)):
            return str(folder / name)
    raise UsageError(f"{folder} holds no checkpoint{_describe_folder(folder)}")


def _check_kind(file: Path) -> None:
    """Refuses files of other kinds, which TensorFlow would take for damaged tables.

    Raises:
      UsageError: it is one.
    """
    with file.open("rb") as opened:
        head = opened.read(8)
    kinds = {
        b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes it",
        b"PK\x03\x04": "a zip file, as Keras and PyTorch write it",
    }
    for magic, kind in kinds.items():
        if head.startswith(magic):
            raise UsageError(f"{file} is {kind}; {WANTED}")
    if not _is_table(file):
        raise UsageError(f"{file} is no checkpoint; {WANTED}")


def _is_table(file: Path) -> bool:
    """Returns whether a file ends as the tables of TensorFlow's checkpoints do, those of one file too."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - len(TABLE_MAGIC)))
        return opened.read() == TABLE_MAGIC


def _describe_folder(folder: Path) -> str:
    """Says what lies in a directory: `; there are a.h5, b.txt`."""
    if not folder.is_dir():
        return ""
    names = sorted(file.name for file in folder.iterdir())
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"; in {folder} there are {', '.join(names[:SHOWN_NAMES])}{more}" if names else f"; {folder} is empty"


def list_tensors(path: str) -> dict[str, TensorInfo]:
    """Reads names, shapes and types of a checkpoint's tensors.

    Raises:
      TrainerError: it is damaged.
    """
    try:
        reader = tf.train.NewCheckpointReader(tf_path(path))
        types = reader.get_variable_to_dtype_map()
        shapes = reader.get_variable_to_shape_map()
        return {name: TensorInfo(tuple(shapes[name]), types[name].name) for name in sorted(shapes)}
    except READ_ERRORS as error:
        raise TrainerError(f"checkpoint {path} cannot be read: {reason(error)}") from error


def load_tensors(path: str) -> dict[str, np.ndarray]:
    """Reads all tensors of a checkpoint.

    Raises:
      TrainerError: it is damaged.
    """
    names = list_tensors(path)
    try:
        reader = tf.train.NewCheckpointReader(tf_path(path))
        return {name: np.asarray(reader.get_tensor(name)) for name in names}
    except READ_ERRORS as error:
        raise TrainerError(f"checkpoint {path} cannot be read: {reason(error)}") from error


def save_tensors(tensors: Mapping[str, np.ndarray], path: str, *, version: str = "v2", overwrite: bool = False) -> None:
    """Writes tensors as a checkpoint that any `tf.train.Saver` restores; a new one appears whole, or not at all.

    Args:
      tensors: by name.
      path: without the endings of the files.
      version: v1 is one file, as TensorFlow before 0.12 wrote it; v2 an index and data.
      overwrite: may a checkpoint of this path be replaced.

    Raises:
      UsageError: there is one already, or nothing to write.
      TrainerError: it could not be written.
    """
    check_path("output", path)
    target = Path(path)
    if not target.name or target.is_dir():
        raise UsageError(f"{path} is no path of a checkpoint; wanted one as DIR/model.ckpt-N")
    endings = re.compile(r"(\.index|\.data-\d{5}-of-\d{5})?")
    names = [file.name for file in target.parent.glob(f"{target.name}*")] if target.parent.is_dir() else []
    there = {name for name in names if endings.fullmatch(name.removeprefix(target.name))}
    if there and not overwrite:
        raise UsageError(f"{path} exists already; give another --output, or --overwrite")
    if not tensors:
        raise UsageError(f"nothing is left to write to {path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    folder = aside_of(target)
    folder.mkdir()
    try:
        _write(tensors, str(folder / target.name), version)
        _compare(tensors, str(folder / target.name), version)
        # The index last: it is what is looked for.
        files = sorted(folder.iterdir(), key=lambda file: file.suffix == ".index")
        for file in files:
            sync(file)
        for file in files:
            file.replace(target.parent / file.name)
        for name in there - {file.name for file in files}:
            (target.parent / name).unlink()
        sync(target.parent)
    except (tf.errors.OpError, ValueError) as error:
        raise TrainerError(f"{path} could not be written: {reason(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(tensors: Mapping[str, np.ndarray], path: str, version: str) -> None:
    """Reads back what was written: the old format takes types that nothing reads."""
    try:
        found = load_tensors(path)
    except TrainerError as error:
        types = ", ".join(sorted({str(value.dtype) for value in tensors.values()}))
        raise TrainerError(f"format {version} does not hold all of the types {types}: {error}") from error
    different = [name for name, value in tensors.items() if found[name].tobytes() != value.tobytes()]
    if different:
        raise TrainerError(f"{path}: {', '.join(different)} did not read back as written")


def _write(tensors: Mapping[str, np.ndarray], path: str, version: str) -> None:
    names, values = list(tensors), list(tensors.values())
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        # Fed and not constants, because a graph may not be larger than 2 GiB.
        fed = [tf.placeholder(value.dtype, value.shape) for value in values]
        if version == "v1":
            write = tf.raw_ops.Save(filename=path, tensor_names=names, data=fed)
        else:
            slices = [""] * len(names)
            write = tf.raw_ops.SaveV2(prefix=path, tensor_names=names, shape_and_slices=slices, tensors=fed)
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            session.run(write, dict(zip(fed, values, strict=True)))
