"""What all inputs have in common, and those that read from memory."""

from collections import Counter

import numpy as np
import pytest

from trainer.data.layout import find_layout
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.inputs.build import INPUTS, InputSettings, build_input
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.running.session import open_session
from trainer.settings.data import INPUTS as NAMES
from trainer.tf1 import tf


def read(name, folder, steps, batch_size=64, step=0, seed=1):
    """Reads batches, counting the position on as a training step does."""
    with tf.Graph().as_default():
        position = tf.get_variable("position", [], tf.int64, tf.zeros_initializer(), trainable=False)
        source = build_input(
            name,
            InputSettings(
                spec=load_manifest(folder),
                batch_size=batch_size,
                seed=seed,
                position=step * batch_size,
                position_variable=position,
                num_readers=1,
                layout=find_layout(load_manifest(folder)),
                capacity=4,
                side=make_preprocessing((8, 8, 1)).training,
            ),
        )
        found = {name: (tensor.dtype, tensor.shape.as_list()) for name, tensor in source.batch.items()}
        assert found == {
            "image": (tf.uint8, [batch_size, 8, 8, 1]),
            "label": (tf.int32, [batch_size]),
            "record": (tf.int64, [batch_size]),
        }
        with tf.control_dependencies(list(source.batch.values())):
            count = position.assign_add(batch_size)
        set_position = position.assign(step * batch_size)
        with open_session(source, tf.ConfigProto(), None) as (session, *_):
            session.run(set_position)
            return [session.run([source.batch, count])[0] for _ in range(steps)]


def census(batches):
    return Counter(image.tobytes() for batch in batches for image in batch["image"])


def test_the_registry_holds_what_the_flag_offers():
    assert tuple(INPUTS) == NAMES


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_every_input_gives_batches_of_one_shape_and_type(name, digits_dir):
    for batch in read(name, digits_dir, 3):
        images, labels = batch["image"], batch["label"]
        assert images.shape == (64, 8, 8, 1) and images.dtype == np.uint8
        assert labels.shape == (64,) and labels.dtype == np.int32 and set(labels) <= set(range(10))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["queue", "preloaded", "feed"])
def test_an_epoch_reads_each_example_once(name, digits_dir):
    """1,258 = 2 * 17 * 37 images: 37 batches of 34."""
    images, labels = load_split(load_manifest(digits_dir), "train")
    batches = read(name, digits_dir, 74, batch_size=34)
    wanted = Counter(image.tobytes() for image in images)
    assert census(batches[:37]) == wanted and census(batches[37:]) == wanted
    for number, batch in enumerate(batches):  # A record's number tells its epoch and its place, whatever the input.
        epochs, records = np.divmod(batch["record"], len(images))
        assert (epochs == number // 37).all()
        np.testing.assert_array_equal(batch["image"], images[records])
        np.testing.assert_array_equal(batch["label"], labels[records])
    assert any((a["image"] != b["image"]).any() for a, b in zip(batches[:37], batches[37:], strict=True))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["queue", "preloaded", "feed"])
def test_a_later_start_continues_the_stream(name, digits_dir):
    whole = read(name, digits_dir, 50)
    for step in (1, 19, 20, 40):  # within an epoch, and around the edge of one, 19.66 batches
        later = read(name, digits_dir, 5, step=step)
        for a, b in zip(later, whole[step:], strict=False):
            for feature in ("image", "label", "record"):
                np.testing.assert_array_equal(a[feature], b[feature])


def test_synthetic_batches_need_no_data(digits_dir):
    first, second = read("synthetic", digits_dir, 2)
    np.testing.assert_array_equal(first["image"], second["image"])
    assert len(np.unique(first["image"])) > 200


@pytest.mark.timeout(60)
def test_an_error_in_the_feeding_thread_is_what_the_user_sees(digits_dir, monkeypatch):
    from trainer.inputs import feed

    def broken(*_):
        yield np.arange(64)
        raise RuntimeError("the feeding thread broke")

    monkeypatch.setattr(feed, "batch_keys", broken)
    with pytest.raises(RuntimeError, match="the feeding thread broke"):
        read("feed", digits_dir, 3)
