"""Batch normalization folded into convolutions: the same numbers, and nothing of it left where it can be."""

import numpy as np
import pytest

from tests.networks import logits_of
from trainer.saving.folding import fold_batch_norms
from trainer.tf1 import tf


def freeze(model, args, size):
    with tf.Graph().as_default() as graph, tf.Session() as session:
        images = tf.placeholder(tf.float32, [None, size, size, 3], name="images")
        tf.identity(logits_of(images, model, args), name="logits")
        session.run(tf.global_variables_initializer())
        rng = np.random.default_rng(1)
        for variable in tf.global_variables():
            if "BatchNorm" in variable.op.name:
                variable.load(rng.uniform(0.5, 1.5, variable.shape.as_list()).astype(np.float32), session)
        constant = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["logits"])
        return tf.graph_util.remove_training_nodes(constant, protected_nodes=["logits"])


def run(graph_def, images):
    with tf.Graph().as_default(), tf.Session() as session:
        (logits,) = tf.import_graph_def(graph_def, return_elements=["logits:0"], name="")
        return session.run(logits, {"images:0": images})


def count(graph_def, kind):
    return sum(node.op.startswith(kind) for node in graph_def.node)


@pytest.mark.parametrize(
    ("model", "args", "left"), [("mobilenet_v1", "multiplier=0.25", 0), ("resnet20", "", 0), ("resnet_v2_50", "", 17)]
)
def test_the_numbers_stay(model, args, left):
    """Of resnet_v2 17 normalize what several read: those stay."""
    whole = freeze(model, args, 32)
    folded = fold_batch_norms(whole, ["logits"])
    assert count(whole, "FusedBatchNorm") > left == count(folded, "FusedBatchNorm")
    images = np.random.default_rng(2).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    wanted = run(whole, images)
    np.testing.assert_allclose(run(folded, images), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    assert len(folded.node) < len(whole.node)


def test_a_thousand_channels_without_a_scale_too():
    """TensorFlow makes no constant of so many ones."""
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [None, 4, 4, 1], name="images")
        found = tf.nn.conv2d(images, np.ones((1, 1, 1, 1024), np.float32), strides=1, padding="SAME")
        ones = tf.ones([1024])
        y, _, _ = tf.nn.fused_batch_norm(found, ones, 3 * np.ones(1024, np.float32), ones, ones, is_training=False)
        tf.identity(y, name="logits")
    assert count(graph.as_graph_def(), "Fill") == 1
    folded = fold_batch_norms(graph.as_graph_def(), ["logits"])
    assert count(folded, "FusedBatchNorm") == count(folded, "Fill") == 0
    images = np.random.default_rng(2).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(run(folded, images), run(graph.as_graph_def(), images), rtol=1e-5, atol=1e-6)


def test_what_others_read_too_stays():
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [None, 4, 4, 1], name="images")
        found = tf.nn.conv2d(images, np.ones((1, 1, 1, 2), np.float32), strides=1, padding="SAME")
        ones = tf.ones([2])
        y, _, _ = tf.nn.fused_batch_norm(found, ones, ones, ones, ones, is_training=False)
        tf.add(found, y, name="logits")
    folded = fold_batch_norms(graph.as_graph_def(), ["logits"])
    assert count(folded, "FusedBatchNorm") == 1
    images = np.random.default_rng(2).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    np.testing.assert_array_equal(run(folded, images), run(graph.as_graph_def(), images))
