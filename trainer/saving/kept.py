"""`kept/` of a run directory: a checkpoint of each period, which nothing deletes."""

from __future__ import annotations

from trainer.rundir import RunDir
from trainer.saving.files import files_by_step, link_checkpoint, name_newest, sync


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
