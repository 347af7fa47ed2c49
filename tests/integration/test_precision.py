"""`--precision=bfloat16`: what is computed in it, what is not, and that it still learns."""

import json

import numpy as np
import pytest

from tests.integration.test_resume import weights
from trainer.learning.losses import cross_entropy
from trainer.models.inference import inference
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


def logits_and_gradients(model, precision):
    rng = np.random.default_rng(1)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.set_random_seed(1)
        images = tf.constant(rng.integers(0, 256, (16, 8, 8, 1), np.uint8))
        logits = inference(images, model=model, num_classes=10, hidden_sizes=(32,), precision=precision)
        variables = tf.trainable_variables()
        assert logits.dtype == tf.float32 and {variable.dtype.base_dtype for variable in variables} == {tf.float32}
        gradients = tf.gradients(cross_entropy(logits, tf.range(16) % 10), variables)
        assert {gradient.dtype for gradient in gradients} == {tf.float32}
        kinds = {op.outputs[0].dtype for op in graph.get_operations() if op.type in ("MatMul", "Conv2D")}
        session.run(tf.global_variables_initializer())
        return kinds, session.run([logits, gradients])


@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_products_are_bfloat16_and_their_results_nearly_those_of_float32(model):
    """bfloat16 has 8 bits: an error of up to 2^-9 in each factor, in a chain of a few layers."""
    kinds, (exact, exact_gradients) = logits_and_gradients(model, "float32")
    assert kinds == {tf.float32}
    kinds, (rough, rough_gradients) = logits_and_gradients(model, "bfloat16")
    assert kinds == {tf.bfloat16}
    assert 0 < np.abs(rough - exact).max() < 0.03 * np.abs(exact).max()
    for one, other in zip(rough_gradients, exact_gradients, strict=True):
        # In a rounded image another pixel may be the largest of four: the gradient then takes another way.
        assert np.sum(one * other) > 0.98 * np.linalg.norm(one) * np.linalg.norm(other)


@pytest.mark.parametrize("towers", [1, 2])
def test_it_learns_and_its_checkpoints_are_those_of_float32(train, tmp_path, towers):
    settings = {"train_steps": 300, "num_gpus": towers, "dropout": 0.0}
    runs = {p: train(**settings, precision=p, logdir=str(tmp_path / p)) for p in ("float32", "bfloat16")}
    one, other = (weights(runs[p]) for p in runs)
    assert {name: value.dtype for name, value in one.items()} == {name: value.dtype for name, value in other.items()}
    results = [json.loads((runs[p] / "result.json").read_text()) for p in runs]
    assert all(result["test_accuracy"] > 0.95 for result in results)
    assert abs(results[0]["test_accuracy"] - results[1]["test_accuracy"]) < 0.02
    # A run may go on in another precision: the weights are the same.
    train(**settings | {"train_steps": 310}, precision="float32", logdir=str(runs["bfloat16"]))
    assert weights(runs["bfloat16"])["global_step"] == 310
