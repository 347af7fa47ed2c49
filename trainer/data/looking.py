"""Whether the data of a run is there, found without TensorFlow."""

from __future__ import annotations

import difflib
from pathlib import Path

from trainer.data.manifest import MANIFEST, check_shards, load_manifest
from trainer.data.spec import DataError, DatasetSpec
from trainer.errors import UsageError
from trainer.settings.data import DATASETS


def open_data(dataset: str, folder: Path) -> DatasetSpec:
    """Reads the manifest of a converted data set.

    Args:
      dataset: its name; empty: any.
      folder: where it lies.

    Raises:
      DataError: there is none, or it cannot be read.
      UsageError: the directory holds another data set.
    """
    if not (folder / MANIFEST).is_file():
        close = difflib.get_close_matches(dataset.lower(), DATASETS, n=1)
        hint = f" (did you mean --dataset={close[0]}?)" if close and dataset not in DATASETS else ""
        what = f"--dataset={dataset}" if dataset in DATASETS else "--source=FOLDER_OF_PICTURES"
        embedded = "" if dataset else "; --dataset=digits needs none"
        raise DataError(
            f"{folder} holds no {MANIFEST}{hint}; convert the data first: "
            f"python -m trainer.convert {what} --data_dir={folder}{embedded}"
        )
    found = load_manifest(folder)
    if dataset and found.name != dataset:
        raise UsageError(f"{folder} holds {found.name}, not --dataset={dataset}; give another --data_dir")
    return found


def check_data(dataset: str, folder: Path) -> None:
    """Looks whether all shards of a data set are there, each of its size; the embedded digits always are.

    Raises:
      DataError, UsageError: as `open_data`, or a shard is missing or of another size.
    """
    if dataset != "digits" or (folder / MANIFEST).is_file():
        check_shards(open_data(dataset, folder))
