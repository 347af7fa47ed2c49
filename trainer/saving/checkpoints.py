"""Checkpoints of a run directory, written durably by `Saver`.

A checkpoint counts as written once its files and their directory are synced; only then does the `checkpoint` file
name it, and only then are older ones deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from trainer.errors import NotFiniteError, TrainerError, reason
from trainer.rundir import CHECKPOINT_PREFIX, RunDir
from trainer.saving.files import files_by_step, name_newest, sync
from trainer.saving.progress import is_foreign, own_files
from trainer.tf1 import tf, tf_path


class CheckpointOps(NamedTuple):
    """What saving and restoring need of a graph."""

    variables: list[tf.Variable]  # all weights, averages, optimizer slots and counters
    saver: tf.train.Saver  # of these
    finite: tf.Tensor  # bool [], are all of them numbers


def build_checkpoint_ops() -> CheckpointOps:
    variables = tf.global_variables()
    with tf.name_scope("all_finite"):
        floats = [variable for variable in variables if variable.dtype.base_dtype.is_floating]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(variable.read_value())) for variable in floats])
    # `save` counts what is kept.
    return CheckpointOps(variables, tf.train.Saver(variables, max_to_keep=None), finite)


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
    if is_foreign(f"{rundir.checkpoint_prefix}-{step}"):
        raise TrainerError(
            f"the checkpoint of step {step} could not be saved: {rundir.checkpoint_prefix}-{step} is of another program"
        )
    named = False
    try:
        ops.saver.save(session, tf_path(rundir.checkpoint_prefix), global_step=step, write_state=False)
        for path in files_by_step(rundir.path)[step]:
            sync(path)
        sync(rundir.path)
        steps = sorted(other for other in own_files(rundir) if other <= step)
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


def restore(ops: CheckpointOps, session: tf.Session, path: str) -> None:
    """Restores every variable of a run from a checkpoint that `load_progress` has found whole.

    Raises:
      TrainerError: variables are missing or of other shapes; all of them are listed.
    """
    differences = checkpoint_differences(path, ops.variables)
    if differences:
        listed = "".join(f"\n  {line}" for line in differences)
        raise TrainerError(f"checkpoint {path} is of another model; use another --logdir:{listed}")
    ops.saver.restore(session, tf_path(path))


def checkpoint_differences(path: str, variables: Sequence[tf.Variable]) -> list[str]:
    """Compares variables with those of a checkpoint."""
    saved = tf.train.NewCheckpointReader(tf_path(path)).get_variable_to_shape_map()
    wanted = {variable.op.name: variable.shape.as_list() for variable in variables}
    lines = [f"{name} {wanted[name]} is not in it" for name in sorted(set(wanted) - set(saved))]
    lines += [f"{name} {saved[name]} is not in the model" for name in sorted(set(saved) - set(wanted))]
    both = [name for name in sorted(set(saved) & set(wanted)) if saved[name] != wanted[name]]
    return lines + [f"{name} has shape {saved[name]}, wanted {wanted[name]}" for name in both]
