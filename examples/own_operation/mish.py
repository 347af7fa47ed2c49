"""An operation of your own, in C++: `python -m examples.own_operation.mish` compares it with numpy."""

import numpy as np
import tensorflow.compat.v1 as tf

import trainer.ops

operations = trainer.ops.load("mish.cc")  # Built at the first import; its functions have the names in lower case.


@tf.RegisterGradient("OwnMish")
def mish_gradient(op, dy):
    """Computes the gradient, [...] like x: tanh(s) + x * (1 - tanh(s)^2) * sigmoid(x), where s = softplus(x)."""
    x = op.inputs[0]
    tanh = tf.tanh(tf.math.softplus(x))
    return dy * (tanh + x * (1 - tanh * tanh) * tf.sigmoid(x))


mish = operations.own_mish


def mish_in_numpy(x):
    return x * np.tanh(np.logaddexp(0, x))


if __name__ == "__main__":
    with tf.Graph().as_default(), tf.Session():
        x = np.linspace(-20, 20, 101, dtype=np.float32)
        print("largest difference from numpy:", np.abs(mish(tf.constant(x)).eval() - mish_in_numpy(x)).max())
        x = tf.constant(np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6))
        print("largest error of the gradient:", tf.test.compute_gradient_error(x, [4, 6], mish(x), [4, 6]))
