"""`manifest.json`: what lies in a directory of shards, and whether it is still what was written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

MANIFEST = "manifest.json"
FORMAT = 1
SPLITS = ("train", "validation", "test")


class DataError(TrainerError):
    """Data on disk is missing, damaged, or not what its manifest says."""


@dataclass(frozen=True)
class Shard:
    file: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Describes the shards of one data set."""

    dataset: str
    image_shape: tuple[int, int, int]  # height, width, depth
    class_names: tuple[str, ...]
    attribution: str
    splits: dict[str, tuple[Shard, ...]]

    def num_examples(self, split: str) -> int:
        return sum(shard.num_examples for shard in self.splits[split])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_bytes(self) -> int:
        height, width, depth = self.image_shape
        return height * width * depth


def save_manifest(manifest: Manifest, folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(manifest)}, indent=2) + "\n")


def load_manifest(folder: Path) -> Manifest:
    """Reads a directory's manifest.

    Raises:
      DataError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return _parse(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; convert the data first with python -m trainer.convert") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}): remove {folder} and convert the data again") from error


def _parse(values: dict[str, Any]) -> Manifest:
    if values["format"] != FORMAT:
        raise ValueError(f"format {values['format']}, wanted {FORMAT}")
    height, width, depth = (int(size) for size in values["image_shape"])
    return Manifest(
        dataset=str(values["dataset"]),
        image_shape=(height, width, depth),
        class_names=tuple(values["class_names"]),
        attribution=str(values["attribution"]),
        splits={name: tuple(Shard(**shard) for shard in values["splits"][name]) for name in SPLITS},
    )


def check_shards(manifest: Manifest, folder: Path) -> None:
    """Compares every shard with the manifest: it is there, and has the size and the sha256 that were written.

    Raises:
      DataError: one differs; the message names the first.
    """
    for shards in manifest.splits.values():
        for shard in shards:
            path = folder / shard.file
            if not path.is_file():
                raise DataError(f"{path} is missing: remove {folder} and convert the data again")
            size = path.stat().st_size
            if size != shard.num_bytes:
                raise DataError(
                    f"{path} has {size:,} bytes, its manifest says {shard.num_bytes:,}: "
                    f"remove {folder} and convert the data again"
                )


def differing_checksum(manifest: Manifest, folder: Path) -> Shard | None:
    """Finds the first shard whose content is not what was written; reads every byte."""
    for shards in manifest.splits.values():
        for shard in shards:
            if sha256_of(folder / shard.file) != shard.sha256:
                return shard
    return None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
