"""`manifest.json`: what lies in a directory of shards, and whether it is still what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.data.framing import GZIP_MAGIC
from trainer.data.spec import DataError, DatasetSpec, Shard, parse_spec
from trainer.errors import UsageError

MANIFEST = "manifest.json"
FORMAT = 2


def save_manifest(spec: DatasetSpec) -> None:
    """Writes the manifest into the directory of the shards."""
    values = {"format": FORMAT, **spec.to_values()}
    (spec.data_dir / MANIFEST).write_text(json.dumps(values, indent=2) + "\n")


def load_manifest(folder: Path) -> DatasetSpec:
    """Reads a directory's manifest.

    Raises:
      DataError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return _parse(json.loads(path.read_text()), folder)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; convert the data first with python -m trainer.convert") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path} is damaged ({what}): remove {folder} and convert the data again") from error


def _parse(values: Any, folder: Path) -> DatasetSpec:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"it has no format {FORMAT}")
    spec = parse_spec(values, folder)
    for shards in spec.splits.values():
        for shard in shards:
            if Path(shard.file).name != shard.file and not Path(shard.file).is_absolute():
                raise ValueError(f"{shard.file!r} is neither a file name nor an absolute path")
    return spec


def run_data_text(spec: DatasetSpec) -> str:
    """Makes the text of a run's `data.json`: the manifest, and where the shards lie."""
    return json.dumps({**spec.to_values(), "data_dir": str(spec.data_dir.absolute())}) + "\n"


def load_run_data(path: Path) -> DatasetSpec:
    """Reads the `data.json` of a run directory, with which its model can be used without the data.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    try:
        values = json.loads(path.read_text())
        return parse_spec(values, Path(str(values["data_dir"])))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; --logdir is the directory of a run that has begun") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(f"{path} is damaged ({error!r}): the next start of its run writes it again") from error


def check_shards(spec: DatasetSpec) -> None:
    """Compares every shard with the manifest: it is there, and has the size that was written.

    Raises:
      DataError: one differs; the message names the first.
    """
    for shards in spec.stored().values():
        for shard in shards:
            path, again = spec.path_of(shard), f"remove {spec.data_dir} and convert the data again"
            if not path.is_file():
                raise DataError(f"{path} is missing: {again}")
            size = path.stat().st_size
            if size != shard.num_bytes:
                with path.open("rb") as file:
                    packed = not spec.compression and file.read(2) == GZIP_MAGIC
                what = "and is compressed by gzip: unpack it, or " if packed else ""
                raise DataError(f"{path} has {size:,} bytes, its manifest says {shard.num_bytes:,}: {what}{again}")


def differing_checksum(spec: DatasetSpec) -> Shard | None:
    """Finds the first shard whose content is not what was written; reads every byte."""
    for shards in spec.stored().values():
        for shard in shards:
            if sha256_of(spec.path_of(shard)) != shard.sha256:
                return shard
    return None


def sha256_of(path: Path) -> str:
    """Computes the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
