"""The data sets that `trainer.convert` knows: where their files are, and how their examples are read."""

from __future__ import annotations

import functools
import itertools
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.manifest import sha256_of
from trainer.data.sources import cifar, digits, idx
from trainer.data.sources.download import RemoteFile
from trainer.data.spec import CLASS, OWN_FIELDS, DataError, Label, RecordFields
from trainer.data.writing import Encoded
from trainer.errors import reason

Examples = Iterator[tuple[np.ndarray, Label]] | Iterator[Encoded]
Pixels = Iterator[tuple[np.ndarray, int]]


class Source(NamedTuple):
    """A data set before its conversion."""

    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...]
    sizes: dict[str, int]  # examples of each split
    attribution: str
    read: Callable[[Path, str], Examples]  # (source_dir, split) -> examples
    mirrors: tuple[str, ...] = ()
    files: tuple[RemoteFile, ...] = ()
    smallest: tuple[int, int] | None = None  # where the examples are encoded, the least height and width
    fields: RecordFields = OWN_FIELDS  # of the records that are written
    label_kind: str = CLASS


# The first 5,000 training images are for validation, as in TensorFlow's MNIST tutorial.
NUM_VALIDATION = 5_000
DIGIT_NAMES = tuple(str(digit) for digit in range(10))
CIFAR_URL = "https://www.cs.toronto.edu/~kriz"


def _read_idx_split(folder: Path, split: str) -> Pixels:
    part = "t10k" if split == "test" else "train"
    images_path = idx.find_idx(folder, f"{part}-images-idx3-ubyte")
    labels_path = idx.find_idx(folder, f"{part}-labels-idx1-ubyte")
    pairs = itertools.zip_longest(idx.read_idx(images_path, 3), idx.read_idx(labels_path, 1))
    return _choose(_checked(pairs, images_path, labels_path), split)


def _checked(pairs: Iterator[tuple[np.ndarray, np.ndarray]], images_path: Path, labels_path: Path) -> Pixels:
    for number, (image, label) in enumerate(pairs):
        if image is None or label is None:
            raise DataError(f"{images_path} and {labels_path} hold different numbers of examples")
        if image.shape != (28, 28):
            raise DataError(f"{images_path} holds images of {image.shape}, wanted (28, 28)")
        yield image[..., np.newaxis], _check_label(int(label), labels_path, number)


def _check_label(label: int, path: Path, number: int, num_classes: int = 10) -> int:
    if label >= num_classes:
        raise DataError(f"{path}: label {label} of example {number} is out of range 0..{num_classes - 1}")
    return label


def _choose(examples: Pixels, split: str) -> Pixels:
    if split == "validation":
        # All are read, so that what is wrong behind the last validation image is seen here too.
        return (example for number, example in enumerate(examples) if number < NUM_VALIDATION)
    return examples if split == "test" else itertools.islice(examples, NUM_VALIDATION, None)


def _read_cifar_split(version: cifar.Version, folder: Path, split: str) -> Pixels:
    folder = _unpacked(version, folder)
    names = (version.test,) if split == "test" else version.train
    return _choose(itertools.chain.from_iterable(_read_cifar_file(version, folder / name) for name in names), split)


def _read_cifar_file(version: cifar.Version, path: Path) -> Pixels:
    for number, (image, label) in enumerate(cifar.read_cifar(path, version)):
        yield image, _check_label(label, path, number, len(version.class_names))


def _unpacked(version: cifar.Version, folder: Path) -> Path:
    """Finds the folder of the batches; unpacks the archive if only that is there."""
    inner, packed = folder / version.folder, folder / version.archive
    if (folder / version.test).is_file():
        return folder
    if not (inner / version.test).is_file() and packed.is_file():
        try:
            with tarfile.open(packed) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{packed} is damaged: {reason(error)}") from error
    return inner if inner.is_dir() else folder


def _cifar_source(version: cifar.Version, name: str, num_bytes: int, sha256: str) -> Source:
    return Source(
        image_shape=(32, 32, 3),
        class_names=version.class_names,
        sizes={"train": 45_000, "validation": 5_000, "test": 10_000},
        attribution=f"{name}, A. Krizhevsky, 2009, {CIFAR_URL}/cifar.html",
        read=functools.partial(_read_cifar_split, version),
        mirrors=(CIFAR_URL,),
        files=(RemoteFile(version.archive, num_bytes, sha256),),
    )


CIFAR100_ARCHIVE = (168_513_733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec")


def _idx_files(*checksums: tuple[int, str]) -> tuple[RemoteFile, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(RemoteFile(f"{name}-ubyte.gz", *check) for name, check in zip(names, checksums, strict=True))


SOURCES = {
    "digits": Source(
        image_shape=(8, 8, 1),
        class_names=DIGIT_NAMES,
        sizes={"train": 1_258, "validation": 180, "test": 359},
        attribution=digits.ATTRIBUTION,
        read=lambda _, split: digits.read_digits(split),
    ),
    "mnist": Source(
        image_shape=(28, 28, 1),
        class_names=DIGIT_NAMES,
        sizes={"train": 55_000, "validation": 5_000, "test": 10_000},
        attribution="MNIST, Y. LeCun, C. Cortes and C. Burges, http://yann.lecun.com/exdb/mnist/",
        read=_read_idx_split,
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist",
        ),
        files=_idx_files(
            (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    ),
    "fashion_mnist": Source(
        image_shape=(28, 28, 1),
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        sizes={"train": 55_000, "validation": 5_000, "test": 10_000},
        attribution="Fashion-MNIST, H. Xiao, K. Rasul and R. Vollgraf, 2017, https://arxiv.org/abs/1708.07747, MIT",
        read=_read_idx_split,
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ),
        files=_idx_files(
            (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    ),
    "cifar10": _cifar_source(
        cifar.CIFAR10, "CIFAR-10", 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    ),
    "cifar100": _cifar_source(cifar.CIFAR100, "CIFAR-100", *CIFAR100_ARCHIVE),
    "cifar100_coarse": _cifar_source(cifar.CIFAR100_COARSE, "CIFAR-100 by its 20 superclasses", *CIFAR100_ARCHIVE),
}


def refuse_files_of_another(dataset: str, folder: Path) -> None:
    """Recognizes files of another data set under the same names, as of MNIST and Fashion-MNIST.

    Raises:
      DataError: one was found.
    """
    for other, source in SOURCES.items():
        for file in source.files if source.files != SOURCES[dataset].files else ():
            path = folder / file.name
            if path.is_file() and path.stat().st_size == file.num_bytes and sha256_of(path) == file.sha256:
                raise DataError(f"{path} is a file of {other}, not of {dataset}; give another --source_dir")
