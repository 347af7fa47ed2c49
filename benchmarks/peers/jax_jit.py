"""A jitted JAX step; the images live on the device. `jax_jit.py WORK`."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from common import batches, load_data, repeat, serve

work = sys.argv[1]
images, labels = (jnp.asarray(array) for array in load_data())
rng = np.random.default_rng(1)


def make(*shape):
    return jnp.asarray(rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape), jnp.float32), jnp.zeros(shape[-1])


def conv(h, layer):
    w, b = layer
    h = jax.lax.conv_general_dilated(h, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
    return jax.lax.reduce_window(jax.nn.relu(h), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def logits(layers, x):
    h = x.astype(jnp.float32) / 255
    for layer in layers[:-2]:
        h = conv(h, layer)
    h = h.reshape(len(x), -1)
    (w1, b1), (w2, b2) = layers[-2:]
    return jax.nn.relu(h @ w1 + b1) @ w2 + b2


def loss_of(layers, x, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits(layers, x)), y[:, None], 1).mean()


def adam(weights, gradients, state):
    count, first, second = state
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    rate = 0.001 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    return jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), weights, first, second), (
        count,
        first,
        second,
    )


def sgd(weights, gradients, state):
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradients), state


if work == "lenet":
    weights = [make(5, 5, 1, 32), make(5, 5, 32, 64), make(7 * 7 * 64, 512), make(512, 10)]
    zeros = jax.tree.map(jnp.zeros_like, weights)
    update, state = adam, (jnp.zeros([]), zeros, jax.tree.map(jnp.copy, zeros))
else:
    weights = [make(784, 500), make(500, 10)]
    update, state = sgd, ()


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(weights, state, chosen):
    gradients = jax.grad(loss_of)(weights, images[chosen], labels[chosen])
    return update(weights, gradients, state)


source = batches(len(labels))


def step():
    global weights, state
    weights, state = train_step(weights, state, next(source).astype(np.int32))


serve(repeat(step, lambda: jax.block_until_ready(weights)))
