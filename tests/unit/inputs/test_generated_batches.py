"""The order of what a generator yields: each example once an epoch, and the same from any position on."""

from contextlib import nullcontext

import numpy as np
import pytest

from trainer.data.given.examples import Examples
from trainer.data.spec import Shard, describe_images
from trainer.inputs.batch import RECORD
from trainer.inputs.generated import OBJECT_BYTES, batches, shuffled

COUNT = 50


def make(tmp_path):
    def numbered(split):
        return ((np.full((2, 2, 1), number, np.uint8), number % 3) for number in range(COUNT))

    spec = describe_images("any", (2, 2, 1), ("a", "b", "c"), {"train": (Shard("x", COUNT, 1, ""),)}, tmp_path)
    return Examples("any", numbered, frozenset(), {}, 1, nullcontext, nullcontext), spec


def take(tmp_path, count, **settings):
    examples, spec = make(tmp_path)
    settings = {"batch_size": 7, "position": 0, "seed": 1, "shuffle_bytes": 1 << 20, **settings}
    found = batches(examples, spec, **settings)
    return [next(found) for _ in range(count)]


@pytest.mark.parametrize("shuffle_bytes", [1 << 20, 8 * (4 + 4 + OBJECT_BYTES)])
def test_each_example_comes_once_an_epoch_in_another_order(tmp_path, shuffle_bytes):
    found = take(tmp_path, 50, shuffle_bytes=shuffle_bytes)
    keys = np.concatenate([batch[RECORD] for batch in found])
    epochs = keys[: 7 * COUNT].reshape(7, COUNT)
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == list(range(number * COUNT, (number + 1) * COUNT))
    assert len({tuple(epoch % COUNT) for epoch in epochs}) == 7
    for batch in found:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch[RECORD] % COUNT)
        np.testing.assert_array_equal(batch["label"], batch[RECORD] % COUNT % 3)
        assert batch["label"].dtype == np.int32


@pytest.mark.parametrize("position", [7, 49, 50, 51, 133])
@pytest.mark.parametrize("shuffle_bytes", [1 << 20, 8 * (4 + 4 + OBJECT_BYTES)])
def test_a_position_is_where_it_was_left(tmp_path, position, shuffle_bytes):
    def stream(count, **settings):
        found = take(tmp_path, count, batch_size=1, shuffle_bytes=shuffle_bytes, **settings)
        return [int(batch[RECORD][0]) for batch in found]

    assert stream(30, position=position) == stream(position + 30)[position:]


def test_all_that_waits_is_drawn_evenly():
    rng = np.random.default_rng(1)
    firsts = [next(iter(shuffled(range(8), 8, rng))) for _ in range(4000)]
    assert np.abs(np.bincount(firsts, minlength=8) - 500).max() < 100
