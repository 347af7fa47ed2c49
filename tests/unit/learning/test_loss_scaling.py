"""Loss scaling of float16, against arithmetic on paper."""

import numpy as np
import pytest

from trainer.learning import loss_scaling
from trainer.tf1 import tf


def test_a_gradient_that_float16_cannot_hold_comes_through():
    """d/dw of 1e-9 * w is 1e-9, below the smallest float16 (6e-8); times 2^15 it is 3.3e-5, divided again 1e-9."""
    with tf.Graph().as_default(), tf.Session() as session:
        w, scale = tf.get_variable("w", initializer=1.0), loss_scaling.LossScale()
        half = tf.cast(w, tf.float16)
        loss = tf.cast(half, tf.float32) * 1e-9
        plain = tf.gradients(loss, [w])
        scaled = scale.divide(tf.gradients(scale.multiply(loss), [w]))
        session.run(tf.global_variables_initializer())
        assert session.run(plain) == [0.0]
        np.testing.assert_allclose(session.run(scaled), [1e-9], rtol=1e-3)


def test_the_scale_doubles_after_finite_steps_in_a_row_and_halves_at_an_overflow(monkeypatch):
    monkeypatch.setattr(loss_scaling, "GROWTH_STEPS", 3)
    with tf.Graph().as_default(), tf.Session() as session:
        scale = loss_scaling.LossScale()
        up, down = tf.group(scale.after_update()), tf.group(scale.after_overflow())
        session.run(tf.global_variables_initializer())
        found = []
        for op in (up, up, up, up, up, down, up, up, up, down):
            session.run(op)
            found.append(np.log2(session.run(scale.scale)))
        assert found == [15, 15, 16, 16, 16, 15, 15, 15, 16, 15]
        for _ in range(40):
            session.run(up)
        assert session.run(scale.scale) == loss_scaling.LARGEST_SCALE
        for _ in range(40):
            session.run(down)
        assert session.run(scale.scale) == 1


@pytest.mark.parametrize(
    ("not_finite", "scale_v", "wanted"),
    [
        ([[0, 1], [0, 3]], 2.0, True),
        ([[0, 0], [0, 1]], 2.0, False),  # The loss itself: no scale helps.
        ([[1, 2], [2, 0]], 2.0, False),
        ([[0, 1]], 1.0, False),  # Nothing is left to halve.
    ],
)
def test_what_a_smaller_scale_can_help(not_finite, scale_v, wanted):
    with tf.Graph().as_default(), tf.Session() as session:
        scale = loss_scaling.LossScale()
        overflow = scale.is_overflow(tf.constant(not_finite, tf.int64))
        session.run(scale.scale.assign(scale_v))
        assert session.run(overflow) == wanted
