"""Random numbers of records: against SplitMix64 in Python, and the same wherever in a batch a record stands."""

import numpy as np
import pytest

from trainer.preprocessing.draws import FIRST, GOLDEN, MASK, SECOND, make_draws
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(60)


def mix(bits):
    for shift, factor in ((30, FIRST), (27, SECOND)):
        bits = (bits ^ (bits >> shift)) * factor & MASK
    return bits ^ (bits >> 31)


def uniform(seed, key, operation, number):
    """The number-th draw of an operation for one record, in whole numbers of Python."""
    state = mix(mix((key * GOLDEN + seed) & MASK) ^ ((operation + 1) * SECOND & MASK))
    return (mix((state + (number + 1) * GOLDEN) & MASK) >> 40) / 2**24


def run(build, keys):
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(build(tf.constant(list(keys), tf.int64)))


def test_splitmix64_gives_the_numbers_that_are_published():
    """The first numbers of its reference program for the seed 1234567."""
    state, numbers = 1234567, []
    for _ in range(3):
        state = (state + GOLDEN) & MASK
        numbers.append(mix(state))
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 2**40, -3])
def test_draws_equal_the_same_in_whole_numbers(seed):
    keys = [0, 1, 17, 60_000 * 1000 + 5]

    def build(tensor):
        draws = make_draws(seed, tensor).of_operation(2)
        return draws.uniform(0, 1, 3), draws.uniform(-2, 4)

    first, second = run(build, keys)
    np.testing.assert_array_equal(first, [[uniform(seed, key, 2, i) for i in range(3)] for key in keys])
    np.testing.assert_allclose(second[:, 0], [uniform(seed, key, 2, 3) * 6 - 2 for key in keys], atol=1e-6)


def test_a_record_has_its_numbers_wherever_it_stands():
    def build(tensor):
        return make_draws(7, tensor).of_operation(0).uniform(0, 1, 5)

    whole = run(build, range(100))
    np.testing.assert_array_equal(run(build, [42, 3]), whole[[42, 3]])
    assert len(np.unique(whole)) > 495  # Of 500 in 2^24 hardly any are the same.


def test_numbers_are_as_even_as_they_should_be():
    def build(tensor):
        draws = make_draws(1, tensor).of_operation(3)
        return draws.uniform(0, 1), draws.integers(9), draws.choices()

    numbers, whole, choices = run(build, range(20_000))
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi square with 19 degrees of freedom: 0.1%
    counts = np.bincount(whole, minlength=9)
    assert len(counts) == 9 and ((counts - 20_000 / 9) ** 2 / (20_000 / 9)).sum() < 27
    assert abs(choices.mean() - 0.5) < 0.015
