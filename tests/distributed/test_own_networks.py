"""Networks of the user's own over several workers: their losses, their means, and an exact resume."""

import re
import signal

import numpy as np
import pytest

from tests.distributed.jobs import same_losses, variables, wait_for_line
from tests.integration.test_own_models import AVERAGING, NORMALIZED, OWN
from tests.soak import pairs

pytestmark = pytest.mark.timeout(300)
COMMON = ("--batch_size=48", "--decay=constant", "--weight_decay=0.001", "--optimizer=momentum", "--learning_rate=0.02")


def servers(strategy):
    return {"ps": 1} if strategy == "ps_sync" else {}


@pairs(
    "strategy, model",
    [("collective", AVERAGING), ("ps_sync", NORMALIZED)],  # The other way round they are stopped below.
    [(strategy, model) for strategy in ("collective", "ps_sync") for model in (AVERAGING, NORMALIZED)],
)
def test_two_workers_train_as_two_towers_do(strategy, model, run_job, run_program, digits_dir, tmp_path):
    """The statistics of batch normalization are those of 24 pictures in both; its means are averaged alike."""
    if model == NORMALIZED:
        pytest.importorskip("tf_slim")
        pytest.importorskip("tf_keras")
    flags = (*COMMON, f"--model={model}", "--train_steps=50", "--log_every=1")
    where = (f"--logdir={tmp_path / 'one'}", f"--data_dir={digits_dir}", "--eval_every=0")
    assert run_program("trainer", *flags, "--num_gpus=2", *where).code == 0
    job = run_job(*flags, f"--strategy={strategy}", **servers(strategy))
    same_losses(job, tmp_path / "one")
    mine, wanted = variables(job, 50), variables(tmp_path / "one", 50)
    for name, value in wanted.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_workers_normalize_by_the_whole_batch_as_one_tower_does(run_job, run_program, digits_dir, tmp_path):
    flags = (*COMMON, f"--model={OWN / 'normalized.py'}", "--batch_norm=sync", "--train_steps=50", "--log_every=1")
    where = (f"--logdir={tmp_path / 'one'}", f"--data_dir={digits_dir}", "--eval_every=0")
    assert run_program("trainer", *flags, *where).code == 0
    same_losses(run_job(*flags), tmp_path / "one", steps=10)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "model"), [("collective", NORMALIZED), ("ps_sync", AVERAGING)])
def test_a_stopped_job_goes_on_bit_for_bit(strategy, model, launch, run_job):
    if model == NORMALIZED:
        pytest.importorskip("tf_slim")
        pytest.importorskip("tf_keras")
    flags = (*COMMON, f"--model={model}", "--train_steps=400", "--log_every=20", "--deterministic")
    flags = (*flags, "--checkpoint_every=0", f"--strategy={strategy}")
    whole = run_job(*flags, name="whole", **servers(strategy))
    process = launch(*flags, name="stopped", **servers(strategy))
    wait_for_line(process, r"step 100/")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and re.search(r"stopped by SIGTERM after step \d+", out), out
    expected, got = variables(whole, 400), variables(run_job(*flags, name="stopped", **servers(strategy)), 400)
    assert sorted(expected) == sorted(got)
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)
