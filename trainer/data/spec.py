"""What is known of a data set without reading a record: enough to build any graph on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trainer.errors import TrainerError

SPLITS = ("train", "validation", "test")
IMAGE, LABEL = "image", "label"  # features that every data set has
# Kinds of label: the number of one class, int32 []; several classes, float32 [classes]; numbers, float32 [n].
CLASS, SEVERAL, NUMBERS = "class", "several", "numbers"
LABEL_KINDS = (CLASS, SEVERAL, NUMBERS)
Label = int | tuple[int, ...] | tuple[float, ...]  # of an example, by kind: class, classes, numbers


class DataError(TrainerError):
    """Data on disk is missing, damaged, or not what its manifest says."""


class Box(NamedTuple):
    """An object in a picture: fractions of its height and width, unless it says pixels."""

    ymin: float
    xmin: float
    ymax: float
    xmax: float


class Feature(NamedTuple):
    """What an example has, as the graph gets it."""

    dtype: str
    shape: tuple[int | None, ...]  # None where each example has another size


COMPRESSIONS = ("", "GZIP", "ZLIB")  # as TFRecordOptions name them
LABEL_OF = ("", "first", "largest")  # which object gives a picture its label; empty: it has one label


class RecordFields(NamedTuple):
    """How records hold a picture and its label; the default is how this program writes them."""

    image: str = "image"  # feature of the bytes of a JPEG or PNG
    image_raw: str = "image_raw"  # feature of the pixels, where they are not encoded
    label: str = "label"  # feature
    boxes: str = ""  # features of the objects, without /xmin, /ymin, /xmax, /ymax: in the upright picture, 0..1
    label_offset: int = 0  # is subtracted from what the feature holds
    label_of: str = ""  # of LABEL_OF
    # Do the records tell `height`, `width` and `orientation` of the upright picture? Else its bytes tell the sides, and
    # it lies in them upright.
    are_sized: bool = True
    path: str = ""  # feature of the path of an image file, in the place of its bytes; empty: all hold these
    binary: str = ""  # no Examples, but binary records, as `binary.parse_layout` reads it
    generator: str = ""  # function of the user's, which gives the training set; only the other splits lie in shards

    def corners(self) -> tuple[str, ...]:
        """Returns the features of the boxes' corners, in the order of `Box`."""
        return tuple(f"{self.boxes}/{corner}" for corner in Box._fields)


OWN_FIELDS = RecordFields()
FILE_BYTES = "file_bytes"  # feature of the size of the file at a record's path: another one's is another picture


