"""Before the graph: is the data there, and what it should be?"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from trainer import grammars
from trainer.console import Console
from trainer.data import conversion, manifest, records
from trainer.data.given import examples as given_examples
from trainer.data.looking import open_data
from trainer.data.salvage import Salvage, find_damage, write_clean_shards
from trainer.data.sources import own
from trainer.data.sources.named import SOURCES
from trainer.data.sources.splitting import parse_shares
from trainer.data.spec import DatasetSpec
from trainer.errors import UsageError
from trainer.rundir import RunDir
from trainer.saving import files as checkpoint_files
from trainer.settings.config import Config
from trainer.settings.fields import is_reference
from trainer.settings.plugins import UserCode

# Up to this size all shards are read once and compared with their checksums before training; beyond it only their
# sizes are, and each record's own checksum when it is read.
CHECKSUM_BYTES = 1 << 30
SHOWN_FAULTS = 3  # of each shard


class Data(NamedTuple):
    """What is in the shards, and what is damaged in them."""

    spec: DatasetSpec
    salvage: Salvage


def prepare_data(config: Config, code: UserCode, console: Console) -> Data:
    """Loads and checks the manifest; the embedded digits are converted first where they are not there yet.

    Raises:
      DataError: shards are missing or differ from the manifest.
      UsageError: the directory holds another data set, or fewer examples than a batch.
    """
    folder = Path(config.data_dir)
    if is_reference(config.input):
        _look_at_examples(config, folder, code, console)
    elif config.source:
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
    """Chooses where the manifest of data that are no shards lies: in the run directory, or elsewhere where it has none.

    From there `keep_source` takes it once the run directory is this run's; another worker drops it again.

    Raises:
      UsageError: the run that is there is of other pictures, or other splits.
    """
    if not config.keeps_data:
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
    """Takes the manifest of data that are no shards into the run directory, whose lock is held, unless it is there."""
    place = rundir.files_data
    if not config.keeps_data or Path(config.data_dir) == place:
        return config, data
    aside = place.with_name(f"{place.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(config.data_dir, aside)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    kept = dataclasses.replace(data.spec, data_dir=place)
    return dataclasses.replace(config, data_dir=str(place)), data._replace(spec=kept)


def _asked_of(config: Config) -> str:
    if is_reference(config.input):
        return ", ".join([f"--input={config.input}", *(f"--input_args={text}" for text in config.input_args)])
    return f"{config.source}, --split={config.split}"


def _look_at_examples(config: Config, folder: Path, code: UserCode, console: Console) -> None:
    """Makes a pass over what the user's function gives; once for a run."""
    examples = given_examples.open_examples(config.input, config.input_args, config.seed, code)
    if not (folder / manifest.MANIFEST).is_file():
        given_examples.look_at(
            examples, name=config.dataset, attribution=_asked_of(config), data_dir=folder, console=console
        )


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
    for shards in found.stored().values():
        for shard in shards:
            count = sum(1 for _ in records.read_records(found.path_of(shard), found))
            records.check_count(found, shard, count)
