"""Checkpoints of a run directory: written by `Saver`, found and checked before they are restored."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trainer.errors import TrainerError
from trainer.rundir import RunDir
from trainer.tf1 import tf


class Progress(NamedTuple):
    """What a checkpoint says of the run that wrote it."""

    path: str  # without the endings of its files
    step: int
    position: int  # examples consumed


def make_saver(keep: int) -> tf.train.Saver:
    """Makes a saver of all weights, averages, optimizer slots and counters that keeps the newest `keep` checkpoints."""
    return tf.train.Saver(tf.global_variables(), max_to_keep=keep, save_relative_paths=True)


def load_progress(rundir: RunDir) -> Progress | None:
    """Reads step and position from the newest checkpoint; None where there is none.

    Raises:
      TrainerError: the run directory names a checkpoint that cannot be read.
    """
    state = tf.train.get_checkpoint_state(str(rundir.path))
    if state is None or not state.model_checkpoint_path:
        if any(rundir.path.glob(f"{rundir.checkpoint_prefix.name}-*.index")):
            raise TrainerError(
                f"{rundir.path}/checkpoint is missing or empty, but checkpoints are there; it names the newest"
            )
        return None
    path = state.model_checkpoint_path
    try:
        reader = tf.train.NewCheckpointReader(path)
        return Progress(path, int(reader.get_tensor("global_step")), int(reader.get_tensor("position")))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise TrainerError(f"checkpoint {path} cannot be read: {_first_line(error)}") from error


def restore(saver: tf.train.Saver, session: tf.Session, path: str) -> None:
    """Restores every variable of the graph.

    Raises:
      TrainerError: variables are missing or of other shapes; all of them are listed. Or the files are damaged.
    """
    differences = checkpoint_differences(path)
    if differences:
        listed = "".join(f"\n  {line}" for line in differences)
        raise TrainerError(f"checkpoint {path} is of another model; use another --logdir:{listed}")
    try:
        saver.restore(session, path)
        # The saver goes on counting the checkpoints that it keeps.
        state = tf.train.get_checkpoint_state(str(Path(path).parent))
        saver.recover_last_checkpoints(state.all_model_checkpoint_paths)
    except tf.errors.OpError as error:
        raise TrainerError(f"checkpoint {path} is damaged: {_first_line(error)}") from error


def checkpoint_differences(path: str) -> list[str]:
    """Compares the variables of the default graph with those of a checkpoint."""
    saved = tf.train.NewCheckpointReader(path).get_variable_to_shape_map()
    wanted = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
    lines = [f"{name} {wanted[name]} is not in it" for name in sorted(set(wanted) - set(saved))]
    lines += [f"{name} {saved[name]} is not in the model" for name in sorted(set(saved) - set(wanted))]
    both = sorted(set(saved) & set(wanted))
    return lines + [
        f"{name} has shape {saved[name]}, wanted {wanted[name]}" for name in both if saved[name] != wanted[name]
    ]


def move_aside(rundir: RunDir) -> Path | None:
    """Renames an existing run directory to the first free `LOGDIR.N`; None where there was no run."""
    if not rundir.config.exists() and not any(rundir.path.glob(f"{rundir.checkpoint_prefix.name}-*")):
        return None
    number = 1
    while (target := rundir.path.with_name(f"{rundir.path.name}.{number}")).exists():
        number += 1
    return rundir.path.rename(target)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
