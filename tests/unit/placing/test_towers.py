"""Towers by the one-step oracle: loss = x * a * b, two towers, expected values written out."""

import numpy as np
import pytest

from trainer.errors import UsageError
from trainer.learning.finiteness import update_if_finite
from trainer.placing.reductions import average_gradients, tower_mean
from trainer.placing.towers import check_same_variables, for_each_tower
from trainer.tf1 import tf

FOUR_CPUS = tf.ConfigProto(device_count={"CPU": 4}, allow_soft_placement=True)


def test_one_step_of_two_towers_by_hand():
    """x = 2 and 4, a = 3, b = 5, rate 0.1.

    Losses x*a*b: 30 and 60, mean 45. Gradients: da = x*b = 10 and 20, mean 15; db = x*a = 6 and 12, mean 9.
    After the step a = 3 - 1.5 = 1.5 and b = 5 - 0.9 = 4.1.
    """
    with tf.Graph().as_default(), tf.Session(config=FOUR_CPUS) as session:
        x = [tf.constant(2.0), tf.constant(4.0)]

        def build(index):
            a = tf.get_variable("a", initializer=3.0)
            b = tf.get_variable("b", initializer=5.0)
            loss = x[index] * a * b
            return loss, tf.gradients(loss, [a, b])

        towers = for_each_tower(["/cpu:1", "/cpu:2"], "/cpu:0", build)
        loss = tower_mean([loss for loss, _ in towers])
        variables = tf.trainable_variables()
        gradients = average_gradients([gradients for _, gradients in towers], "/cpu:0")
        pairs = list(zip(gradients, variables, strict=True))
        optimizer = tf.train.GradientDescentOptimizer(0.1)
        step = update_if_finite([gradients], update=lambda: [optimizer.apply_gradients(pairs)], otherwise=tf.identity)
        initialize = tf.global_variables_initializer()
        session.run(initialize)
        loss_v, gradients_v = session.run([loss, gradients])
        assert (loss_v, gradients_v) == (45.0, [15.0, 9.0])
        for _ in range(200):  # An update that overtakes a tower's reading would show in some of them.
            session.run(initialize)
            session.run(step)
            np.testing.assert_allclose(session.run(variables), [1.5, 4.1], rtol=1e-6)


def test_operations_are_on_their_towers_and_variables_on_the_parameter_device():
    with tf.Graph().as_default() as graph:

        def build(index):
            w = tf.get_variable("w", [3, 3])
            return tf.matmul(tf.ones([2, 3]), w)

        outputs = for_each_tower(["/cpu:1", "/cpu:3"], "/cpu:2", build)
        assert [output.device for output in outputs] == ["/cpu:1", "/cpu:3"]
        handles = [op for op in graph.get_operations() if op.type == "VarHandleOp"]
        assert [(op.name, op.device) for op in handles] == [("w", "/cpu:2")]
        mean = average_gradients([[output] for output in outputs], "/cpu:2")[0]
        assert mean.device == "/device:CPU:2"
        assert [op.name.split("/")[0] for op in graph.get_operations() if op.type == "MatMul"] == ["tower_0", "tower_1"]


def test_a_tower_with_other_variables_is_refused_by_name():
    with tf.Graph().as_default(), pytest.raises(UsageError, match=r"tower 1 built other variables .*extra \['v1'\]"):
        for_each_tower(["/cpu:0", "/cpu:1"], "/cpu:0", lambda index: tf.get_variable(f"v{index}", [1]))


def test_the_difference_is_named():
    check_same_variables(["a", "b"], ["a", "b"], 1)
    with pytest.raises(UsageError, match=r"tower 3 .*: missing \['b'\], extra \['c'\]"):
        check_same_variables(["a", "b"], ["a", "c"], 3)
    with pytest.raises(UsageError, match="in another order"):
        check_same_variables(["a", "b"], ["b", "a"], 1)


def test_the_mean_of_one_tower_is_the_tower():
    with tf.Graph().as_default():
        x = tf.constant(1.0)
        assert tower_mean([x]) is x
