"""Before the graph: is the data what it should be, and does the log directory fit the run?"""

from __future__ import annotations

from pathlib import Path

from trainer import config as config_lib
from trainer import flags
from trainer.config import Config
from trainer.console import Console, bullet_list
from trainer.data import conversion, manifest, records, sources
from trainer.data.manifest import DataError, Manifest
from trainer.errors import UsageError
from trainer.rundir import RunDir
from trainer.saving import checkpoints

# Up to this size all shards are read once and compared with their checksums before training; beyond it only their
# sizes are, and each record's own checksum when it is read.
CHECKSUM_BYTES = 1 << 30


def prepare_data(config: Config, console: Console) -> Manifest:
    """Loads and checks the manifest; the embedded digits are converted first where they are not there yet.

    Raises:
      DataError: shards are missing or differ from the manifest.
      UsageError: the directory holds another data set, or fewer examples than a batch.
    """
    folder = Path(config.data_dir)
    if config.dataset == "digits" and not conversion.is_converted("digits", folder):
        source = sources.SOURCES["digits"]
        conversion.convert("digits", source, source_dir=folder, data_dir=folder, num_shards=10, console=console)
        console.say(f"wrote the embedded digits to {folder} ({source.attribution})")
    if not (folder / manifest.MANIFEST).is_file():
        raise DataError(
            f"{folder} holds no {manifest.MANIFEST}; convert the data first: "
            f"python -m trainer.convert --dataset={config.dataset} --data_dir={folder}"
        )
    found = manifest.load_manifest(folder)
    if found.dataset != config.dataset:
        raise UsageError(f"{folder} holds {found.dataset}, not --dataset={config.dataset}; give another --data_dir")
    _check_shards(found, folder)
    count = found.num_examples("train")
    if config.batch_size > count:
        raise UsageError(f"batch_size={config.batch_size} is larger than the training set of {count:,} examples")
    return found


def _check_shards(found: Manifest, folder: Path) -> None:
    manifest.check_shards(found, folder)
    if sum(shard.num_bytes for shards in found.splits.values() for shard in shards) > CHECKSUM_BYTES:
        return
    different = manifest.differing_checksum(found, folder)
    if different:
        split = next(name for name, shards in found.splits.items() if different in shards)
        raise records.explain_input_error(folder, found, split) or DataError(
            f"{folder / different.file} is not what was converted (its sha256 differs from the manifest); "
            f"remove {folder} and convert the data again"
        )


def prepare_rundir(config: Config, rundir: RunDir, console: Console) -> checkpoints.Progress | None:
    """Makes the run directory, or finds where to go on in it.

    Returns:
      The newest checkpoint, or None to begin at step 0.

    Raises:
      UsageError: another experiment is there, or `--resume` does not allow what is there.
    """
    if config.resume == "never":
        moved = checkpoints.move_aside(rundir)
        if moved:
            console.say(f"moved the earlier run to {moved}")
    rundir.path.mkdir(parents=True, exist_ok=True)
    progress = checkpoints.load_progress(rundir, console.say)
    if progress is None and config.resume == "must":
        raise UsageError(f"--resume=must, but {rundir.path} holds no checkpoint")
    if rundir.config.exists():
        differences = config_lib.identity_differences(config_lib.load_config(rundir.config), config)
        if differences and progress is not None:
            raise UsageError(
                f"{rundir.path} holds another run; use another --logdir, or --resume=never to move it aside:"
                + bullet_list(differences)
            )
    rundir.config.write_text(config_lib.to_json(config))
    rundir.flags.write_text(flags.to_flagfile(config))
    return progress
