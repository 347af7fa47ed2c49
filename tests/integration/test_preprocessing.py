"""Pictures on their way to the model: the same in every run, on any towers; and in evaluation, predict and exports."""

import json
import re

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.soak import pairs
from trainer.data.manifest import load_run_data
from trainer.data.records import load_split
from trainer.evaluating.predicting import open_predictor
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)
RANDOM = "pad(1)|random_crop(8)|flip_lr|rotate(20)|elastic(4, sigma=2)|cutout(2)|brightness(20)|contrast(0.5..1.5)"
TRAINING, EVALUATION = f"{RANDOM}|resize(12)|scale(-1, 1)", "resize(12)|scale(-1, 1)"
# Operations whose results follow from how often they ran.
STATEFUL = re.compile(r'op: "(Random\w*|TruncatedNormal|Multinomial|ParameterizedTruncatedNormal)"')


@pytest.fixture
def losses(train, tmp_path):
    """Trains for 30 steps; returns the losses of three of them."""

    def run(name="one", **settings):
        settings = {
            "preprocess": TRAINING,
            "model_args": ("dropout=0",),
            "train_steps": 30,
            "log_every": "10",
            **settings,
        }
        found = read_metrics(train(**settings, eval_every="0", logdir=str(tmp_path / name)), "loss")
        return np.array(list(found.values()))

    return run


@pytest.mark.parametrize(
    "more",
    [
        {"num_gpus": 4, "queue_readers": 3},
        pytest.param({"steps_per_loop": 10}, marks=pytest.mark.soak),
        pytest.param({"num_gpus": 2, "strategy": "replicated", "staging": "yes"}, marks=pytest.mark.slow),
    ],
    ids=["towers_and_readers", "loop", "replicated"],
)
def test_towers_readers_and_loops_see_the_same_pictures(losses, more):
    np.testing.assert_allclose(losses("other", **more), losses(), rtol=1e-5)


@pairs("more", [({"seed": 2},)], [({"seed": 2},), ({"preprocess": EVALUATION},)])
def test_other_pictures_give_other_losses(losses, more):
    assert (np.abs(losses("other", **more) / losses() - 1) > 1e-3).any()


def test_nothing_random_has_a_state(train):
    graph = (train(preprocess=TRAINING, train_steps=1, eval_every="0") / "graph.pbtxt").read_text()
    nodes = [node for node in graph.split("\nnode {") if re.search(r'name: "[^"]*preprocess', node)]
    assert len(nodes) > 100
    assert not [node for node in nodes if STATEFUL.search(node)]


@pytest.mark.slow  # Of pictures of several sizes, in test_encoded.py, it is not.
def test_evaluation_predict_and_exports_see_the_same_pictures(train, run_here, tmp_path):
    logdir = train(preprocess=TRAINING, eval_preprocess=EVALUATION, train_steps=60, eval_every="0")
    result = json.loads((logdir / "result.json").read_text())
    where = [f"--logdir={logdir}", "--format=saved_model", f"--output={tmp_path / 'model'}"]
    done = run_here("trainer.export", *where)
    assert done.code == 0 and "float32 [12, 12, 1], as the model sees them" in done.out, done
    spec = load_run_data(logdir / "data.json")
    images, labels = load_split(spec, "test")
    found = []
    for path in (logdir, tmp_path / "model"):
        with open_predictor(str(path), checkpoint="", weights="") as predictor:
            assert predictor.image_shape == (8, 8, 1)
            found.append(predictor.predict(images))
    np.testing.assert_array_equal(*found)
    assert np.mean(found[0].argmax(1) == labels) == pytest.approx(result["test_accuracy"])
    with tf.Graph().as_default(), tf.Session() as session:
        resized = tf.round(tf.compat.v2.image.resize(images, [12, 12]))
        meta = tf.saved_model.load(session, [tf.saved_model.SERVING], str(tmp_path / "model" / "1"))
        signature = meta.signature_def["serving_default"]
        fed = {signature.inputs["images"].name: session.run(resized / 127.5 - 1)}
        np.testing.assert_allclose(session.run(signature.outputs["probabilities"].name, fed), found[0], atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preprocess=flip"], "operation=flip is unknown: choose one of"),
        (["--preprocess=pad(1)|random_crop(9)"], "[9, 9, 1] of uint8, and --eval_preprocess=pad(1) [10, 10, 1]"),
        (["--preprocess=random_crop(9)"], "random_crop(9, 9) of pictures of 8 x 8: pad them before"),
        (["--preprocess=flip_lr|scale(0,1)", "--eval_preprocess=none"], "of float32, and --eval_preprocess= [8, 8, 1]"),
        (["--eval_preprocess=flip_lr"], "flip_lr is random, and only --preprocess"),
        (["--preprocess=hue(0.1)"], "hue takes pictures of 3 channels, and here they have 1"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(run_here, digits_dir, tmp_path, flags, message):
    done = run_here("trainer", f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}", *flags)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done
    assert not (tmp_path / "run").exists()
