"""Sums over towers are made in one order, to the bit, whichever of their inputs other operations still hold."""

import itertools

import numpy as np
import pytest

from trainer.placing.reductions import average_gradients, tower_mean
from trainer.placing.replicas import all_reduce_towers
from trainer.tf1 import tf

CPUS = tf.ConfigProto(device_count={"CPU": 4}, allow_soft_placement=True)
pytestmark = pytest.mark.timeout(120)


def in_order(values):
    """(((a + b) + c) + d), in float32."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def in_pairs(values):
    """((a + b) + (c + d)), in float32."""
    return in_order([in_order(values[left : left + 2]) for left in range(0, len(values), 2)])


def by_mean(towers):
    return tower_mean(towers)


def by_average(towers):
    return average_gradients([[tower] for tower in towers], "/cpu:0")[0]


def by_copy(towers, how="copy"):
    devices = ["/cpu:0"] * len(towers)
    gradients = [[tower] for tower in towers]
    return all_reduce_towers(gradients, devices, how=how, parameter_device="/cpu:0", bucket_bytes=0)[0][0]


def by_tree(towers):
    return by_copy(towers, "tree")


@pytest.mark.parametrize(
    ("average", "oracle"), [(by_mean, in_order), (by_average, in_order), (by_copy, in_order), (by_tree, in_pairs)]
)
@pytest.mark.parametrize("num_towers", [2, 3, 4])
def test_the_mean_has_the_same_bits_whatever_else_reads_the_gradients(average, oracle, num_towers):
    rng = np.random.default_rng(num_towers)
    values = [rng.normal(size=1000).astype(np.float32) for _ in range(num_towers)]
    share = np.float32(1 / num_towers)
    assert num_towers == 2 or (in_order(values) != in_order(values[::-1])).any()  # The order shows.
    with tf.Graph().as_default(), tf.Session(config=CPUS) as session:
        fed = [tf.placeholder(tf.float32, [1000]) for _ in values]
        towers = [value * 2 for value in fed]  # Memory of their own, which a sum may take.
        mean, feeds = average(towers), dict(zip(fed, values, strict=True))
        expected = oracle([value * 2 for value in values]) * share
        for held in itertools.chain.from_iterable(itertools.combinations(towers, k) for k in range(num_towers + 1)):
            mean_v, *_ = session.run([mean, *held], feeds)
            np.testing.assert_array_equal(mean_v, expected)
