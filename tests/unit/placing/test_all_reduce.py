"""Strategies by the one-step oracle: loss = x * a * b over towers and workers, expected values written out.

x = 2 and 4, a = 3, b = 5, rate 0.1. Losses x*a*b: 30 and 60, mean 45. Gradients: da = x*b = 10 and 20, mean 15;
db = x*a = 6 and 12, mean 9. After the step a = 3 - 1.5 = 1.5 and b = 5 - 0.9 = 4.1.
"""

import numpy as np
import pytest

from trainer.errors import TrainerError, UsageError
from trainer.placing.all_reduce import CollectiveKeys
from trainer.placing.means_check import check_means, difference_from_plain, uniform_values
from trainer.placing.replicas import Replicas, all_reduce_towers, check_reduce
from trainer.placing.towers import for_each_tower
from trainer.tf1 import tf

CPUS = tf.ConfigProto(device_count={"CPU": 4}, allow_soft_placement=True)
pytestmark = pytest.mark.timeout(120)


def test_the_keys_of_collective_operations_come_from_their_names():
    one, other = CollectiveKeys(), CollectiveKeys()
    names = ["step/bucket_0", "step/bucket_1", "broadcast/conv1/weights"]
    keys = {name: one.key(name) for name in names}
    assert {name: other.key(name) for name in reversed(names)} == keys and len(set(keys.values())) == 3
    assert one.digest() == other.digest()
    again = one.key("step/bucket_0")  # As of the same step in the loop.
    assert again not in keys.values() and one.digest() != other.digest()
    assert other.key("step/bucket_0") == again and one.digest() == other.digest()
    assert all(0 <= key < 2**31 for key in [*keys.values(), again])


@pytest.mark.parametrize("how", ["copy", "tree", "collective"])
@pytest.mark.parametrize("bucket_bytes", [0, 4, 1000])
def test_one_step_with_a_copy_for_each_tower(how, bucket_bytes):
    devices = ["/cpu:1", "/cpu:2"]
    with tf.Graph().as_default(), tf.Session(config=CPUS) as session:
        replicas = Replicas(2)

        def build(index):
            replicas.tower = index
            a, b = (tf.get_variable(name, initializer=value) for name, value in (("a", 3.0), ("b", 5.0)))
            loss = tf.constant([2.0, 4.0][index]) * a * b
            return loss, tf.gradients(loss, [a, b])

        with tf.variable_scope("", custom_getter=replicas.get):
            towers = for_each_tower(devices, None, build)
        means = all_reduce_towers(
            [gradients for _, gradients in towers],
            devices,
            how=how,
            parameter_device="/cpu:0",
            bucket_bytes=bucket_bytes,
        )
        copies = [replicas.of_tower(tf.trainable_variables(), tower) for tower in (0, 1)]
        assert [[variable.device for variable in copy] for copy in copies] == [["/cpu:1"] * 2, ["/cpu:2"] * 2]
        pairs = [pair for mean, copy in zip(means, copies, strict=True) for pair in zip(mean, copy, strict=True)]
        optimizer = tf.train.MomentumOptimizer(0.1, 0.9)
        with tf.control_dependencies([gradient for gradient, _ in pairs]):  # No update overtakes a tower's reading.
            step = optimizer.apply_gradients([(tf.identity(gradient), variable) for gradient, variable in pairs])
        replicas.keep_out_of_checkpoints()
        assert sorted(v.op.name for v in tf.global_variables()) == ["a", "a/Momentum", "b", "b/Momentum"]
        sync = replicas.build_sync()
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        session.run([copy.assign(7.0) for copy in copies[1]])
        session.run(sync)
        assert session.run(means) == [[15.0, 9.0]] * 2
        session.run(step)
        np.testing.assert_allclose(session.run(copies), [[1.5, 4.1]] * 2, rtol=1e-6)


def test_a_tree_of_any_number_of_towers_gives_the_same_sum_to_all():
    for count in range(1, 5):
        devices = [f"/cpu:{index}" for index in range(count)]
        with tf.Graph().as_default(), tf.Session(config=CPUS) as session:
            gradients = [[tf.constant([1.0 + index, 10.0])] for index in range(count)]
            settings = {"how": "tree", "parameter_device": "/cpu:0", "bucket_bytes": 0}
            means = session.run(all_reduce_towers(gradients, devices, **settings))
        for (mean,) in means:
            np.testing.assert_allclose(mean, [(count + 1) / 2, 10.0])


def test_nccl_needs_gpus():
    with pytest.raises(UsageError, match=r"--reduce=nccl is for GPUs, and the towers are on /cpu:0: use copy, tree"):
        check_reduce("nccl", ["/cpu:0"])
    check_reduce("nccl", ["/gpu:0"])


def test_wrong_means_are_refused():
    check_means(1e-7)
    for difference in (1e-3, float("nan"), float("inf")):
        with pytest.raises(TrainerError, match="the gradients' means are wrong: they differ from plain ones by"):
            check_means(difference)


def test_a_mean_that_misses_a_worker_differs_from_the_plain_one():
    shapes = [tf.TensorShape([3]), tf.TensorShape([2, 2])]
    with tf.Graph().as_default(), tf.Session() as session:
        values = [uniform_values(shapes, worker) for worker in range(3)]
        right = [tf.add_n(list(parts)) / 3 for parts in zip(*values, strict=True)]
        wrong = [right[0], tf.add_n([values[0][1], values[1][1]]) / 3]
        found = session.run([difference_from_plain(right, values), difference_from_plain(wrong, values)])
    assert found[0] < 1e-6 and found[1] > 0.01
