"""What the workers of a cluster have in common beside gradients: the rate that evaluations lower, a stream, pieces."""

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.distributed.jobs import variables
from tests.integration.test_own_models import OWN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
FLAGS = (
    "--model=mlp", "--model_args=hidden_sizes=16, dropout=0", "--batch_size=24", "--learning_rate=0.1",
    "--optimizer=sgd", "--decay=plateau:0.5:1", "--eval_every=4", "--log_every=1", "--train_steps=40",
    f"--input={OWN / 'given_examples.py'}:by_epoch", "--accumulate=2",
)  # fmt: skip


@pytest.mark.parametrize(("strategy", "servers"), [("collective", {}), ("ps_sync", {"ps": 1})])
def test_two_workers_lower_the_rate_and_read_the_stream_as_two_towers_do(
    strategy, servers, run_job, run_program, tmp_path
):
    one = run_program("trainer", *FLAGS, "--num_gpus=2", f"--logdir={tmp_path / 'one'}")
    assert one.code == 0, one
    job = run_job(*FLAGS, f"--strategy={strategy}", digits=False, **servers)
    for name in ("loss", "learning_rate"):
        mine, wanted = (np.array(list(read_metrics(path, name).values())) for path in (job, tmp_path / "one"))
        np.testing.assert_allclose(mine, wanted, rtol=1e-5)
    assert len(set(np.round(wanted, 8))) > 2  # It fell, more than once.
    np.testing.assert_allclose(
        variables(job, 40)["plateau"], variables(tmp_path / "one", 40)["plateau"], rtol=1e-5, atol=1e-6
    )
