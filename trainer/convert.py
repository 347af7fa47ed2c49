"""Converts pictures into TFRecord shards: `python -m trainer.convert --source=DIR --data_dir=data/mine`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import Console, exit_program, run_program
from trainer.errors import OK, UsageError, unknown_name
from trainer.grammars import MAX_PIXELS, MAX_STEPS
from trainer.settings import flags
from trainer.settings.data import DATASETS
from trainer.settings.fields import between, check_fields, option
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.data.sources import named
    from trainer.data.spec import DatasetSpec

KINDS = {"folders": "pictures", "list": "a list", "arrays": "arrays", "tfrecord": "shards", "binary": "binary files"}
# The flags of each kind.
OF_FILES = ("split", "shards", "deduplicate", "balance", "store", "skip_corrupt", "max_pixels")
USED_BY = {
    "folders": OF_FILES,
    "list": OF_FILES,
    "arrays": ("split", "shards"),
    "tfrecord": ("files", "features", "preset", "label_offset", "label_of", "skip_corrupt", "max_pixels"),
    "binary": ("files", "label_offset", "record"),
}
OF_OWN = {name for names in USED_BY.values() for name in names}
USAGE = (
    "python -m trainer.convert --source=WHAT [--split=80/10/10] [--data_dir=DIR], or "
    "--dataset=NAME [--source_dir=DIR] [--data_dir=DIR]"
)


@dataclass(frozen=True)
class ConvertSettings:
    dataset: str = option("", f"data set: {', '.join(DATASETS)}; with --source its name (default: that of the folder)")
    source: str = option(
        "",
        "your pictures: a folder with one for each class (or such in train, val, test), a list (CSV or TSV with path, "
        "label or target:NAME, and perhaps split and boxes), arrays (.npz, or a folder of .npy, with x_train, y_train "
        "...), or a folder of TFRecord shards, which stay where they are",
        path=True,
    )
    kind: str = option(
        "", "of --source, where it is not to be recognized: folders, list, arrays or tfrecord", ("", *KINDS)
    )
    split: str = option("80/10/10", "with --source: shares of training, validation and test that it does not tell")
    deduplicate: bool = option(False, "with --source: leave out pictures that are there once more")
    balance: float = option(
        0.0,
        "with --source: training pictures of rare classes are there more often; 1: all classes as often as the largest",
        legal=between(0, 1),
    )
    store: str = option(
        "encoded",
        "with --source: encoded keeps the bytes of JPEG and PNG files; paths only where these lie; decoded keeps "
        "pixels, of pictures of one shape; decoded:160 resizes to that shorter side before",
    )
    skip_corrupt: int = option(
        0, "with --source: damaged pictures that are left out; 0: the first is an error", legal=between(0, MAX_STEPS)
    )
    max_pixels: int = option(MAX_PIXELS, "with --source: a picture with more is damaged", legal=between(1, MAX_PIXELS))
    files: str = option("", "shards of each split, as train=GLOB,validation=GLOB (default: by their names)")
    features: str = option(
        "",
        "features of the shards' records, as image=image/encoded,label=image/class/label; also image_raw with height, "
        "width, depth; text (names of classes); boxes",
    )
    preset: str = option("", "the same by name: slim or detection (default: what the first record has)")
    record: str = option(
        "",
        "of --kind=binary: how a record is made, as label:1,image:3072,shape=32x32x3,order=CHW (other names: skipped)",
    )
    label_offset: int = option(0, "is subtracted from the shards' labels", legal=between(-MAX_STEPS, MAX_STEPS))
    label_of: str = option("", "of shards whose pictures have several objects: first or largest gives the label")
    source_dir: str = option("", "folder of the original files (default: download them)", path=True)
    data_dir: str = option("", "where the shards go (default: data/DATASET)", path=True)
    download_dir: str = option("", "where downloads are kept (default: data/downloads/DATASET)", path=True)
    shards: int = option(10, "files of the training split", legal=between(1, 1000))


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_convert, argv)


def _convert(argv: Sequence[str], console: Console, _: Signals) -> int:
    settings: ConvertSettings = flags.parse_flags(ConvertSettings, argv, USAGE)
    check_fields(settings)
    dataset = _check_name(settings)
    settings = dataclasses.replace(settings, dataset=dataset)
    data_dir = Path(settings.data_dir or f"data/{dataset}").absolute()
    start = time.monotonic()

    from trainer.data import conversion, manifest, records  # TensorFlow is imported after parsing.
    from trainer.data.sources import named

    if conversion.is_converted(dataset, data_dir):
        found = manifest.load_manifest(data_dir)
        manifest.check_shards(found)
        records.check_checksums(found)
        given = next((name for name in ("source", "source_dir") if getattr(settings, name)), None)
        unread = f"; --{given}={getattr(settings, given)} was not looked at" if given else ""
        console.say(f"{data_dir} already holds {describe(found)}; nothing to do{unread}")
        return OK
    kind = _kind_of(settings)
    if kind in ("tfrecord", "binary"):
        written = _index(settings, kind, dataset, data_dir, console)
        console.say(f"indexed {describe(written)} in {time.monotonic() - start:.1f} s; {data_dir} needs the shards")
        return OK
    if kind:
        source, source_dir = _own_source(settings, kind, console), Path(settings.source)
    else:
        source = named.SOURCES[dataset]
        source_dir = _source_dir(settings, source, console)
    written = conversion.convert(
        dataset, source, source_dir=source_dir, data_dir=data_dir, num_shards=settings.shards, console=console
    )
    console.say(f"wrote {describe(written)} to {data_dir} in {time.monotonic() - start:.1f} s")
    return OK


def _check_name(settings: ConvertSettings) -> str:
    """Chooses the name of the data set; refuses flags of own pictures without any.

    Raises:
      UsageError: there is no such data set, or no such folder.
    """
    if not settings.source:
        defaults = ConvertSettings()
        names = {"kind", *OF_OWN} - {"shards"}
        given = sorted(name for name in names if getattr(settings, name) != getattr(defaults, name))
        if given:
            raise UsageError(f"--{given[0]} is of your own pictures: give them by --source")
        if (settings.dataset or "mnist") not in DATASETS:
            raise unknown_name("dataset", settings.dataset, DATASETS)
        return settings.dataset or "mnist"
    if settings.source_dir or settings.download_dir:
        raise UsageError("--source is of your own pictures, --source_dir and --download_dir of a data set with a name")
    source = Path(settings.source)
    if not source.exists():
        raise UsageError(f"--source={source}: no such file or folder; wanted a folder, a list or arrays (--help)")
    return settings.dataset or (source.absolute().name if source.is_dir() else source.stem)


def _kind_of(settings: ConvertSettings) -> str:
    """Recognizes what --source holds; empty where there is none.

    Raises:
      UsageError: a flag is of another kind.
    """
    from trainer.data.sources import arrays, shards

    if not settings.source:
        return ""
    source, kind = Path(settings.source), settings.kind
    if not kind:
        kinds = {"arrays": arrays.holds_arrays, "tfrecord": shards.holds_shards, "folders": Path.is_dir}
        kind = next((name for name, holds in kinds.items() if holds(source)), "list")
    default = ConvertSettings()
    for name in sorted(OF_OWN - set(USED_BY[kind])):
        if getattr(settings, name) != getattr(default, name):
            raise UsageError(f"--{name} is not of --source={source}, which holds {KINDS[kind]}")
    return kind


def _index(settings: ConvertSettings, kind: str, dataset: str, data_dir: Path, console: Console) -> DatasetSpec:
    from trainer.data import conversion
    from trainer.data.sources import binary_files, indexing, shards

    wanted = shards.Wanted(
        settings.files,
        settings.features,
        settings.preset,
        settings.label_offset,
        settings.label_of,
        settings.skip_corrupt,
        settings.max_pixels,
    )
    source = Path(settings.source)
    if kind == "binary":
        return conversion.write_aside(
            data_dir, lambda folder: binary_files.index(dataset, source, wanted, settings.record, folder, console)
        )
    return conversion.write_aside(data_dir, lambda folder: indexing.index(dataset, source, wanted, folder, console))


def _own_source(settings: ConvertSettings, kind: str, console: Console) -> named.Source:
    from trainer.data.sources import arrays, own
    from trainer.data.sources.splitting import parse_shares

    source, shares = Path(settings.source), parse_shares(settings.split)
    if kind == "arrays":
        return arrays.make_source(source, shares, console)
    store = own.parse_store(settings.store)
    wanted = own.Wanted(
        shares, store, settings.skip_corrupt, settings.deduplicate, settings.max_pixels, settings.balance
    )
    return own.open_source(source, wanted, console, is_list=kind == "list")


def _source_dir(settings: ConvertSettings, source: named.Source, console: Console) -> Path:
    if settings.source_dir:
        if settings.download_dir:
            raise UsageError("--source_dir and --download_dir conflict: give one of them")
        folder = Path(settings.source_dir)
        if not folder.is_dir():
            raise UsageError(f"--source_dir={folder}: no such directory")

        from trainer.data.sources.named import refuse_files_of_another

        refuse_files_of_another(settings.dataset, folder)
        return folder

    from trainer.data.sources.download import download

    folder = Path(settings.download_dir or f"data/downloads/{settings.dataset}")
    for file in source.files:
        console.say(f"downloading {file.name} ({file.num_bytes:,} bytes)")
        download(file, source.mirrors, folder, say=console.say)
    return folder


def describe(found: DatasetSpec) -> str:
    counts = ", ".join(f"{found.num_examples(split):,} {split}" for split in found.splits)
    shape = "x".join(str(size) for size in found.stored_shape)
    if None in found.stored_shape:
        shape = f"several sizes, in {found.stored_shape[2]} channels"
    size = sum(shard.num_bytes for shards in found.splits.values() for shard in shards)
    return f"{found.name}: {counts} images of {shape}, {size / 2**20:,.1f} MiB"


if __name__ == "__main__":
    exit_program(main())
