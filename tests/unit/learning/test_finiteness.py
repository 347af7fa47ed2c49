"""The gate in front of the update, against numpy."""

import numpy as np
import pytest

from trainer.learning.finiteness import after, all_finite, find_not_finite, finite_or_zero, look_at, update_if_finite
from trainer.tf1 import tf


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_one_bad_element_anywhere_is_found(dtype, value):
    rng = np.random.default_rng(1)
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = [tf.placeholder(dtype, [None, None]), tf.placeholder(dtype, [None])]
        finite = all_finite(look_at(inputs))
        for size in (1, 2, 17, 1000):
            arrays = [rng.normal(size=(size, 3)).astype(dtype), np.full(size, np.finfo(dtype).max)]
            if value is not None:
                chosen = arrays[rng.integers(2)]
                chosen.flat[rng.integers(chosen.size)] = value
            wanted = all(np.isfinite(array).all() for array in arrays)
            assert wanted == (value is None)
            assert session.run(finite, dict(zip(inputs, arrays, strict=True))) == wanted


def test_rows_and_columns_of_what_is_not_finite():
    rows = [[1.0, [2.0, 3.0]], [np.nan, [4.0, np.inf]], [5.0, [6.0, -np.inf]]]
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(find_not_finite([look_at([tf.constant(x) for x in row]) for row in rows]))
    assert found.tolist() == [[1, 0], [1, 1], [2, 1]]


def test_the_update_or_what_is_done_in_its_place():
    with tf.Graph().as_default(), tf.Session() as session:
        w, skipped = tf.get_variable("w", initializer=10.0), tf.get_variable("skipped", initializer=0)
        towers = [tf.placeholder(tf.float32, []) for _ in range(2)]
        mean = (towers[0] + towers[1]) / 2
        refused = update_if_finite(
            [[towers[0]], [towers[1]], [mean]],
            update=lambda: [w.assign_sub(mean)],
            otherwise=lambda not_finite: after([skipped.assign_add(1)], not_finite),
        )
        session.run(tf.global_variables_initializer())
        for values, where, state in [
            ((1.0, 2.0), [], (8.5, 0)),
            ((np.nan, 2.0), [[0, 0], [2, 0]], (8.5, 1)),
            ((1.0, np.inf), [[1, 0], [2, 0]], (8.5, 2)),
            ((3e38, 3e38), [[2, 0]], (8.5, 3)),  # Finite, but their sum is not.
            ((1.0, 1.0), [], (7.5, 3)),
        ]:
            assert session.run(refused, dict(zip(towers, values, strict=True))).tolist() == where
            assert tuple(session.run([w, skipped])) == state


def test_histograms_get_numbers():
    with tf.Graph().as_default(), tf.Session() as session:
        values = session.run(finite_or_zero(tf.constant([1.0, np.nan, -np.inf, 2.0])))
    assert values.tolist() == [1, 0, 0, 2]
