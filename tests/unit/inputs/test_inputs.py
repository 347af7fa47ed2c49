"""What all inputs have in common, and those that read from memory."""

from collections import Counter

import numpy as np
import pytest

from trainer.config import INPUTS as NAMES
from trainer.data.layout import find_layout
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.inputs.build import INPUTS, InputSettings, build_input
from trainer.running.session import open_session
from trainer.tf1 import tf


def read(name, folder, steps, batch_size=64, step=0, seed=1):
    """Reads batches, counting the position on as a training step does."""
    with tf.Graph().as_default():
        position = tf.get_variable("position", [], tf.int64, tf.zeros_initializer(), trainable=False)
        source = build_input(
            name,
            InputSettings(
                folder=folder,
                manifest=load_manifest(folder),
                batch_size=batch_size,
                seed=seed,
                position=step * batch_size,
                position_variable=position,
                num_readers=1,
                layout=find_layout(folder, load_manifest(folder)),
                capacity=4,
            ),
        )
        assert source.batch.images.shape.as_list() == [batch_size, 8, 8, 1]
        assert source.batch.images.dtype == tf.uint8
        assert source.batch.labels.shape.as_list() == [batch_size]
        assert source.batch.labels.dtype == tf.int32
        with tf.control_dependencies(list(source.batch)):
            count = position.assign_add(batch_size)
        set_position = position.assign(step * batch_size)
        with open_session(source, tf.ConfigProto(), None) as (session, *_):
            session.run(set_position)
            return [session.run([source.batch, count])[0] for _ in range(steps)]


def census(batches):
    return Counter(image.tobytes() for images, _ in batches for image in images)


def test_the_registry_holds_what_the_flag_offers():
    assert tuple(INPUTS) == NAMES


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_every_input_gives_batches_of_one_shape_and_type(name, digits_dir):
    for images, labels in read(name, digits_dir, 3):
        assert images.shape == (64, 8, 8, 1) and images.dtype == np.uint8
        assert labels.shape == (64,) and labels.dtype == np.int32 and set(labels) <= set(range(10))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["queue", "preloaded", "feed"])
def test_an_epoch_reads_each_example_once(name, digits_dir):
    """1,258 = 2 * 17 * 37 images: 37 batches of 34."""
    images, labels = load_split(digits_dir, load_manifest(digits_dir), "train")
    batches = read(name, digits_dir, 74, batch_size=34)
    wanted = Counter(image.tobytes() for image in images)
    assert census(batches[:37]) == wanted and census(batches[37:]) == wanted
    of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert all(of[image.tobytes()] == label for batch in batches for image, label in zip(*batch, strict=True))
    assert any((a.images != b.images).any() for a, b in zip(batches[:37], batches[37:], strict=True))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["queue", "preloaded", "feed"])
def test_a_later_start_continues_the_stream(name, digits_dir):
    whole = read(name, digits_dir, 50)
    for step in (1, 19, 20, 40):  # within an epoch, and around the edge of one, 19.66 batches
        rest = read(name, digits_dir, 5, step=step)
        for a, b in zip(rest, whole[step:], strict=False):
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.labels, b.labels)


def test_synthetic_batches_need_no_data(digits_dir):
    first, second = read("synthetic", digits_dir, 2)
    np.testing.assert_array_equal(first.images, second.images)
    assert len(np.unique(first.images)) > 200


@pytest.mark.timeout(60)
def test_an_error_in_the_feeding_thread_is_what_the_user_sees(digits_dir, monkeypatch):
    from trainer.inputs import feed

    def broken(*_):
        yield np.arange(64)
        raise RuntimeError("the feeding thread broke")

    monkeypatch.setattr(feed, "batch_indices", broken)
    with pytest.raises(RuntimeError, match="the feeding thread broke"):
        read("feed", digits_dir, 3)
