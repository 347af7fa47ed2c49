"""Data that a function of the user's gives."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.integration.test_own_models import OWN
from tests.integration.test_resume import weights
from trainer import api
from trainer.data.spec import DataError
from trainer.errors import TrainerError, UsageError

pytestmark = pytest.mark.timeout(120)
FILE = OWN / "given_examples.py"
SETTINGS = {
    "model": "mlp", "model_args": ["hidden_sizes=16, dropout=0"], "batch_size": 24, "learning_rate": 0.02,
    "epochs": 20.0, "decay": "constant", "quiet": True,
}  # fmt: skip


def run(tmp_path, function="examples", name="run", **settings):
    return api.train(**SETTINGS | {"input": f"{FILE}:{function}", "logdir": tmp_path / name, **settings})


@pytest.mark.parametrize("function", ["examples", "named", "tensors", "reusing"])
def test_it_is_learned(tmp_path, function, run_here):
    result = run(tmp_path, function, num_gpus=2)
    assert result.test["accuracy"] == 1 and result.epochs == pytest.approx(20, abs=0.1)
    evaluated = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}", "--json", "--split=validation")
    assert json.loads(evaluated.out.splitlines()[-1])["num_examples"] == 60
    names = json.loads((tmp_path / "run" / "data.json").read_text())["class_names"]
    assert names == (["0", "1", "2", "3"] if function in ("examples", "reusing") else ["ne", "nw", "se", "sw"])


@pytest.mark.parametrize(("function", "goal"), [("several", "mean_average_precision"), ("numbers", "r2")])
def test_several_classes_and_numbers_too(tmp_path, function, goal):
    assert run(tmp_path, function).test[goal] > 0.9


@pytest.mark.parametrize(
    "settings",
    [{"num_gpus": 2, "steps_per_loop": 4}, {"input": f"{FILE}:shuffling"}],
    ids=str,
)
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(tmp_path, settings):
    """Stopped in the second epoch, whose examples differ from those of the first."""
    same = {
        "train_steps": 20,
        "epochs": 0.0,
        "preprocess": "pad(1)|random_crop(8)",
        "eval_preprocess": "none",
    } | settings
    run(tmp_path, "by_epoch", "whole", **same)
    run(tmp_path, "by_epoch", "parts", **same | {"train_steps": 11})
    run(tmp_path, "by_epoch", "parts", **same)
    whole = weights(tmp_path / "whole")
    for name, value in weights(tmp_path / "parts").items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


def test_all_but_new_data_works_when_the_file_is_gone(tmp_path, run_here):
    folder = tmp_path / "code"
    folder.mkdir()
    shutil.copy(FILE, folder)
    settings = {"input": str(folder / "given_examples.py"), "epochs": 0.0}
    run(tmp_path, **settings, train_steps=10)
    shutil.rmtree(folder)
    result = run(tmp_path, **settings, train_steps=160)
    assert result.step == 160 and result.test["accuracy"] == 1
    for _ in range(2):
        evaluated = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}", "--json")
        assert json.loads(evaluated.out.splitlines()[-1])["accuracy"] == 1
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "moved").rename(tmp_path / "run")
    Image.fromarray(np.full((8, 8), 20, np.uint8)).save(tmp_path / "one.png")
    assert run_here("trainer.predict", f"--model={tmp_path / 'run'}", str(tmp_path / "one.png")).code == 0
    of_train = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}", "--split=train")
    assert of_train.code == 2 and "lies nowhere: take another split" in of_train.err


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        ("floats", {}, "is float64"),
        ("of_sizes", {}, r"example 1 of train, by .* is \[7, 8, 1\], and those before it are \[8, 8, 1\]"),
        ("failing", {}, r"given_examples.py:\d+, in failing: KeyError: 'no such file'"),
        ("failing_later", {}, r"given_examples.py:\d+, in failing_later: KeyError"),
        ("fewer", {}, "gives 199 training examples in epoch 1, and gave 200 when the run began"),
        ("mixed", {}, "the label of example 50 of train, by .* is 'n?[ns][ew]', and one before it"),
        ("no_validation", {}, "gives no example of validation"),
        ("nothing_between", {}, "example 40 of train is a NoneType; wanted a pair"),
        ("growing", {}, "gives 201 or more training examples in epoch 1, and gave 200"),
        ("unlabelled", {}, "gives no label, of 320 examples"),
        ("huge", {}, "a label is 30,000,000, of 320 examples; number the classes from 0 on"),
        ("nan", {}, "the label of example 7 of train, by .*: it is nan, no number"),
        ("other_later", {}, r"example \d+ of epoch 1: a label is \d, which it was not when the run began"),
        ("alone", {}, "example 0 of train is a ndarray; wanted a pair"),
        ("none", {}, "returned a NoneType; wanted an iterator"),
        ("wrong", {}, r"takes \(\); wanted examples\(split, option=default, ...\)"),
        ("missing", {}, "function"),
        ("examples", {"input_args": "birght=3"}, "it takes bright=0"),
        ("examples", {"input_args": "bright='much'"}, "bright='much' is not legal: wanted a whole number"),
        ("examples", {"data_dir": "data/digits"}, "--data_dir and --input=.* conflict"),
        ("examples", {"decode_threads": 2}, "is of --input=queue or --input=files"),
    ],
)
def test_what_is_no_data_is_told_in_a_line(tmp_path, function, settings, message):
    with pytest.raises((UsageError, DataError), match=message):
        run(tmp_path, function, **settings)


def test_what_a_generator_imports_when_it_begins_is_kept_too(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    shutil.copy(FILE, folder)
    (folder / "quarters_beside.py").write_text("names = ('a', 'b', 'c', 'd')\n")
    settings = {"input": f"{folder / 'given_examples.py'}:importing", "epochs": 0.0}
    run(tmp_path, **settings, train_steps=10)
    shutil.rmtree(folder)
    assert run(tmp_path, **settings, train_steps=160).test["accuracy"] == 1
    assert list((tmp_path / "run" / "code").rglob("quarters_beside.py"))


def test_options_of_other_inputs_are_refused(train):
    with pytest.raises(UsageError, match=r"--input_args=a=1 is of --input=file\.py:function"):
        train(input_args="a=1")


def test_another_function_is_another_run(tmp_path):
    run(tmp_path, epochs=1.0)
    with pytest.raises(TrainerError, match=r"holds a run on --input=.*given_examples.py:examples, not on"):
        run(tmp_path, "named", epochs=2.0)
