"""Warm starts on paper, and against plain `Saver`s."""

import numpy as np
import pytest

from tests.conftest import REPO
from trainer.errors import TrainerError, UsageError
from trainer.saving.restoring import build_warm_start, check_warm_start, describe, plan_warm_start
from trainer.saving.tensors import TensorInfo
from trainer.tf1 import tf

AVERAGE = "/ExponentialMovingAverage"
W = TensorInfo((2, 2), "float32")


def plan(tensors, wanted, averages=(), exclude=(), rename=()):
    infos = [dict.fromkeys(names, W) if not isinstance(names, dict) else names for names in (tensors, wanted, averages)]
    return plan_warm_start("path", *infos, exclude=exclude, rename=rename)


def test_each_variable_and_each_tensor_is_in_one_list():
    tensors = {"a/w": W, "b/w": TensorInfo((3,), "float32"), "old/w": W, "a/w/Adam": W}
    found = plan(tensors, ["a/w", "b/w", "c/w", "d/w"], [f"a/w{AVERAGE}"], exclude=["d"], rename=[("^old", "new")])
    assert found.loaded == {"a/w": "a/w"}
    assert found.different == ["b/w is float32 [2, 2], in the checkpoint float32 [3]"]
    assert found.missing == ["c/w"] and found.excluded == ["d/w"]
    assert found.extra == ["a/w/Adam", "b/w", "old/w"]
    assert describe(plan(["a/w", "x"], ["a/w", "c"], exclude=["c"])) == [
        "loaded    a/w",
        "excluded  c keeps its initial value",
        "extra     x in the checkpoint is not used",
    ]


def test_rules_rename_averages_with_their_weights():
    found = plan(["net/a/w", f"net/a/w{AVERAGE}"], ["a/w"], [f"a/w{AVERAGE}"], rename=[("^net/", "")])
    assert found.loaded == {"a/w": "net/a/w", f"a/w{AVERAGE}": f"net/a/w{AVERAGE}"}
    assert found.extra == []


def test_an_exclusion_is_a_scope_or_a_name_never_a_beginning():
    found = plan(["conv1/w", "conv10/w"], ["conv1/w", "conv10/w"], exclude=["conv1"])
    assert found.excluded == ["conv1/w"] and list(found.loaded) == ["conv10/w"]
    assert plan(["conv1/w", "conv10/w"], ["conv1/w", "conv10/w"], exclude=["conv.*"]).loaded == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exclude": ["nothing"]}, "matches no variable"),
        ({"rename": [("nothing", "x")]}, "changes no name"),
        ({"rename": [("^a/w$", "b/w")]}, "one name"),
    ],
)
def test_a_rule_that_does_nothing_is_a_mistake(settings, message):
    with pytest.raises(UsageError, match=message):
        plan(["a/w", "b/w"], ["a/w", "b/w"], **settings)


def test_what_is_missing_or_different_is_refused_with_its_names():
    check_warm_start(plan(["a"], ["a", "b"]), ignore_missing=True)
    with pytest.raises(UsageError, match="b is not in the checkpoint"):
        check_warm_start(plan(["a"], ["a", "b"]), ignore_missing=False)
    with pytest.raises(UsageError, match="a is float32"):
        check_warm_start(plan({"a": TensorInfo((), "float64")}, ["a"]), ignore_missing=True)


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [(10, 1001, "the data have 10 classes, if these are heads"), (1000, 1001, "--labels_offset=-1"), (1000, 999, "=1")],
)
def test_a_head_of_another_size_is_told_with_what_to_do(here, there, told):
    sizes = [
        {"head/weights": TensorInfo((7, n), "float32"), "head/biases": TensorInfo((n,), "float32")}
        for n in (there, here)
    ]
    with pytest.raises(UsageError, match=told):
        check_warm_start(plan(*sizes), ignore_missing=True)


def build_model(averaged=True, seed=0.0):
    """Declares a model 64-4-10 as layers do, with averages where asked for."""
    kinds = [tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.MODEL_VARIABLES]
    shapes = {"hidden1/weights": [64, 4], "hidden1/biases": [4], "logits/weights": [4, 10], "logits/biases": [10]}
    variables = {}
    for name, shape in shapes.items():
        variables[name] = tf.get_variable(name, initializer=np.full(shape, seed, np.float32), collections=kinds)
        if averaged:
            variables[f"{name}{AVERAGE}"] = tf.get_variable(
                f"{name}{AVERAGE}", initializer=np.full(shape, seed, np.float32), trainable=False
            )
    return variables


def start(path, **settings):
    """Warm-starts the model; returns its values and what was said."""
    said = []
    settings = {"exclude": (), "rename": (), "ignore_missing": False, **settings}
    with tf.Graph().as_default(), tf.Session() as session:
        variables = build_model(seed=-7.0)
        load = build_warm_start(str(path), say=said.append, **settings)
        load(session)
        return session.run(variables), said


@pytest.mark.parametrize("name", ["v1.ckpt-7", "v2.ckpt-7", "v2.ckpt-7.index"])
def test_checkpoints_of_tensorflow_1_15_are_loaded_weights_and_averages(name):
    folder = REPO / "tests/golden/tf115"
    with np.load(folder / "values.npz") as stored:
        wanted = {key.replace(".", "/"): stored[key] for key in stored.files}
    found, said = start(folder / name)
    assert len(found) == 8
    for key, value in found.items():
        assert np.array_equal(value, wanted[key]), key
    assert "extra     hidden1/weights/Momentum in the checkpoint is not used" in said


def test_averages_that_a_checkpoint_lacks_begin_at_the_loaded_weights(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        build_model(averaged=False, seed=3.0)
        session.run(tf.global_variables_initializer())
        path = tf.train.Saver().save(session, str(tmp_path / "plain"))
    found, _ = start(path, exclude=["logits/biases"])
    assert set(np.unique(found["hidden1/weights"])) == {3.0}
    assert set(np.unique(found[f"hidden1/weights{AVERAGE}"])) == {3.0}
    assert set(np.unique(found["logits/biases"])) == set(np.unique(found[f"logits/biases{AVERAGE}"])) == {-7.0}


def test_a_warm_start_that_loads_nothing_is_a_mistake():
    with pytest.raises(UsageError, match="nothing of it would be loaded"):
        start(REPO / "tests/golden/tf115/v2.ckpt-7", exclude=[".*"])


def test_a_checkpoint_that_is_damaged_or_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        start(tmp_path / "nothing")
    with pytest.raises(UsageError, match="holds no checkpoint"):
        start(tmp_path)
    (tmp_path / "m.index").write_bytes(b"nonsense")
    with pytest.raises(TrainerError, match="cannot be read"):
        start(tmp_path / "m")
