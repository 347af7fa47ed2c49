"""`--precision`: what is computed in it, what is not, and that it still learns."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.test_loops import same
from tests.integration.test_nonfinite import infinite_gradient, nan_logits, plant  # noqa: F401  (a fixture)
from tests.integration.test_resume import weights
from tests.networks import logits_of
from tests.soak import pairs
from trainer.errors import NotFiniteError, UsageError
from trainer.learning.losses import cross_entropy
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


def logits_and_gradients(model, precision):
    rng = np.random.default_rng(1)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.set_random_seed(1)
        images = tf.constant(rng.integers(0, 256, (16, 8, 8, 1), np.uint8))
        logits = logits_of(images, model, "hidden_sizes=32" if model == "mlp" else "", precision=precision)
        variables = tf.trainable_variables()
        assert logits.dtype == tf.float32 and {variable.dtype.base_dtype for variable in variables} == {tf.float32}
        gradients = tf.gradients(cross_entropy(logits, tf.range(16) % 10), variables)
        assert {gradient.dtype for gradient in gradients} == {tf.float32}
        kinds = {op.outputs[0].dtype for op in graph.get_operations() if op.type in ("MatMul", "Conv2D")}
        session.run(tf.global_variables_initializer())
        return kinds, session.run([logits, gradients])


@pytest.mark.parametrize("model", ["lenet", "mlp"])
@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.03), ("float16", 0.004)])
def test_products_are_of_that_type_and_their_results_nearly_those_of_float32(model, precision, error):
    """bfloat16 has 8 bits: an error of up to 2^-9 in each factor, in a chain of a few layers. float16 has 11."""
    kinds, (exact, exact_gradients) = logits_and_gradients(model, "float32")
    assert kinds == {tf.float32}
    kinds, (rough, rough_gradients) = logits_and_gradients(model, precision)
    assert kinds == {tf.as_dtype(precision)}
    assert 0 < np.abs(rough - exact).max() < error * np.abs(exact).max()
    for one, other in zip(rough_gradients, exact_gradients, strict=True):
        # In a rounded image another pixel may be the largest of four: the gradient then takes another way.
        assert np.sum(one * other) > 0.98 * np.linalg.norm(one) * np.linalg.norm(other)


@pairs("towers", [(2,)], [(1,), (2,)])
def test_it_learns_and_its_checkpoints_are_those_of_float32(train, tmp_path, towers):
    settings = {"train_steps": 300, "num_gpus": towers, "model_args": ("dropout=0",)}
    runs = {p: train(**settings, precision=p, logdir=str(tmp_path / p)) for p in ("float32", "bfloat16")}
    one, other = (weights(runs[p]) for p in runs)
    assert {name: value.dtype for name, value in one.items()} == {name: value.dtype for name, value in other.items()}
    results = [json.loads((runs[p] / "result.json").read_text()) for p in runs]
    assert all(result["test_accuracy"] > 0.95 for result in results)
    assert abs(results[0]["test_accuracy"] - results[1]["test_accuracy"]) < 0.02
    # A run may go on in another precision: the weights are the same.
    train(**settings | {"train_steps": 310}, precision="float32", logdir=str(runs["bfloat16"]))
    assert weights(runs["bfloat16"])["global_step"] == 310


@pytest.mark.parametrize(("towers", "loop"), [(1, 1), (2, 1), (2, 10)])
def test_float16_learns_and_an_overflow_halves_the_scale_and_is_not_applied(
    train,
    plant,  # noqa: F811
    tmp_path,
    capsys,
    towers,
    loop,
):
    """Three gradients in a row are infinite, at finite losses: three batches pass, no update is missing."""
    plant(infinite_gradient, first=17, tower=towers - 1, times=3)
    settings = {
        "model": "mlp",
        "model_args": ("hidden_sizes=64, dropout=0",),
        "learning_rate": 0.005,
        "train_steps": 200,
        "num_gpus": towers,
        "steps_per_loop": loop,
        "summary_every": "10",
    }
    run = train(**settings, precision="float16", logdir=str(tmp_path / "run"))
    state = weights(run)
    assert (state["global_step"], state["position"], state["skipped_steps"]) == (200, 203 * 64, 0)
    assert (state["loss_scale"], state["loss_scale_steps"]) == (2.0**12, 200 - 16)
    scales = {event.step: event.value for event in EventAccumulator(str(run)).Reload().Scalars("loss_scale")}
    assert (scales[10], scales[20]) == (2.0**15, 2.0**12)
    assert "3 steps overflowed float16 and were not applied; each halved the loss scale" in capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert (result["overflowed_steps"], result["skipped_steps"]) == (3, 0)
    assert result["test_accuracy"] > 0.9 and result["epochs"] == pytest.approx(203 * 64 / 1258, abs=1e-3)


def test_float16_stops_where_the_loss_itself_is_not_finite(train, plant):  # noqa: F811
    plant(nan_logits, first=5)
    with pytest.raises(NotFiniteError, match="step 5 is not finite and not applied: the loss"):
        train(train_steps=10, precision="float16", model="mlp")


@pytest.mark.slow
def test_float16_resumes_with_its_scale(train, plant, tmp_path):  # noqa: F811
    plant(infinite_gradient, first=3, times=2)
    settings = {"model": "mlp", "precision": "float16", "log_every": "1", "decay": "constant"}
    one = train(**settings, train_steps=20, logdir=str(tmp_path / "one"))
    for steps in (10, 20):
        two = train(**settings, train_steps=steps, logdir=str(tmp_path / "two"))
    same(weights(two), weights(one))
    with pytest.raises(UsageError, match="precision: float16 -> float32"):
        train(model="mlp", train_steps=30, logdir=str(two))
