"""Converts a data set into TFRecord shards: `python -m trainer.convert --dataset=mnist --data_dir=data/mnist`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import Console, exit_program, run_program
from trainer.errors import OK, UsageError, unknown_name
from trainer.settings import flags
from trainer.settings.data import DATASETS
from trainer.settings.fields import option
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.data import sources
    from trainer.data.spec import DatasetSpec

USAGE = "python -m trainer.convert --dataset=NAME [--source_dir=DIR] [--data_dir=DIR]"


@dataclass(frozen=True)
class ConvertSettings:
    dataset: str = option("mnist", "data set", DATASETS)
    source_dir: str = option("", "folder of the original files (default: download them)", path=True)
    data_dir: str = option("", "where the shards go (default: data/DATASET)", path=True)
    download_dir: str = option("", "where downloads are kept (default: data/downloads/DATASET)", path=True)
    shards: int = option(10, "files of the training split")


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_convert, argv)


def _convert(argv: Sequence[str], console: Console, _: Signals) -> int:
    settings: ConvertSettings = flags.parse_flags(ConvertSettings, argv, USAGE)
    if settings.dataset not in DATASETS:
        raise unknown_name("dataset", settings.dataset, DATASETS)
    if not 1 <= settings.shards <= 1000:
        raise UsageError(f"shards={settings.shards} is out of range: 1 to 1000")
    data_dir = Path(settings.data_dir or f"data/{settings.dataset}").absolute()
    start = time.monotonic()

    from trainer.data import conversion, manifest, records, sources  # TensorFlow is imported after parsing.

    if conversion.is_converted(settings.dataset, data_dir):
        found = manifest.load_manifest(data_dir)
        manifest.check_shards(found)
        records.check_checksums(found)
        unread = f"; --source_dir={settings.source_dir} was not looked at" if settings.source_dir else ""
        console.say(f"{data_dir} already holds {describe(found)}; nothing to do{unread}")
        return OK
    source = sources.SOURCES[settings.dataset]
    source_dir = _source_dir(settings, source, console)
    written = conversion.convert(
        settings.dataset, source, source_dir=source_dir, data_dir=data_dir, num_shards=settings.shards, console=console
    )
    console.say(f"wrote {describe(written)} to {data_dir} in {time.monotonic() - start:.1f} s")
    return OK


def _source_dir(settings: ConvertSettings, source: sources.Source, console: Console) -> Path:
    if settings.source_dir:
        if settings.download_dir:
            raise UsageError("--source_dir and --download_dir conflict: give one of them")
        folder = Path(settings.source_dir)
        if not folder.is_dir():
            raise UsageError(f"--source_dir={folder}: no such directory")

        from trainer.data.sources import refuse_files_of_another

        refuse_files_of_another(settings.dataset, folder)
        return folder

    from trainer.data.download import download

    folder = Path(settings.download_dir or f"data/downloads/{settings.dataset}")
    for file in source.files:
        console.say(f"downloading {file.name} ({file.num_bytes:,} bytes)")
        download(file, source.mirrors, folder, say=console.say)
    return folder


def describe(found: DatasetSpec) -> str:
    counts = ", ".join(f"{found.num_examples(split):,} {split}" for split in found.splits)
    return f"{found.name}: {counts} images of {'x'.join(str(size) for size in found.image_shape)}"


if __name__ == "__main__":
    exit_program(main())