@dataclass(frozen=True)
class Shard:
    """A file of records."""

    file: str  # in the data set's directory, or absolute
    num_examples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: what its examples are, and the shards in which they lie."""

    name: str
    features: Mapping[str, Feature]  # IMAGE uint8 [height, width, depth], LABEL
    label_kind: str  # of LABEL_KINDS
    class_names: tuple[str, ...]  # of NUMBERS, what each is of
    attribution: str
    splits: Mapping[str, tuple[Shard, ...]]
    data_dir: Path  # of the shards; the same shards may lie elsewhere on another machine
    # Where records hold JPEG or PNG: the least height and width of all. None: they hold pixels.
    smallest: tuple[int, int] | None = None
    fields: RecordFields = OWN_FIELDS
    compression: str = ""  # of the shards, of COMPRESSIONS

    @property
    def is_encoded(self) -> bool:
        return self.smallest is not None

    @property
    def has_boxes(self) -> bool:
        """Do records tell where in the pictures their objects are?"""
        return bool(self.fields.boxes)

    @property
    def stored_shape(self) -> tuple[int | None, int | None, int]:
        """Returns height, width and depth; None where the images have several."""
        height, width, depth = self.features[IMAGE].shape
        assert depth
        return height, width, depth

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Returns height, width and depth, which all images here have in common."""
        height, width, depth = self.features[IMAGE].shape
        assert height and width and depth
        return height, width, depth

    @property
    def image_bytes(self) -> int:
        height, width, depth = self.image_shape
        return height * width * depth

    @property
    def bytes_in_memory(self) -> int:
        """Returns what an image of the training set takes while it waits to be shuffled, on average."""
        if not self.is_encoded:
            return self.image_bytes
        shards = self.splits["train"]
        return max(1, sum(shard.num_bytes for shard in shards) // sum(shard.num_examples for shard in shards))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def with_labels_offset(self, offset: int) -> DatasetSpec:
        """Returns the same data with labels that are less by so many; -1 puts a class `background` first.

        Raises:
          DataError: labels are no classes, or none is left.
        """
        if not offset:
            return self
        names = self.class_names[offset:] if offset > 0 else ("background",) * -offset + self.class_names
        if self.label_kind != CLASS or not names:
            raise DataError(
                f"--labels_offset={offset} is for data with one class a picture, of more than {offset}; those of "
                f"{self.data_dir} are {self.label_kind}, {len(self.class_names)}"
            )
        fields = self.fields._replace(label_offset=self.fields.label_offset + offset)
        return dataclasses.replace(self, class_names=names, fields=fields)

    def num_examples(self, split: str) -> int:
        return sum(shard.num_examples for shard in self.splits[split])

    def stored(self) -> dict[str, tuple[Shard, ...]]:
        """Returns the splits that lie in shards."""
        return {name: shards for name, shards in self.splits.items() if name != "train" or not self.fields.generator}

    def path_of(self, shard: Shard) -> Path:
        return self.data_dir / shard.file

    def digest_of(self, split: str) -> str:
        """Returns 16 hexadecimal digits that stand for the records of a split and their order in its shards."""
        shards = [(Path(shard.file).name, shard.num_examples, shard.sha256) for shard in self.splits[split]]
        reading = [] if self.fields == OWN_FIELDS else [self.fields]
        return hashlib.sha256(json.dumps([*shards, *reading]).encode()).hexdigest()[:16]

    def to_values(self) -> dict[str, Any]:
        """Returns the content of a manifest: all but the directory."""
        return {
            "dataset": self.name,
            "features": {name: feature._asdict() for name, feature in self.features.items()},
            "label_kind": self.label_kind,
            "class_names": list(self.class_names),
            "smallest": self.smallest and list(self.smallest),
            "fields": self.fields._asdict(),
            "compression": self.compression,
            "attribution": self.attribution,
            "splits": {name: [dataclasses.asdict(shard) for shard in shards] for name, shards in self.splits.items()},
        }


def describe_images(
    name: str,
    image_shape: tuple[int | None, int | None, int],
    class_names: tuple[str, ...],
    splits: Mapping[str, tuple[Shard, ...]],
    data_dir: Path,
    attribution: str = "",
    smallest: tuple[int, int] | None = None,
    label_kind: str = CLASS,
) -> DatasetSpec:
    """Describes images with labels; of several shapes only where they are encoded, see `DatasetSpec`."""
    features = {IMAGE: Feature("uint8", image_shape), LABEL: label_feature(label_kind, len(class_names))}
    return DatasetSpec(name, features, label_kind, class_names, attribution, splits, data_dir, smallest)


def label_feature(kind: str, width: int) -> Feature:
    """Returns what the label of an example is in the graph, of so many classes or numbers."""
    return Feature("int32", ()) if kind == CLASS else Feature("float32", (width,))


def parse_spec(values: Any, data_dir: Path) -> DatasetSpec:
    """Reads what `to_values` has written.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    names, kind = values["class_names"], values["label_kind"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is no list of names")
    if kind not in LABEL_KINDS:
        raise ValueError(f"label_kind is {kind!r}, wanted one of {', '.join(LABEL_KINDS)}")
    features = {str(name): _parse_feature(str(name), found) for name, found in values["features"].items()}
    if not {IMAGE, LABEL} <= set(features) or len(features[IMAGE].shape) != 3:
        raise ValueError(f"features are {sorted(features)}, wanted {IMAGE} [height, width, depth] and {LABEL}")
    if features[LABEL] != label_feature(kind, len(names)):
        raise ValueError(f"{LABEL} is {features[LABEL]}, wanted {label_feature(kind, len(names))} of kind {kind!r}")
    smallest, image = values.get("smallest"), features[IMAGE]
    if image.dtype != "uint8" or (smallest is not None and image.shape[2] not in (1, 3)):
        raise ValueError(
            f"{IMAGE} is {image.dtype} {list(image.shape)}, wanted uint8, and of 1 or 3 channels if encoded"
        )
    if smallest is not None and any(a and b != a for a, b in zip(image.shape, smallest, strict=False)):
        raise ValueError(f"smallest is {smallest} of images {list(image.shape)}")
    if smallest is None and None in features[IMAGE].shape:
        raise ValueError("images of several shapes are encoded, and smallest is missing")
    compression, fields = values.get("compression", ""), _parse_fields(values.get("fields", {}))
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression is {compression!r}, wanted one of {COMPRESSIONS}")
    return DatasetSpec(
        name=str(values["dataset"]),
        features=features,
        label_kind=kind,
        class_names=tuple(names),
        attribution=str(values["attribution"]),
        splits={name: _parse_shards(name, values["splits"][name]) for name in SPLITS},
        data_dir=data_dir,
        smallest=None if smallest is None else (_positive(smallest[0], "smallest"), _positive(smallest[1], "smallest")),
        fields=fields,
        compression=compression,
    )


def _parse_fields(values: Mapping[str, Any]) -> RecordFields:
    fields = RecordFields(**values)
    for name, default in RecordFields()._asdict().items():
        if type(getattr(fields, name)) is not type(default):
            raise ValueError(f"{name} of the records' fields is {getattr(fields, name)!r}")
    if fields.label_of not in LABEL_OF:
        raise ValueError(f"label_of is {fields.label_of!r}, wanted one of {LABEL_OF}")
    return fields


def _parse_feature(name: str, values: Any) -> Feature:
    shape = tuple(size if size is None else _positive(size, f"{name}'s shape") for size in values["shape"])
    if name == IMAGE and (len(shape) != 3 or shape[2] is None):
        raise ValueError(f"{name} has shape {list(shape)}, wanted height, width (or null) and depth")
    return Feature(str(values["dtype"]), shape)


def _parse_shards(split: str, values: list[dict[str, Any]]) -> tuple[Shard, ...]:
    if not values:
        raise ValueError(f"{split} has no shards")
    for shard in values:
        _positive(shard["num_examples"], "num_examples")
        _positive(shard["num_bytes"], "num_bytes")
        if not isinstance(shard["file"], str):
            raise ValueError(f"{shard['file']!r} is no file name")
    return tuple(Shard(**shard) for shard in values)


def _positive(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, wanted a positive whole number")
    return value
