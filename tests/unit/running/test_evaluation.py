import contextlib

import pytest

from trainer.data.manifest import load_manifest
from trainer.errors import NotFiniteError
from trainer.graph import EvalGraph
from trainer.learning.metrics import Sums
from trainer.running.evaluation import evaluate
from trainer.tf1 import tf


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error(digits_dir, loss):
    with tf.Graph().as_default(), tf.Session() as session:
        serialized = tf.placeholder(tf.string, [None])
        graph = EvalGraph(serialized, Sums(tf.size(serialized), tf.constant(0), tf.constant(loss)))
        with pytest.raises(NotFiniteError, match=f"the loss on the test set is {loss}") as caught:
            evaluate(
                session,
                graph=graph,
                folder=digits_dir,
                manifest=load_manifest(digits_dir),
                split="test",
                reading=contextlib.nullcontext,
                after_batch=lambda: None,
            )
    assert caught.value.exit_code == 3
