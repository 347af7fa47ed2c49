"""Models against numpy, and the names and shapes of their variables."""

from pathlib import Path

import numpy as np
import pytest

from tests.networks import logits_of
from trainer.errors import UsageError
from trainer.models import layers
from trainer.tf1 import tf

GOLDEN = Path(__file__).parents[2] / "golden" / "variables"


def build(model, shape, model_args=""):
    images = tf.placeholder(tf.uint8, [None, *shape])
    return images, logits_of(images, model, model_args)


@pytest.mark.parametrize(("model", "model_args"), [("lenet", ""), ("mlp", "hidden_sizes=(625, 625)"), ("vgg11", "")])
def test_variables_have_the_names_and_shapes_of_the_golden_file(model, model_args):
    with tf.Graph().as_default():
        build(model, (28, 28, 1), model_args)
        lines = [f"{v.op.name} {v.shape.as_list()}" for v in tf.trainable_variables()]
    assert "\n".join(lines) + "\n" == (GOLDEN / f"{model}.txt").read_text()


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(), (7,), (7, 6)])
def test_the_mlp_computes_what_numpy_computes(sizes, activation):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        x, logits = build("mlp", (4, 3, 2), f"hidden_sizes={sizes}, activation={activation}")
        session.run(tf.global_variables_initializer())
        v = {variable.op.name: session.run(variable) for variable in tf.trainable_variables()}
        found = session.run(logits, {x: images})
    h = images.reshape(5, 24) / 255
    for number in range(1, len(sizes) + 1):
        h = ACTIVATIONS[activation](h @ v[f"hidden{number}/weights"] + v[f"hidden{number}/biases"])
    np.testing.assert_allclose(found, h @ v["logits/weights"] + v["logits/biases"], rtol=1e-4, atol=1e-5)


def conv_same(x, w, b):
    """A slow convolution: stride 1, zeros around."""
    pad = w.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.empty((*x.shape[:3], w.shape[3]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            patch = padded[:, i : i + w.shape[0], j : j + w.shape[1]]
            out[:, i, j] = np.tensordot(patch, w, 3) + b
    return out


def pool_2x2(x):
    n, height, width, depth = x.shape
    padded = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-np.inf)
    blocks = padded.reshape(n, padded.shape[1] // 2, 2, padded.shape[2] // 2, 2, depth)
    return blocks.max(axis=(2, 4))


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 10, 3)])
def test_lenet_computes_what_numpy_computes(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        x, logits = build("lenet", shape)
        session.run(tf.global_variables_initializer())
        v = {variable.op.name: session.run(variable).astype(np.float64) for variable in tf.trainable_variables()}
        found = session.run(logits, {x: images})
    h = images / 255
    for name in ("conv1", "conv2"):
        h = pool_2x2(np.maximum(conv_same(h, v[f"{name}/weights"], v[f"{name}/biases"]), 0))
    h = np.maximum(h.reshape(3, -1) @ v["fc1/weights"] + v["fc1/biases"], 0)
    np.testing.assert_allclose(found, h @ v["logits/weights"] + v["logits/biases"], rtol=1e-4, atol=1e-5)


def test_vgg11_computes_what_numpy_computes():
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 2), np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        x, logits = build("vgg11", (9, 8, 2))
        session.run(tf.global_variables_initializer())
        v = {variable.op.name: session.run(variable).astype(np.float64) for variable in tf.trainable_variables()}
        found = session.run(logits, {x: images})
    h = images / 255
    for number in range(1, 9):
        h = np.maximum(conv_same(h, v[f"conv{number}/weights"], v[f"conv{number}/biases"]), 0)
        h = pool_2x2(h) if number in (1, 2, 4, 6, 8) else h
    h = h.reshape(2, -1)
    for name in ("fc1", "fc2"):
        h = np.maximum(h @ v[f"{name}/weights"] + v[f"{name}/biases"], 0)
    np.testing.assert_allclose(found, h @ v["logits/weights"] + v["logits/biases"], rtol=1e-3, atol=1e-4)


def test_weights_are_drawn_by_name_and_seed():
    def draw(seed):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(seed)
            tf.constant(1.0)  # An operation more changes nothing.
            build("mlp", (28, 28, 1))
            session.run(tf.global_variables_initializer())
            return [session.run(variable) for variable in tf.trainable_variables()]

    first, again, other = draw(1), draw(1), draw(2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).mean() > 0.99
    # He et al. 2015: variance 2 / fan_in before a ReLU; 1 / fan_in at the logits. Biases are zero.
    np.testing.assert_allclose(first[0].std(), np.sqrt(2 / 784), rtol=0.02)
    np.testing.assert_allclose(first[2].std(), np.sqrt(1 / 500), rtol=0.05)
    assert not first[1].any() and not first[3].any()


def test_dropout_depends_on_seed_step_and_layer_alone():
    x = np.ones((100, 100), np.float32)

    def masks(seed, step_value):
        with tf.Graph().as_default(), tf.Session() as session:
            with layers.masks_from(seed, tf.constant(step_value, tf.int64)):
                masked = [layers.dropout(tf.constant(x), 0.25, training=True) for _ in range(2)]
            return session.run(masked)

    first, again = masks(1, 5), masks(1, 5)
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != first[1]).any() and (first[0] != masks(1, 6)[0]).any() and (first[0] != masks(9, 5)[0]).any()
    # What is kept is scaled by 1 / 0.75; a quarter is dropped (standard error 0.0043).
    np.testing.assert_allclose(np.unique(first[0]), [0, 1 / 0.75], rtol=1e-6)
    assert abs((first[0] == 0).mean() - 0.25) < 5 * 0.0043


def test_without_dropout_nothing_is_added_to_the_graph():
    with tf.Graph().as_default():
        x = tf.ones([2, 2])
        assert layers.dropout(x, 0.5, training=False) is x
        with layers.masks_from(1, tf.constant(0, tf.int64)):
            assert layers.dropout(x, 0.0, training=True) is x
            with pytest.raises(UsageError, match=r"dropout of 1\.0 is out of range: 0 <= value < 1"):
                layers.dropout(x, 1.0, training=True)
        with pytest.raises(UsageError, match="is of models that the trainer builds"):
            layers.dropout(x, 0.5, training=True)
