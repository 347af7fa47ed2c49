"""Statistics of the whole batch, as of one tower, and batches that are computed in pieces."""

import numpy as np
import pytest

from tests.integration.test_nonfinite import nan_logits, plant  # noqa: F401  (a fixture)
from tests.integration.test_own_models import KINDS, NORMALIZED, OWN, SETTINGS, _packages, assert_resumes, losses  # noqa: F401
from tests.integration.test_resume import weights
from trainer.errors import UsageError

pytestmark = pytest.mark.timeout(120)
MODEL = f"{OWN / 'normalized.py'}"
NET = SETTINGS | {"model": MODEL, "batch_norm": "sync"}


def assert_near(found, wanted):
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_norm": "tower"},  # one tower has all: by TensorFlow's fused operation
        {"num_gpus": 4},
        {"num_gpus": 4, "steps_per_loop": 20},
        {"num_gpus": 2, "strategy": "replicated", "steps_per_loop": 7},
        pytest.param({"num_gpus": 4, "strategy": "replicated", "reduce": "collective"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_statistics_of_the_whole_batch_are_the_same_on_any_number_of_towers(train, tmp_path, settings):
    one = train(**NET, logdir=str(tmp_path / "one"))
    other = train(**NET | settings, logdir=str(tmp_path / "other"))
    if "steps_per_loop" not in settings:
        np.testing.assert_allclose(losses(other)[:10], losses(one)[:10], rtol=1e-5)
    assert_near(weights(other), weights(one))


def test_features_are_normalized_too(train, tmp_path):
    settings = NET | {"model": f"{MODEL}:flat"}
    runs = [train(**settings, num_gpus=towers, logdir=str(tmp_path / str(towers))) for towers in (1, 4)]
    np.testing.assert_allclose(losses(runs[1])[:10], losses(runs[0])[:10], rtol=1e-5)


def test_statistics_of_towers_are_others(train, tmp_path):
    runs = [
        losses(train(**NET | {"batch_norm": kind}, num_gpus=4, logdir=str(tmp_path / kind)))
        for kind in ("sync", "tower")
    ]
    assert abs(runs[0] - runs[1]).max() > 1e-3


def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(train, tmp_path):
    settings = NET | {"num_gpus": 2, "accumulate": 2, "deterministic": True, "model_args": ["rate=0.3"]}
    assert_resumes(train, tmp_path, settings)


def test_a_step_that_is_not_applied_leaves_the_moving_means(train, tmp_path, plant, monkeypatch):  # noqa: F811
    """Bit for bit: compared with a run whose input drops those batches, whose own means are finite."""
    from trainer.inputs import feed

    keys, same = feed.batch_keys, NET | {"num_gpus": 2, "batch_size": 64, "input": "feed", "deterministic": True}

    def without_three(*args):
        return (batch for number, batch in enumerate(keys(*args)) if number not in (6, 7, 8))

    with monkeypatch.context() as patch:
        patch.setattr(feed, "batch_keys", without_three)
        wanted = weights(train(**same, logdir=str(tmp_path / "wanted")))
    plant(nan_logits, 7, tower=1, times=3)
    found = weights(train(**same, nonfinite="skip"))
    assert found.pop("skipped_steps") == 3 and found.pop("position") == wanted["position"] + 3 * 64
    assert any("moving_mean" in name for name in found)
    for name, value in found.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


@pytest.mark.parametrize("model", ["lenet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS)])
@pytest.mark.parametrize(
    "settings", [{"accumulate": 4}, {"accumulate": 3, "num_gpus": 2, "steps_per_loop": 20}], ids=str
)
def test_a_batch_in_pieces_is_a_batch(train, tmp_path, model, settings):
    same = SETTINGS | {"model": model, "model_args": ["dropout=0"] if model == "lenet" else []}
    one = train(**same, logdir=str(tmp_path / "one"))
    other = train(**same, **settings, logdir=str(tmp_path / "other"))
    if "steps_per_loop" not in settings:
        np.testing.assert_allclose(losses(other), losses(one), rtol=1e-5)
    assert_near(weights(other), weights(one))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "lenet"}, "lenet trains no trainer.models.layers.batch_norm"),
        ({"model": NORMALIZED}, "whose statistics are those of a tower"),
        ({"model": f"{MODEL}:by_moments"}, "normalizes by tower_0/moments/mean, whose statistics are those of a tower"),
        ({"model": f"{MODEL}:unlike", "num_gpus": 2}, "they must be replicas"),
        ({"accumulate": 7}, r"batch_size=48 does not split over 1 towers in 7 pieces each; use 42 or 49"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(train, settings, message):
    with pytest.raises(UsageError, match=message):
        train(**NET | settings)
