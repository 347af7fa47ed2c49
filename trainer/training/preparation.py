"""Before the graph: is the data what it should be, and does the log directory fit the run?"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from trainer import grammars
from trainer.console import Console, bullet_list
from trainer.data import conversion, manifest, records
from trainer.data.looking import open_data
from trainer.data.salvage import Salvage, find_damage, write_clean_shards
from trainer.data.sources import own
from trainer.data.sources.named import SOURCES
from trainer.data.sources.splitting import parse_shares
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

# Up to this size all shards are read once and compared with their checksums before training; beyond it only their
# sizes are, and each record's own checksum when it is read.
CHECKSUM_BYTES = 1 << 30
SHOWN_FAULTS = 3  # of each shard


class Data(NamedTuple):
    """What is in the shards, and what is damaged in them."""

    spec: DatasetSpec
    salvage: Salvage


def prepare_data(config: Config, console: Console) -> Data:
    """Loads and checks the manifest; the embedded digits are converted first where they are not there yet.

    Raises:
      DataError: shards are missing or differ from the manifest.
      UsageError: the directory holds another data set, or fewer examples than a batch.
    """
    folder = Path(config.data_dir)
    if config.source:
        _index_files(config, folder, console)
    elif config.dataset == "digits" and not conversion.is_converted("digits", folder):
        _convert_digits(folder, console)
    found = open_data(config.dataset, folder).with_labels_offset(config.labels_offset)
    salvage = Salvage([])
    if config.skip_corrupt:
        salvage = find_damage(found, config.skip_corrupt)
    else:
        _check_shards(found)
    count = found.num_examples("train")
    if config.batch_size > count:
        raise UsageError(f"batch_size={config.batch_size} is larger than the training set of {count:,} examples")
    return Data(found, salvage)


def prepare_source(config: Config, rundir: RunDir, stack: ExitStack, *, is_chief: bool) -> Config:
    """Chooses where the manifest of --input=files lies: in the run directory, or, where there is none yet, elsewhere.

    From there `keep_source` takes it once the run directory is this run's; another worker drops it again.

    Raises:
      UsageError: the run that is there is of other pictures, or other splits.
    """
    if not config.source:
        return config
    if is_chief and config.resume != "never" and (Path(config.data_dir) / manifest.MANIFEST).is_file():
        found = manifest.load_manifest(Path(config.data_dir)).attribution
        if found == _asked_of(config):
            return config
        if checkpoint_files.has_files(rundir):
            raise UsageError(
                f"{rundir.path} holds a run on {found}, not on {_asked_of(config)}; use another --logdir, or "
                "--resume=never to move it aside"
            )
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trainer-files-"))
    return dataclasses.replace(config, data_dir=f"{folder}/data")


def keep_source(config: Config, data: Data, rundir: RunDir) -> tuple[Config, Data]:
    """Takes the manifest of --input=files into the run directory, whose lock is held, where it is not there yet."""
    place = rundir.files_data
    if not config.source or Path(config.data_dir) == place:
        return config, data
    aside = place.with_name(f"{place.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(config.data_dir, aside)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    kept = dataclasses.replace(data.spec, data_dir=place)
    return dataclasses.replace(config, data_dir=str(place)), data._replace(spec=kept)


def _asked_of(config: Config) -> str:
    return f"{config.source}, --split={config.split}"


def _index_files(config: Config, folder: Path, console: Console) -> None:
    """Writes down where pictures lie, and in which split, as a conversion that copies nothing; once for a run."""
    if (folder / manifest.MANIFEST).is_file():
        return
    source = Path(config.source)
    store = own.Store(encoded=True, paths=True)
    wanted = own.Wanted(parse_shares(config.split), store, config.skip_corrupt, False, grammars.MAX_PIXELS)
    found = own.open_source(source, wanted, console, is_list=source.is_file())
    found = found._replace(attribution=_asked_of(config))
    name = config.dataset or source.stem
    conversion.convert(name, found, source_dir=source, data_dir=folder, num_shards=10, console=console)


def _convert_digits(folder: Path, console: Console) -> None:
    """Converts the embedded digits; of several processes, as the workers of a cluster, the first one does."""
    with console.user_umask():  # The data are no secret of this run.
        _convert_digits_alone(folder, console)


def _convert_digits_alone(folder: Path, console: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    directory = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if not conversion.is_converted("digits", folder):
            source = SOURCES["digits"]
            conversion.convert("digits", source, source_dir=folder, data_dir=folder, num_shards=10, console=console)
            console.say(f"wrote the embedded digits to {folder} ({source.attribution})")
    finally:
        os.close(directory)


def skip_damaged(data: Data, into: Path, say: Callable[[str], None]) -> DatasetSpec:
    """Leaves damaged records out, and says which; the shards without them are written to a directory."""
    if not data.salvage.damages:
        return data.spec
    for damage in data.salvage.damages:
        shown = "; ".join(damage.faults[:SHOWN_FAULTS])
        more = f"; and {len(damage.faults) - SHOWN_FAULTS} more" if len(damage.faults) > SHOWN_FAULTS else ""
        say(f"skipping {damage.num_lost} of {damage.shard.num_examples:,} records: {shown}{more}")
    return write_clean_shards(data.salvage, data.spec, into)


def is_checked(found: DatasetSpec) -> bool:
    """Is every record read once before training?"""
    return sum(shard.num_bytes for shards in found.splits.values() for shard in shards) <= CHECKSUM_BYTES


def _check_shards(found: DatasetSpec) -> None:
    manifest.check_shards(found)
    if not is_checked(found):
        return
    records.check_checksums(found)
    for shards in found.splits.values():
        for shard in shards:
            count = sum(1 for _ in records.read_records(found.path_of(shard), found))
            records.check_count(found, shard, count)


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


def check_rundir(config: Config, rundir: RunDir) -> None:
    """Refuses, before anything is written, a directory that cannot hold the run.

    Raises:
      UsageError: it is a data set's, or holds no checkpoint where `--resume` asks for one.
    """
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
