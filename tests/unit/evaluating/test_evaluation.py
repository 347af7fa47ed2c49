import contextlib

import numpy as np
import pytest

from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.errors import NotFiniteError
from trainer.evaluating.evaluation import evaluate, images_at_once
from trainer.graph.evaluation import EvalGraph, build_eval_graph
from trainer.learning.losses import cross_entropy
from trainer.learning.metrics import Goal, Metrics, add_sums
from trainer.learning.task import make_task
from trainer.models.functions import find_model
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf


def run_evaluation(session, graph, metrics, spec, **settings):
    return evaluate(
        session, graph=graph, metrics=metrics, spec=spec, split="test", reading=contextlib.nullcontext, **settings
    )


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error(digits_dir, loss):
    with tf.Graph().as_default(), tf.Session() as session:
        serialized = tf.placeholder(tf.string, [None])
        sums = {"count": tf.size(serialized), "loss": tf.constant(loss)}
        graph = EvalGraph(serialized, sums, tf.constant(0.0), {"image": tf.zeros([1, 8, 8, 1])})
        metrics = Metrics(lambda z, y: sums, lambda totals: {"loss": float(totals["loss"])}, ("loss",), Goal("loss"))
        with pytest.raises(NotFiniteError, match=f"the loss on the test set is {loss}") as caught:
            run_evaluation(session, graph, metrics, load_manifest(digits_dir))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("batch_size", [1000, 100, 7])
def test_metrics_that_are_no_means_stream_over_batches_of_any_size(digits_dir, batch_size):
    """R2 = 1 - sum (y - z)^2 / (sum y^2 - (sum y)^2 / n), against numpy on all labels at once."""
    spec = load_manifest(digits_dir)

    def sums(outputs, labels):
        y, z = tf.cast(labels, tf.float32), tf.reduce_mean(outputs, 1)
        values = {"rest": (y - z) ** 2, "squares": y**2, "sum": y, "count": tf.ones_like(y)}
        return {name: tf.reduce_sum(value) for name, value in values.items()}

    def finish(totals):
        spread = totals["squares"] - totals["sum"] ** 2 / totals["count"]
        return {"r2": float(1 - totals["rest"] / spread), "loss": float(totals["rest"] / totals["count"])}

    task = make_task(spec, model=find_model("mlp", ["hidden_sizes=4"], UserCode()), loss=cross_entropy)
    task = task._replace(metrics=Metrics(sums, finish, ("r2", "loss"), Goal("r2")))
    seen = []
    with tf.Graph().as_default(), tf.Session() as session:
        graph = build_eval_graph(task, spec, data_format="auto", device="/cpu:0", reuse=False)
        session.run(tf.global_variables_initializer())
        found = run_evaluation(
            session, graph, task.metrics, spec, batch_size=batch_size, observe=lambda z, _: seen.append(z)
        )
    y, z = load_split(spec, "test")[1].astype(np.float64), np.concatenate(seen).mean(axis=1)
    assert found["r2"] == pytest.approx(1 - ((y - z) ** 2).sum() / ((y - y.mean()) ** 2).sum(), rel=1e-5)


def test_sums_add_up_in_wide_types():
    totals = {}
    for _ in range(3):
        totals = add_sums(totals, {"count": np.int32(2**31 - 1), "loss": np.float32(0.1)})
    assert totals["count"] == 3 * (2**31 - 1) and totals["loss"] == pytest.approx(3 * np.float64(np.float32(0.1)))


@pytest.mark.parametrize(
    ("shape", "count"), [((28, 28, 1), 500), ((32, 32, 3), 500), ((224, 224, 3), 41), ((4000, 3000, 3), 1)]
)
def test_large_pictures_are_taken_few_at_a_time(shape, count):
    assert images_at_once(shape) == count
