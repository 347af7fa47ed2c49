"""Damaged shards without their damaged records, where the user allows to lose some."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainer.data.framing import frame, scan
from trainer.data.manifest import sha256_of
from trainer.data.records import parse_record
from trainer.data.spec import DataError, DatasetSpec, Shard


class Damage(NamedTuple):
    """A shard whose bytes are not what was converted."""

    shard: Shard
    num_lost: int  # records
    faults: list[str]  # what is wrong, with record and byte


class Salvage(NamedTuple):
    """What can be read of a data set."""

    damages: list[Damage]

    @property
    def num_lost(self) -> int:
        return sum(damage.num_lost for damage in self.damages)


def find_damage(spec: DatasetSpec, limit: int) -> Salvage:
    """Reads every byte of every shard, and every record of those that are damaged.

    Raises:
      DataError: more than `limit` records are lost, or a shard is missing, or is another one than was converted.
    """
    damages = []
    # Each once: the same shards may stand for two splits.
    for shard in {shard.file: shard for shards in spec.stored().values() for shard in shards}.values():
        path = spec.path_of(shard)
        if not path.is_file():
            raise DataError(f"{path} is missing or no file: --skip_corrupt skips records, not shards")
        if path.stat().st_size != shard.num_bytes or sha256_of(path) != shard.sha256:
            damages.append(_examine(path, shard, spec))
        found = Salvage(damages)
        if found.num_lost > limit:
            raise DataError(
                f"{found.num_lost} records or more are damaged, more than --skip_corrupt={limit}; "
                f"the first: {_first(found)}"
            )
    return Salvage(damages)


def _first(found: Salvage) -> str:
    return next(fault for damage in found.damages for fault in damage.faults)


def _examine(path: Path, shard: Shard, spec: DatasetSpec) -> Damage:
    if spec.compression:
        raise DataError(f"{path} is not what it was: a {spec.compression} stream has no whole records behind damage")
    if spec.fields.binary:
        raise DataError(f"{path} is not what it was: binary records have no checksums that tell which are whole")
    faults: list[str] = []
    count = sum(1 for _ in _good_records(path, spec, faults))
    if count > shard.num_examples:
        raise DataError(f"{path} holds {count:,} whole records, its manifest says {shard.num_examples:,}")
    if not faults and count == shard.num_examples:
        raise DataError(f"{path} is not what was converted: its records are whole, but not those of the manifest")
    if not faults:
        faults.append(f"{path}: the file ends after {count:,} of its records")
    return Damage(shard, shard.num_examples - count, faults)


def _good_records(path: Path, spec: DatasetSpec, faults: list[str]) -> Iterator[bytes]:
    """Yields the records that can be trained on; tells what is wrong with the others."""
    for number, (offset, data) in enumerate(scan(path.read_bytes())):
        where = f"{path}: record {number} at byte {offset}"
        if data is None:
            faults.append(f"{where} is damaged")
            continue
        try:
            parse_record(data, spec)
        except ValueError as error:
            faults.append(f"{where}: {error}")
            continue
        yield data


def write_clean_shards(found: Salvage, spec: DatasetSpec, into: Path) -> DatasetSpec:
    """Writes what is left of damaged shards to `into`; returns what is then to be read.

    The same damage always gives the same shards, so that a run that goes on reads the same records.

    Raises:
      DataError: nothing is left of a split.
    """
    into.mkdir(exist_ok=True)
    clean = {damage.shard.file: _write_clean(spec.path_of(damage.shard), spec, into) for damage in found.damages}
    splits = {}
    for split, shards in spec.splits.items():
        left = tuple(clean.get(shard.file, shard) for shard in shards)
        splits[split] = tuple(shard for shard in left if shard.num_examples)
        if not splits[split]:
            raise DataError(f"{spec.data_dir}: no record of the {split} set is whole")
    return dataclasses.replace(spec, splits=splits)


def _write_clean(path: Path, spec: DatasetSpec, into: Path) -> Shard:
    # Shards of other programs lie in several folders, perhaps under the same name.
    folder = "" if path.parent == spec.data_dir else f"{hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:8]}-"
    target = (into / f"{folder}{path.name}").resolve()
    count = 0
    with target.open("wb") as file:
        for data in _good_records(path, spec, []):
            file.write(frame(data))
            count += 1
    return Shard(str(target), count, target.stat().st_size, sha256_of(target))
