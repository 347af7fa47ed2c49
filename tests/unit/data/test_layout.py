"""Layouts of records, against the parser."""

import dataclasses

import numpy as np
import pytest

from trainer.data import framing, records, writing
from trainer.data.layout import find_layout
from trainer.data.manifest import load_manifest
from trainer.data.spec import describe_images

SHAPE = (3, 2, 1)


def write(folder, examples, classes=10):
    shards = writing.write_shards(examples, folder=folder, split="train", num_shards=2, advance=lambda n: None)
    return describe_images("toy", SHAPE, tuple(map(str, range(classes))), {"train": shards}, folder)


def examples(labels):
    rng = np.random.default_rng(1)
    return [(rng.integers(0, 256, SHAPE, np.uint8), label) for label in labels]


@pytest.mark.parametrize("first", [0, 1, 5, 9])
def test_images_and_labels_lie_where_the_layout_says(tmp_path, first):
    """Whatever the first label is: 1 stands at many places of a record."""
    manifest = write(tmp_path, examples([first, *range(10)] * 3))
    layout = find_layout(manifest)
    for shard in manifest.splits["train"]:
        path = tmp_path / shard.file
        content = path.read_bytes()
        for number, (image, label) in enumerate(records.read_examples(path, manifest)):
            frame = content[number * layout.frame_bytes : (number + 1) * layout.frame_bytes]
            assert frame[layout.image : layout.image + 6] == image.tobytes() and frame[layout.label] == label
    known = {*range(layout.image, layout.image + 6), layout.label, *range(layout.frame_bytes - 4, layout.frame_bytes)}
    constant = {offset + place for offset, value in layout.constant for place in range(len(value))}
    assert known | constant == set(range(layout.frame_bytes)) and not known & constant


def test_the_embedded_digits_have_one(digits_dir):
    assert find_layout(load_manifest(digits_dir)) is not None


def test_longer_labels_have_none(tmp_path):
    """From 128 on a label takes two bytes."""
    assert find_layout(write(tmp_path, examples([*range(120, 128)]), classes=200)) is not None
    assert find_layout(write(tmp_path, examples([*range(120, 130)]), classes=200)) is None
    assert find_layout(write(tmp_path, examples([*range(130, 140)]), classes=200)) is None


def rewrite(path, change):
    content = [change(number, record) for number, record in enumerate(framing.read(path))]
    path.write_bytes(b"".join(framing.frame(record) for record in content))


@pytest.mark.parametrize("old, new", [(b"\x0a\x06height", b"\x0a\x06weight"), (b"\x0a\x05label", b"\x0a\x05lapel")])
def test_one_record_of_another_kind_and_there_is_none(tmp_path, old, new):
    manifest = write(tmp_path, examples(range(10)))
    path = tmp_path / manifest.splits["train"][1].file
    rewrite(path, lambda number, record: record.replace(old, new) if number == 3 else record)
    assert find_layout(manifest) is None


def test_a_label_out_of_range_and_there_is_none(tmp_path):
    manifest = write(tmp_path, examples(range(10)))
    fewer = dataclasses.replace(manifest, class_names=manifest.class_names[:9])
    assert find_layout(manifest) is not None and find_layout(fewer) is None
