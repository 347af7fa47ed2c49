"""Checkpoints of a run directory: written durably by `Saver`, checked whole before they are trusted.

A checkpoint counts as written once its files and their directory are synced; only then does the `checkpoint` file
name it, and only then are older ones deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trainer.errors import NotFiniteError, TrainerError, reason
from trainer.rundir import CHECKPOINT_PREFIX, RunDir
from trainer.tf1 import tf

FILE_PATTERN = re.compile(re.escape(CHECKPOINT_PREFIX) + r"-(\d+)\.(index|meta|data-\d{5}-of-\d{5})")
# What TensorFlow raises on damaged files: its own errors, and others where it takes garbage for a header.
READ_ERRORS = (tf.errors.OpError, ValueError, IndexError, RuntimeError, SystemError)


class Progress(NamedTuple):
    """What a checkpoint says of the run that wrote it."""

    path: str  # without the endings of its files
    step: int
    position: int  # examples consumed
    skipped: int = 0  # steps that were not finite and not applied


class CheckpointOps(NamedTuple):
    """What saving and restoring need of a graph."""

    saver: tf.train.Saver  # of all weights, averages, optimizer slots and counters
    finite: tf.Tensor  # bool [], are all of them numbers


def build_checkpoint_ops() -> CheckpointOps:
    variables = tf.global_variables()
    with tf.name_scope("all_finite"):
        floats = [variable for variable in variables if variable.dtype.base_dtype.is_floating]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(variable.read_value())) for variable in floats])
    # `save` counts what is kept.
    return CheckpointOps(tf.train.Saver(variables, max_to_keep=None), finite)


def save(ops: CheckpointOps, session: tf.Session, rundir: RunDir, step: int, keep: int) -> None:
    """Writes the checkpoint of `step` durably, then deletes all but the newest `keep`.

    Raises:
      NotFiniteError: a weight is NaN or infinite; nothing is written.
      TrainerError: it could not be written; earlier checkpoints are as they were.
    """
    if not session.run(ops.finite):
        raise NotFiniteError(
            f"step {step}: a weight is NaN or infinite, no checkpoint of it is saved; "
            "a lower --learning_rate or --clip may help"
        )
    named = False
    try:
        ops.saver.save(session, str(rundir.checkpoint_prefix), global_step=step, write_state=False)
        for path in files_by_step(rundir.path)[step]:
            sync(path)
        sync(rundir.path)
        steps = sorted(other for other in files_by_step(rundir.path) if other <= step)
        named = True  # Perhaps: from here on its files stay.
        name_newest(rundir.path, steps[-keep:])
    except (tf.errors.OpError, OSError, ValueError) as error:  # ValueError: the directory has gone.
        if not named:
            _remove(rundir, step)
        raise TrainerError(f"the checkpoint of step {step} could not be saved: {reason(error)}") from error
    for old in steps[:-keep]:
        _remove(rundir, old)


def _remove(rundir: RunDir, step: int) -> None:
    """Removes all files of a checkpoint, also unfinished ones, which may be what fills the disk."""
    for path in rundir.path.glob(f"{CHECKPOINT_PREFIX}-{step}.*"):
        with contextlib.suppress(OSError):
            path.unlink()


def name_newest(folder: Path, steps: list[int]) -> None:
    """Replaces the `checkpoint` file; the names in it are relative, so that the directory can be moved."""
    names = [f"{CHECKPOINT_PREFIX}-{step}" for step in steps]
    # With the name of a directory that is itself relative, TensorFlow would make other names of these.
    tf.train.update_checkpoint_state(str(folder.resolve()), names[-1], names)
    sync(folder / "checkpoint")
    sync(folder)


def sync(path: Path) -> None:
    """Waits until a file or a directory's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
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


def remove_leftovers(rundir: RunDir) -> None:
    """Removes what a killed run was writing; nothing else must be writing there."""
    for pattern in (f"{CHECKPOINT_PREFIX}-*.temp*", f"{CHECKPOINT_PREFIX}-*.tmp*", "checkpoint.tmp*", "*.part"):
        for path in rundir.path.glob(pattern):
            if path.is_file():
                path.unlink()


def has_files(rundir: RunDir) -> bool:
    """Are there files of any checkpoint, whole or not?"""
    return bool(files_by_step(rundir.path))


def load_progress(rundir: RunDir, say: Callable[[str], None]) -> Progress | None:
    """Finds the newest checkpoint that is whole; None where there are no files of any.

    Newer ones that are damaged or unfinished are named with what is wrong, and put aside under another name.

    Raises:
      TrainerError: there are checkpoints, but none is whole.
    """
    reasons = []
    files = files_by_step(rundir.path)
    for step in sorted(files, reverse=True):
        prefix = f"{rundir.checkpoint_prefix}-{step}"
        try:
            progress = read_progress(prefix)
        except TrainerError as error:
            reasons.append(str(error))
            continue
        for line in reasons:
            say(f"{line}; going back to step {step}")
        for newer in (newer for newer in files if newer > step):
            for path in files[newer]:
                path.rename(path.with_name(f"damaged.{path.name}"))
        return progress
    if reasons:
        raise TrainerError(
            f"{rundir.path}: no checkpoint can be restored ({'; '.join(reasons)}); "
            "--resume=never moves the run aside and begins anew"
        )
    return None


def read_progress(prefix: str) -> Progress:
    """Reads step and position of a checkpoint, and every other tensor too, so that all checksums are compared.

    Raises:
      TrainerError: a file is missing, cut off or damaged.
    """
    try:
        reader = tf.train.NewCheckpointReader(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        counters = (int(reader.get_tensor(name)) for name in ("global_step", "position", "skipped_steps"))
        return Progress(prefix, *counters)
    except READ_ERRORS as error:
        raise TrainerError(f"checkpoint {prefix} is damaged or unfinished: {reason(error)}") from error


def restore(saver: tf.train.Saver, session: tf.Session, path: str) -> None:
    """Restores every variable of the graph from a checkpoint that `load_progress` has found whole.

    Raises:
      TrainerError: variables are missing or of other shapes; all of them are listed.
    """
    differences = checkpoint_differences(path)
    if differences:
        listed = "".join(f"\n  {line}" for line in differences)
        raise TrainerError(f"checkpoint {path} is of another model; use another --logdir:{listed}")
    saver.restore(session, path)


def checkpoint_differences(path: str) -> list[str]:
    """Compares the variables of the default graph with those of a checkpoint."""
    saved = tf.train.NewCheckpointReader(path).get_variable_to_shape_map()
    wanted = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
    lines = [f"{name} {wanted[name]} is not in it" for name in sorted(set(wanted) - set(saved))]
    lines += [f"{name} {saved[name]} is not in the model" for name in sorted(set(saved) - set(wanted))]
    both = [name for name in sorted(set(saved) & set(wanted)) if saved[name] != wanted[name]]
    return lines + [f"{name} has shape {saved[name]}, wanted {wanted[name]}" for name in both]


def move_aside(rundir: RunDir) -> Path | None:
    """Renames an existing run directory to the first free `LOGDIR.N`; None where there was no run."""
    if not rundir.config.exists() and not has_files(rundir):
        return None
    number = 1
    while (target := rundir.path.with_name(f"{rundir.path.name}.{number}")).exists():
        number += 1
    return rundir.path.rename(target)
