import os
import signal
import time

import numpy as np
import pytest

from trainer.console import Console
from trainer.data import conversion
from trainer.data.manifest import load_manifest
from trainer.data.sources.named import SOURCES, Source
from trainer.data.spec import DataError
from trainer.errors import UsageError


def make_source(examples, size=None):
    return Source(
        image_shape=(2, 2, 1),
        class_names=("a", "b"),
        sizes=dict.fromkeys(("train", "validation", "test"), size or 10),
        attribution="",
        read=lambda _, split: examples(split),
    )


def few(split):
    return ((np.full((2, 2, 1), number, np.uint8), number % 2) for number in range(10))


def convert(source, data_dir, **settings):
    settings = {"dataset": "toy", "source_dir": data_dir, "num_shards": 3, "console": Console(), **settings}
    return conversion.convert(source=source, data_dir=data_dir, **settings)


def test_examples_are_dealt_out_evenly(tmp_path):
    found = convert(make_source(few), tmp_path / "toy")
    assert [shard.num_examples for shard in found.splits["train"]] == [4, 3, 3]
    assert load_manifest(tmp_path / "toy") == found


def test_a_failed_conversion_leaves_nothing(tmp_path):
    def broken(split):
        yield from few(split)
        raise DataError("the source is damaged")

    with pytest.raises(DataError, match="the source is damaged"):
        convert(make_source(broken), tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [9, 11, 1000])
def test_another_number_of_examples_than_the_set_has_is_refused(tmp_path, size):
    with pytest.raises(DataError, match=f"gives 10 train examples, toy has {size:,}; are all its files there"):
        convert(make_source(few, size), tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_another_set_are_recognized(mnist_files):
    """Its labels and test images are the original files; Fashion-MNIST's have the same names."""
    from trainer.data.sources.named import refuse_files_of_another

    refuse_files_of_another("mnist", mnist_files)
    with pytest.raises(
        DataError, match=r"ubyte.gz is a file of mnist, not of fashion_mnist; give another --source_dir"
    ):
        refuse_files_of_another("fashion_mnist", mnist_files)


def test_a_conversion_that_was_overtaken_gives_way(tmp_path):
    def overtaken(split):
        if not (tmp_path / "toy").exists():
            convert(make_source(few), tmp_path / "faster")
            (tmp_path / "faster").rename(tmp_path / "toy")
        return few(split)

    convert(make_source(overtaken), tmp_path / "toy")
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_directory_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is in the way"):
        conversion.is_converted("toy", tmp_path)
    convert(make_source(few), tmp_path / "toy")
    assert conversion.is_converted("toy", tmp_path / "toy")
    with pytest.raises(UsageError, match="holds toy, not mnist"):
        conversion.is_converted("mnist", tmp_path / "toy")
    assert not conversion.is_converted("toy", tmp_path / "absent")


def test_memory_does_not_grow_with_the_set(tmp_path):
    """Forty times the images, each of 16 KiB, in the same memory."""
    import tracemalloc

    def peak(count, name):
        def examples(split):
            return ((np.zeros((128, 128, 1), np.uint8), 0) for _ in range(count))

        tracemalloc.start()
        source = make_source(examples, count)._replace(image_shape=(128, 128, 1))
        convert(source, tmp_path / name)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10, "warm-up")
    small, large = peak(50, "small"), peak(2000, "large")
    assert large < small + (4 << 20)  # 32 MB of images more


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_killed_conversion_leaves_nothing_that_looks_finished(program, run_program, mnist_files, tmp_path):
    args = ["--dataset=mnist", f"--source_dir={mnist_files}", f"--data_dir={tmp_path / 'mnist'}"]
    process = program("trainer.convert", *args)
    deadline = time.monotonic() + 30
    # Killed while it writes: its directory aside holds shards already.
    while not any(path.stat().st_size for path in tmp_path.glob(".mnist.partial-*/*.tfrecords")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "mnist").exists()

    again = run_program("trainer.convert", *args)
    assert again.code == 0, again
    assert "wrote mnist: 55,000 train, 5,000 validation, 10,000 test images of 28x28x1" in again.out
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
    names = sorted(path.name for path in (tmp_path / "mnist").glob("train-*"))
    assert names == [f"train-{index:05d}-of-00010.tfrecords" for index in range(10)]

    third = run_program("trainer.convert", *args)
    assert third.code == 0 and "nothing to do" in third.out


def test_mnist_holds_the_images_of_its_files(mnist_files, mnist_dir):
    import gzip

    from trainer.data.records import load_split

    def raw(name, header):
        return np.frombuffer(gzip.decompress((mnist_files / name).read_bytes())[header:], np.uint8)

    pixels = raw("train-images-idx3-ubyte.gz", 16).reshape(60000, 784)
    labels = raw("train-labels-idx1-ubyte.gz", 8)
    images, found = load_split(load_manifest(mnist_dir), "train")
    # Example i of the split is dealt to shard i % 10: undo that to get the order of the file.
    order = np.argsort(np.concatenate([np.arange(shard, 55000, 10) for shard in range(10)]))
    np.testing.assert_array_equal(images.reshape(-1, 784)[order], pixels[5000:])
    np.testing.assert_array_equal(found[order], labels[5000:])
    _, validation = load_split(load_manifest(mnist_dir), "validation")
    assert sorted(validation) == sorted(labels[:5000])


def test_every_source_names_sizes_and_files():
    for source in SOURCES.values():
        assert set(source.sizes) == {"train", "validation", "test"} and source.attribution and source.class_names
        assert bool(source.mirrors) == bool(source.files)
        assert all(file.num_bytes > 0 and len(file.sha256) == 64 for file in source.files)
