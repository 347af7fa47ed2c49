"""Two steps of loss = x * a * b by two workers: what every strategy comes to, against paper.

x = 2 and 4, a = 3, b = 5, rate 0.1. First step: losses 30 and 60, mean 45; mean gradients da = 3b = 15, db = 3a = 9;
a = 1.5, b = 4.1. Second: losses 2ab and 4ab, mean 3 * 6.15 = 18.45; da = 12.3, db = 4.5; a = 0.27, b = 3.65.
"""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def oracle(program):
    def run(strategy):
        process = program("tests.distributed.oracle", strategy)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["collective", "ps_sync"])
def test_two_steps_of_two_workers_by_hand(strategy, oracle):
    found = oracle(strategy)
    np.testing.assert_allclose(found["losses"], [[45.0, 18.45]] * 2, rtol=1e-6)
    np.testing.assert_allclose(found["after"], [[0.27, 3.65]] * 2, rtol=1e-6)
    if strategy == "ps_sync":
        assert {device[:13] for device in found["on"]} == {"/job:ps/task:"}
        assert len(set(found["on"])) == 2, "the variables are spread over the servers"


def test_own_updates_one_after_the_other_by_hand(oracle):
    """Worker 0 twice: 30; a = 2, b = 4.4, loss 17.6; a = 1.12, b = 4. Worker 1 twice: 17.92; a = -0.48, b = 3.552."""
    found = oracle("ps_async")
    np.testing.assert_allclose(found["losses"], [[30.0, 17.6], [17.92, 4 * -0.48 * 3.552]], rtol=1e-5)
    a, b = -0.48 - 0.1 * 4 * 3.552, 3.552 + 0.1 * 4 * 0.48
    np.testing.assert_allclose(found["after"], [[a, b]] * 2, rtol=1e-5)
