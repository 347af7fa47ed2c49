"""Before the graph: does the log directory fit the run?"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from trainer.console import Console, bullet_list
from trainer.data import manifest
from trainer.data.spec import DatasetSpec
from trainer.errors import UsageError
from trainer.rundir import RunDir, replace_text
from trainer.saving import files as checkpoint_files
from trainer.saving.code import save_code
from trainer.saving.lock import RunLock
from trainer.saving.progress import Progress, load_progress
from trainer.settings import config as config_lib
from trainer.settings import flags
from trainer.settings.config import Config
from trainer.settings.plugins import UserCode


def prepare_rundir(config: Config, rundir: RunDir, console: Console, stack: ExitStack) -> tuple[RunLock, Progress]:
    """Makes and locks the run directory, and finds where to go on in it.

    Args:
      config: of the run.
      rundir: of the run.
      console: is told what was moved aside or is damaged.
      stack: releases the lock at the end of the run.

    Returns:
      The lock, and where the newest whole checkpoint stands, or else step 0.

    Raises:
      UsageError: another experiment is there, or `--resume` does not allow what is there.
      TrainerError: another run is at work there, or no checkpoint there is whole.
    """
    if config.resume == "never":
        _move_aside(rundir, console)
    if not rundir.path.exists():
        stack.push(functools.partial(_remove_unused, rundir, console))
    _make_directory(rundir.path)
    lock = stack.enter_context(RunLock(rundir, say=console.say))
    checkpoint_files.remove_leftovers(rundir)
    if rundir.config.exists() and checkpoint_files.has_files(rundir):
        differences = config_lib.identity_differences(config_lib.load_config(rundir.config), config)
        if differences:
            raise UsageError(
                f"{rundir.path} holds another run; use another --logdir, or --resume=never to move it aside:"
                + bullet_list(differences)
            )
    found = load_progress(rundir, console.say, back_to=_step_of(config))
    return lock, found or Progress.at_start(config.batch_size)


def _move_aside(rundir: RunDir, console: Console) -> None:
    """Moves an earlier run to another name, if there is one."""
    if not rundir.path.is_dir():
        return
    with RunLock(rundir):
        moved = checkpoint_files.move_aside(rundir)
    if moved:
        console.say(f"moved the earlier run to {moved}")


def check_rundir(config: Config, rundir: RunDir, *, is_chief: bool) -> None:
    """Refuses, before anything is written, a directory that cannot hold the run; it is the chief's.

    Raises:
      UsageError: it is a data set's, or holds no checkpoint where `--resume` asks for one.
    """
    if not is_chief:
        return
    if (rundir.path / manifest.MANIFEST).is_file():
        raise UsageError(f"--logdir={rundir.path} holds a data set; give a directory of the run's own")
    if (config.resume == "must" or _step_of(config) is not None) and not checkpoint_files.has_files(rundir):
        raise UsageError(f"--resume={config.resume}, but {rundir.path} holds no checkpoint")


def _step_of(config: Config) -> int | None:
    """Returns the step to go back to, of `--resume=STEP`."""
    return int(config.resume) if config.resume.isdecimal() else None


def say_changed_settings(config: Config, rundir: RunDir, say: Callable[[str], None]) -> None:
    """Says which settings are others than at the last start, a line each."""
    if rundir.config.exists():
        for change in config_lib.job_differences(config_lib.load_config(rundir.config), config):
            say(f"changed since the last start: {change}")


def _remove_unused(rundir: RunDir, console: Console, kind: type[BaseException] | None, *_: object) -> None:
    """Removes a directory that this start has made, where it then was refused before the run had begun."""
    if kind and issubclass(kind, UsageError) and not rundir.config.exists():
        console.close()
        shutil.rmtree(rundir.path, ignore_errors=True)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"--logdir={path}: a file is in the way; give a directory") from error


def compare_data(spec: DatasetSpec, rundir: RunDir, say: Callable[[str], None]) -> None:
    """Says where the training set is another one than when the run was here before, and notes what it is."""
    if rundir.data.exists():
        try:
            before = manifest.load_run_data(rundir.data)
        except UsageError as error:
            say(f"{error}, now; whether the training set has changed is not known")
        else:
            _say_changes(before, spec, say)
    replace_text(rundir.data, manifest.run_data_text(spec))


def _say_changes(before: DatasetSpec, now: DatasetSpec, say: Callable[[str], None]) -> None:
    old, new = before.num_examples("train"), now.num_examples("train")
    if old != new:
        what = f"has {new:,} records, another number than before ({old:,})"
    elif before.digest_of("train") != now.digest_of("train"):
        what = f"lies in other shards than before, though of as many records (digest {now.digest_of('train')}, "
        what += f"before {before.digest_of('train')})"
    else:
        return
    say(f"the training set {what}: the epoch in hand may repeat or miss some")


def remake_rundir(config: Config, code: UserCode, rundir: RunDir, lock: RunLock, say: Callable[[str], None]) -> None:
    """Makes a run directory again that has gone, so that what has been trained is not lost with it.

    Raises:
      TrainerError: another run has begun there.
    """
    if rundir.config.exists() and rundir.lock.exists():
        return
    rundir.path.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    write_settings(config, code, rundir, say)
    say(f"{rundir.path} had gone, and was made again")


def write_settings(config: Config, code: UserCode, rundir: RunDir, say: Callable[[str], None]) -> None:
    """Records the settings of a run that has begun; what an earlier one came to no longer holds."""
    replace_text(rundir.config, config_lib.to_json(config))
    replace_text(rundir.flags, flags.to_flagfile(config))
    save_code(code, config, rundir, say)
    rundir.result.unlink(missing_ok=True)
