"""Where a run stands by its checkpoints, each read whole before it is trusted, and which of them it goes on from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.errors import TrainerError, UsageError, reason
from trainer.graph.update import STREAM
from trainer.inputs import order
from trainer.rundir import CHECKPOINT_PREFIX, RunDir
from trainer.saving.best import put_best_aside
from trainer.saving.files import READ_ERRORS, files_by_step
from trainer.tf1 import tf, tf_path


class Progress(NamedTuple):
    """What a checkpoint says of the run that wrote it."""

    path: str  # without the endings of its files
    step: int
    position: int  # examples consumed
    skipped: int = 0  # steps that were not finite and not applied
    order_version: int = 0  # of the order of the records, by which the position counts
    batch_size: int = 0  # of the last steps
    batch_size_step: int = 0  # since which the batches are of this size
    batch_size_position: int = 0
    operations: int = 0  # of the trainer's own, which the last start had: see `ops.own.bits_of`

    @classmethod
    def at_start(cls, batch_size: int) -> Progress:
        """Returns that of a run that has not begun."""
        return cls(path="", step=0, position=0, order_version=order.VERSION, batch_size=batch_size)

    def with_batch_size(self, batch_size: int) -> Progress:
        """Returns that of a run which goes on with another batch size, if it is another one."""
        if batch_size == self.batch_size:
            return self
        return self._replace(batch_size=batch_size, batch_size_step=self.step, batch_size_position=self.position)

    def counts(self) -> list[int]:
        """Returns all numbers, in the order of the fields."""
        return [int(value) for value in self[1:]]

    def stream(self) -> list[int]:
        """Returns the values of the variable STREAM."""
        return self.counts()[3:]


def load_progress(rundir: RunDir, say: Callable[[str], None], *, back_to: int | None = None) -> Progress | None:
    """Finds the newest checkpoint that is whole; None where there are no files of any.

    Newer ones that are damaged or unfinished are named with what is wrong, and put aside under another name. Those of
    other programs are named and left alone.

    Args:
      rundir: of the run.
      say: is told what is wrong.
      back_to: the step of the checkpoint to take instead of a newer one; newer ones are put aside.

    Raises:
      UsageError: there is none of the step that is asked for.
      TrainerError: there are checkpoints, but none is whole.
    """
    reasons: list[str] = []
    files = own_files(rundir, say)
    if back_to is None and (back_to := edited_step(rundir)) is not None:
        say(f"{rundir.path / 'checkpoint'} names step {back_to}, and was not written by the trainer: going back to it")
    if back_to is not None:
        _go_back(rundir, files, back_to, say)
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
            _put_aside(files[newer], "damaged")
        return progress
    if reasons:
        raise TrainerError(
            f"{rundir.path}: no checkpoint can be restored ({'; '.join(reasons)}); "
            "--resume=never moves the run aside and begins anew"
        )
    return None


def _put_aside(files: Sequence[Path], word: str) -> str:
    """Renames the files of a checkpoint, never over those that were put aside before; returns what they begin with."""
    number, prefix = 1, word
    while any(path.with_name(f"{prefix}.{path.name}").exists() for path in files):
        number += 1
        prefix = f"{word}{number}"
    for path in files:
        path.rename(path.with_name(f"{prefix}.{path.name}"))
    return prefix


def _go_back(rundir: RunDir, files: dict[int, list[Path]], step: int, say: Callable[[str], None]) -> None:
    """Puts what is newer than a step aside, in the directory and in `files`; the next save could not tell it apart.

    Raises:
      UsageError: there is no checkpoint of that step.
      TrainerError: it is damaged.
    """
    if step not in files:
        there = ", ".join(str(other) for other in sorted(files)) or "none"
        raise UsageError(f"{rundir.path} holds no checkpoint of step {step}; there are: {there}")
    read_progress(f"{rundir.checkpoint_prefix}-{step}")
    newer = [other for other in sorted(files) if other > step]
    kept = [f"{_put_aside(files.pop(other), 'abandoned')}.{CHECKPOINT_PREFIX}-{other}" for other in newer]
    if kept:
        say(f"going back to step {step}; the newer checkpoints are kept as {', '.join(kept)}")
    if aside := put_best_aside(rundir, after=step):
        say(f"the best checkpoint was of a later step, and is kept in {aside}")


def edited_step(rundir: RunDir) -> int | None:
    """Reads the step that `checkpoint` names, where somebody else than the trainer has written that file."""
    try:
        state = tf.train.get_checkpoint_state(tf_path(rundir.path))
    except READ_ERRORS:
        return None
    if state is None:
        return None
    newest = list(state.all_model_checkpoint_paths)[-1:]
    # The trainer writes the time of each checkpoint too, and names the last of them.
    is_own = state.all_model_checkpoint_timestamps and newest == [state.model_checkpoint_path]
    match = re.fullmatch(rf"{re.escape(CHECKPOINT_PREFIX)}-(\d+)", Path(state.model_checkpoint_path).name)
    return None if is_own or not match else int(match[1])


def own_files(rundir: RunDir, say: Callable[[str], None] = lambda line: None) -> dict[int, list[Path]]:
    """Finds the files of this program's checkpoints, finished or not; names those of others of the same name."""
    files = files_by_step(rundir.path)
    for step in sorted(files):
        prefix = f"{rundir.checkpoint_prefix}-{step}"
        if is_foreign(prefix):
            say(f"{prefix} was written by another program (it has no {STREAM!r}): it is left alone")
            del files[step]
    return files


def is_foreign(prefix: str) -> bool:
    """Is it a checkpoint whose names can be read, and are not those that a run has?"""
    try:
        return not tf.train.NewCheckpointReader(tf_path(prefix)).has_tensor(STREAM)
    except READ_ERRORS:
        return False  # It is damaged.


def read_progress(prefix: str) -> Progress:
    """Reads step and position of a checkpoint, and every other tensor too, so that all checksums are compared.

    Raises:
      TrainerError: a file is missing, cut off or damaged.
    """
    try:
        reader = tf.train.NewCheckpointReader(tf_path(prefix))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        counters = [int(reader.get_tensor(name)) for name in ("global_step", "position", "skipped_steps")]
        return Progress(prefix, *counters, *map(int, reader.get_tensor(STREAM)))
    except READ_ERRORS as error:
        raise TrainerError(f"checkpoint {prefix} is damaged or unfinished: {reason(error)}") from error
