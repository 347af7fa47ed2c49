import numpy as np
import pytest

from trainer.data.sources import cifar, named
from trainer.data.spec import DataError


def write_batch(path, count, seed=0, label=None):
    rng = np.random.default_rng(seed)
    records = rng.integers(0, 256, (count, 3073), np.uint8)
    records[:, 0] = rng.integers(0, 10, count) if label is None else label
    path.write_bytes(records.tobytes())
    return records


def test_planes_become_the_last_dimension(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    raw = write_batch(path, 2100)
    found = list(cifar.read_cifar(path))
    assert len(found) == 2100
    image, label = found[2050]
    assert label == raw[2050, 0]
    # The red value of row 3, column 5, then the blue one.
    assert image[3, 5, 0] == raw[2050, 1 + 3 * 32 + 5]
    assert image[3, 5, 2] == raw[2050, 1 + 2 * 1024 + 3 * 32 + 5]


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_a_file_of_another_size_is_refused(tmp_path, size):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(b"\0" * size)
    with pytest.raises(DataError, match="is no whole number of records"):
        list(cifar.read_cifar(path))


def test_five_files_are_split_into_train_and_validation(tmp_path):
    raw = [write_batch(tmp_path / f"data_batch_{number}.bin", 1200, seed=number) for number in range(1, 6)]
    write_batch(tmp_path / "test_batch.bin", 30)
    source = named.SOURCES["cifar10"]
    labels = [label for _, label in source.read(tmp_path, "validation")]
    labels += [label for _, label in source.read(tmp_path, "train")]
    assert labels == np.concatenate(raw)[:, 0].tolist()
    assert len(list(source.read(tmp_path, "test"))) == 30


@pytest.mark.parametrize(("name", "place", "classes"), [("cifar100", 1, 100), ("cifar100_coarse", 0, 20)])
def test_cifar100_has_a_coarse_and_a_fine_label(tmp_path, name, place, classes):
    rng = np.random.default_rng(3)
    raw = {}
    for file, count in (("train.bin", 5200), ("test.bin", 40)):
        raw[file] = rng.integers(0, 256, (count, 3074), np.uint8)
        raw[file][:, 0], raw[file][:, 1] = rng.integers(0, 20, count), rng.integers(0, 100, count)
        (tmp_path / file).write_bytes(raw[file].tobytes())
    source = named.SOURCES[name]
    assert len(set(source.class_names)) == classes and list(source.class_names) == sorted(source.class_names)
    found = list(source.read(tmp_path, "test"))
    assert [label for _, label in found] == raw["test.bin"][:, place].tolist()
    planes = np.stack([image for image, _ in found]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(planes.reshape(40, -1), raw["test.bin"][:, 2:])
    labels = [label for split in ("validation", "train") for _, label in source.read(tmp_path, split)]
    assert labels == raw["train.bin"][:, place].tolist()


def test_a_label_out_of_range_is_named(tmp_path):
    write_batch(tmp_path / "test_batch.bin", 3, label=10)
    with pytest.raises(DataError, match=r"test_batch.bin: label 10 of example 0 is out of range 0\.\.9"):
        list(named.SOURCES["cifar10"].read(tmp_path, "test"))


def test_the_archive_is_unpacked(tmp_path):
    import tarfile

    inner = tmp_path / "build" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    raw = write_batch(inner / "test_batch.bin", 20)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(inner, "cifar-10-batches-bin")
    assert [label for _, label in named.SOURCES["cifar10"].read(tmp_path, "test")] == raw[:, 0].tolist()
