"""Whether the data of a run is there, found without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from trainer.data.manifest import MANIFEST, check_shards, load_manifest
from trainer.data.spec import DataError, DatasetSpec
from trainer.errors import UsageError


def open_data(dataset: str, folder: Path) -> DatasetSpec:
    """Reads the manifest of a converted data set.

    Raises:
      DataError: there is none, or it cannot be read.
      UsageError: the directory holds another data set.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} holds no {MANIFEST}; convert the data first: "
            f"python -m trainer.convert --dataset={dataset} --data_dir={folder}"
        )
    found = load_manifest(folder)
    if found.name != dataset:
        raise UsageError(f"{folder} holds {found.name}, not --dataset={dataset}; give another --data_dir")
    return found


def check_data(dataset: str, folder: Path) -> None:
    """Looks whether all shards of a data set are there, each of its size; the embedded digits always are.

    Raises:
      DataError, UsageError: as `open_data`, or a shard is missing or of another size.
    """
    if dataset != "digits" or (folder / MANIFEST).is_file():
        check_shards(open_data(dataset, folder))
