"""Measuring against arithmetic on paper."""

import pytest

from tests.networks import logits_of
from trainer.learning.losses import cross_entropy
from trainer.tf1 import tf
from trainer.training.measuring import step_flops


def gradients_of(logits):
    labels = tf.zeros([int(logits.shape[0])], tf.int32)
    return tf.gradients(cross_entropy(logits, labels), tf.trainable_variables())


def flops_of(model, batch, shape):
    with tf.Graph().as_default():
        images = tf.zeros([batch, *shape], tf.uint8)
        logits = logits_of(images, model)
        return step_flops(gradients_of(logits))


def test_the_mlp():
    """Forward and the weights' gradient for both layers; the hidden units' gradient for the second alone."""
    assert flops_of("mlp", 128, (28, 28, 1)) == 2 * 128 * (2 * 784 * 500 + 3 * 500 * 10)


def test_lenet():
    """Images of 28x28, 14x14 and 7x7; the first layer has no gradient of its input."""
    conv1, conv2 = 28 * 28 * 32 * 25, 14 * 14 * 64 * 25 * 32
    fc1, logits = 7 * 7 * 64 * 512, 512 * 10
    assert flops_of("lenet", 64, (28, 28, 1)) == 2 * 64 * (2 * conv1 + 3 * conv2 + 3 * fc1 + 3 * logits)


@pytest.mark.parametrize(("model", "batch"), [("mlp", 8), ("lenet", 3)])
def test_as_tensorflow_counts(model, batch):
    """TensorFlow's profiler counts the same products, and elementwise operations besides."""
    with tf.Graph().as_default() as graph:
        images = tf.zeros([batch, 16, 16, 3], tf.uint8)
        logits = logits_of(images, model, "hidden_sizes=200" if model == "mlp" else "")
        gradients = gradients_of(logits)
        found = step_flops(gradients)
        needed = tf.graph_util.extract_sub_graph(graph.as_graph_def(), [gradient.op.name for gradient in gradients])
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(needed, name="")
        options = tf.profiler.ProfileOptionBuilder(tf.profiler.ProfileOptionBuilder.float_operation())
        counted = tf.profiler.profile(graph, options=options.with_empty_output().build()).total_float_ops
    assert found <= counted <= 1.1 * found
