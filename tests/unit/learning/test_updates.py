"""One and two updates of every optimizer, clipping, L2 and averages against numpy."""

import numpy as np
import pytest

from trainer.learning import averages, clipping, losses, metrics, optimizers
from trainer.settings.learning import OPTIMIZERS as NAMES
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

W0 = np.array([0.5, -1.0, 2.0], np.float64)
GRADIENTS = [np.array([0.1, -0.4, 3.0]), np.array([-0.2, 0.3, 1.0])]
RATE = 0.1


def sgd(g):
    w = W0.copy()
    for gradient in g:
        w -= RATE * gradient
        yield w.copy()


def momentum(g):
    w, velocity = W0.copy(), 0.0
    for gradient in g:
        velocity = 0.9 * velocity + gradient
        w -= RATE * velocity
        yield w.copy()


def rmsprop(g):
    w, mean, velocity = W0.copy(), np.ones(3), 0.0  # TensorFlow's mean of squares begins at one.
    for gradient in g:
        mean = 0.8 * mean + 0.2 * gradient**2
        velocity = 0.9 * velocity + RATE * gradient / np.sqrt(mean + 1e-10)
        w -= velocity
        yield w.copy()


def adam(g):
    w, m, v = W0.copy(), 0.0, 0.0
    for t, gradient in enumerate(g, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w -= RATE * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
        yield w.copy()


def nesterov(g):
    w, velocity = W0.copy(), 0.0
    for gradient in g:
        velocity = 0.9 * velocity + gradient
        w -= RATE * (gradient + 0.9 * velocity)
        yield w.copy()


def adagrad(g):
    w, squares = W0.copy(), 0.1  # TensorFlow's sum of squares begins at 0.1.
    for gradient in g:
        squares = squares + gradient**2
        w -= RATE * gradient / np.sqrt(squares)
        yield w.copy()


FORMULAS = {
    "sgd": sgd, "momentum": momentum, "nesterov": nesterov, "rmsprop": rmsprop, "adagrad": adagrad, "adam": adam,
    "adamw": adam,
}  # fmt: skip
SETTINGS = {"momentum": 0.9, "rmsprop_decay": 0.8, "weight_decay": 0.05}


def test_adamw_decays_weights_beside_the_step_of_adam():
    """And never what has one dimension only."""
    expected, w = [], W0.copy()
    for plain, before in zip(adam(GRADIENTS), [W0, *list(adam(GRADIENTS))[:1]], strict=True):
        w = w + (plain - before) - RATE * 0.05 * w
        expected.append(w)
    with tf.Graph().as_default(), tf.Session() as session:
        w = tf.get_variable("w", initializer=W0[np.newaxis].astype(np.float32))
        gradient = tf.placeholder(tf.float32, [1, 3])
        apply = optimizers.make_optimizer("adamw", lambda: tf.constant(RATE), UserCode(), **SETTINGS)
        apply = apply.apply_gradients([(gradient, w)])
        session.run(tf.global_variables_initializer())
        for value, wanted in zip(GRADIENTS, expected, strict=True):
            session.run(apply, {gradient: value[np.newaxis]})
            np.testing.assert_allclose(session.run(w)[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_optimizers_follow_their_formulas(name):
    expected = list(FORMULAS[name](GRADIENTS))
    assert tuple(optimizers.OPTIMIZERS) == NAMES
    with tf.Graph().as_default(), tf.Session() as session:
        w = tf.get_variable("w", initializer=W0.astype(np.float32))
        gradient = tf.placeholder(tf.float32, [3])
        optimizer = optimizers.make_optimizer(name, lambda: tf.constant(RATE), UserCode(), **SETTINGS)
        apply = optimizer.apply_gradients([(gradient, w)])
        session.run(tf.global_variables_initializer())
        for value, wanted in zip(GRADIENTS, expected, strict=True):
            session.run(apply, {gradient: value})
            np.testing.assert_allclose(session.run(w), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("none", lambda gs, m: gs),
        ("value", lambda gs, m: [np.clip(g, -m, m) for g in gs]),
        ("norm", lambda gs, m: [g * min(1, m / np.linalg.norm(g)) for g in gs]),
        ("global_norm", lambda gs, m: [g * min(1, m / np.sqrt(sum(np.sum(h**2) for h in gs))) for g in gs]),
    ],
)
@pytest.mark.parametrize("maximum", [0.5, 2.0, 100.0])
def test_clipping_follows_its_formula(kind, formula, maximum):
    with tf.Graph().as_default(), tf.Session() as session:
        clipped = clipping.clip_gradients([tf.constant(g, tf.float32) for g in GRADIENTS], kind, maximum)
        for found, wanted in zip(session.run(clipped), formula(GRADIENTS, maximum), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_l2_is_half_the_sum_of_squares_of_weights_and_never_of_biases():
    from trainer.models import layers

    with tf.Graph().as_default(), tf.Session() as session:
        layers.dense(tf.ones([2, 3]), 4, "a")
        layers.conv2d(tf.ones([1, 5, 5, 2]), 3, 3, "b")
        names = {variable.op.name: variable for variable in tf.trainable_variables()}
        session.run(tf.global_variables_initializer())
        session.run([names[name].assign(tf.ones_like(names[name])) for name in ("a/biases", "b/biases")])
        weights = session.run([names["a/weights"], names["b/weights"]])
        found = session.run(tf.add_n(losses.l2_losses(tf.trainable_variables(), 0.01)))
    np.testing.assert_allclose(found, 0.01 * sum(np.sum(w**2) for w in weights) / 2, rtol=1e-5)


def test_cross_entropy_and_sums_follow_their_formulas():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, -1.0], [1.0, 1.0, 4.0]])
    labels = np.array([0, 0, 2])
    each = -np.log(np.exp(logits)[np.arange(3), labels] / np.exp(logits).sum(axis=1))
    with tf.Graph().as_default(), tf.Session() as session:
        x, y = tf.constant(logits, tf.float32), tf.constant(labels, tf.int32)
        np.testing.assert_allclose(session.run(losses.cross_entropy(x, y)), each, rtol=1e-6)
        assert session.run(metrics.is_correct(x, y)).tolist() == [1.0, 0.0, 1.0]
        right = metrics.means(lambda z, y: {"right": metrics.is_correct(z, y)}, ["right"])
        loss = metrics.means(lambda z, y: {"loss": tf.constant([1.0, 2.0, 6.0])}, ["loss"])
        judged = metrics.make_metrics([right, loss], metrics.Goal("right"))
        sums = session.run(judged.sums(x, tf.constant([1, 1, 2])))
        assert sums == {metrics.COUNT: 3, "0/right": 2.0, "1/loss": 9.0}
        twice = metrics.add_sums(metrics.add_sums({}, sums), {metrics.COUNT: 1, "0/right": 0.0, "1/loss": 1.0})
        assert judged.finish(twice) == {"right": 0.5, "loss": 2.5}


def test_averages_decay_less_at_first_and_evaluation_reads_them():
    """shadow -= (1 - min(decay, (1 + step) / (10 + step))) * (shadow - w)."""
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        with tf.variable_scope("layer"):
            w = tf.get_variable("w", initializer=1.0)
        ema = averages.make_averages(0.5, step)
        move = tf.group(w.assign_add(1.0), step.assign_add(1))
        ema.make([w])
        with tf.control_dependencies([move]):
            update = ema.apply([w])
        with tf.variable_scope("layer", reuse=True, custom_getter=averages.averaged_getter(ema)):
            read = tf.get_variable("w")
        assert read is ema.average(w) and read.op.name == "layer/w/ExponentialMovingAverage"
        session.run(tf.global_variables_initializer())
        shadow, weight = 1.0, 1.0
        for number in range(1, 15):
            session.run(update)
            weight += 1
            decay = min(0.5, (1 + number) / (10 + number))
            shadow -= (1 - decay) * (shadow - weight)
            np.testing.assert_allclose(session.run(read), shadow, rtol=1e-5)


def test_without_averages_the_weights_are_read():
    assert averages.make_averages(0.0, None) is None and averages.averaged_getter(None) is None
