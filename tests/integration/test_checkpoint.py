"""`trainer.checkpoint`: the verbs as a user types them; what they write is read by plain `Saver`s."""

import json

import numpy as np
import pytest

from trainer import checkpoint
from trainer.console import Console
from trainer.errors import UsageError
from trainer.saving.tensors import load_tensors
from trainer.signals import Signals
from trainer.tf1 import tf


@pytest.fixture
def run(train_once):
    return train_once(
        model="mlp", model_args=("hidden_sizes=6",), train_steps=30, checkpoint_every="10", keep_checkpoints=3
    )


def call(*args):
    return checkpoint._checkpoint(["checkpoint", *map(str, args)], Console(), Signals())


def test_a_checkpoint_is_shown_and_listed(run, capsys):
    assert call("list", run) == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if "complete" in line] == ["10", "20", "30"]
    assert call("show", run) == 0
    out = capsys.readouterr().out
    biases = load_tensors(str(run / "model.ckpt-30"))["logits/biases"]
    (line,) = (line for line in out.splitlines() if "logits/biases " in line)
    for figure in (biases.min(), biases.max(), biases.mean(dtype=np.float64), biases.std(dtype=np.float64)):
        assert f"{figure:.4g}" in line
    assert call("show", run / "model.ckpt-20", "--tensor=global_step") == 0
    assert capsys.readouterr().out == "20\n"
    data = run / "model.ckpt-20.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-9])
    assert call("list", run) == 1
    assert "damaged" in capsys.readouterr().out


def test_the_difference_is_an_exit_code(run, capsys):
    assert call("diff", run / "model.ckpt-30", run) == 0
    assert "all equal" in capsys.readouterr().out
    assert call("diff", run / "model.ckpt-20", run / "model.ckpt-30") == 1
    assert "global_step differs in 1 of 1 values, by up to 10" in capsys.readouterr().out
    assert call("diff", run / "model.ckpt-20", run / "model.ckpt-30", "--tolerance=1e9") == 0


def test_the_average_of_the_last_is_the_mean_of_their_weights(run, tmp_path):
    assert call("average", run, "--last=2", f"--output={tmp_path / 'mean'}") == 0
    found = load_tensors(str(tmp_path / "mean"))
    one, other = (load_tensors(str(run / f"model.ckpt-{step}")) for step in (20, 30))
    for name in ("hidden1/weights", "logits/biases/ExponentialMovingAverage"):
        np.testing.assert_allclose(found[name], (one[name].astype(float) + other[name]) / 2, rtol=1e-7)
    assert found["global_step"] == 30
    # It is a checkpoint like any other: evaluated and continued by the same model.
    assert call("diff", tmp_path / "mean", run / "model.ckpt-30") == 1


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_plain_saver_restores_stripped_renamed_and_converted_weights(run, tmp_path, weights):
    assert call("strip", run, f"--weights={weights}", f"--output={tmp_path / 'stripped'}") == 0
    assert call("rename", tmp_path / "stripped", "--rule=^hidden1=>fc/first", f"--output={tmp_path / 'renamed'}") == 0
    assert call("convert", tmp_path / "renamed", "--to=v1", f"--output={tmp_path / 'old'}") == 0
    assert call("convert", tmp_path / "old", "--to=v2", f"--output={tmp_path / 'new'}") == 0
    source = load_tensors(str(run / "model.ckpt-30"))
    ending = "/ExponentialMovingAverage" if weights == "ema" else ""
    names = {"fc/first/weights": "hidden1/weights", "logits/biases": "logits/biases"}
    for path in ("renamed", "old", "new"):
        with tf.Graph().as_default(), tf.Session() as session:
            variables = [tf.get_variable(name, source[old].shape) for name, old in names.items()]
            tf.train.Saver(variables).restore(session, str(tmp_path / path))
            for value, old in zip(session.run(variables), names.values(), strict=True):
                assert np.array_equal(value, source[old + ending])
        assert len(load_tensors(str(tmp_path / path))) == 4


def test_a_map_of_names_is_a_file(run, tmp_path):
    (tmp_path / "map").write_text("hidden1/weights=>a\n")
    assert call("rename", run, f"--map={tmp_path / 'map'}", f"--output={tmp_path / 'renamed'}") == 0
    assert "a" in load_tensors(str(tmp_path / "renamed"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["frob"], "verb=frob is unknown"),
        (["show"], "show takes CHECKPOINT, got 0 arguments"),
        (["diff", "RUN"], "diff takes CHECKPOINT CHECKPOINT, got 1"),
        (["show", "RUN", "--tensor=logits/weight"], "did you mean logits/weights"),
        (["show", "/nowhere"], "does not exist"),
        (["list", "/nowhere"], "holds no model.ckpt-N"),
        (["strip", "RUN"], "--output is missing"),
        (["strip", "RUN", "--output=RUN/model.ckpt-30"], "exists already"),
        (["strip", "RUN", "--output=RUN/new", "--weights=all"], "weights=all is unknown"),
        (["average", "RUN", "--output=RUN/new", "--last=9"], "last=9 is out of range"),
        (["average", "RUN/model.ckpt-30", "--output=RUN/new"], "two checkpoints and more"),
        (["rename", "RUN", "--output=RUN/new"], "give either --rule"),
        (["rename", "RUN", "--output=RUN/new", "--rule=x"], "old=>new"),
        (["rename", "RUN", "--output=RUN/new", "--rule=(=>x"], "no regular expression"),
        (["convert", "RUN", "--output=RUN/new", "--to=v3"], "to=v3 is unknown"),
    ],
)
def test_mistakes_of_a_verb_are_explained(run, args, message):
    with pytest.raises(UsageError) as found:
        call(*(arg.replace("RUN", str(run)) for arg in args))
    assert message in str(found.value)
    assert not list(run.glob("new*"))


def test_the_command_lines_help_and_exit_codes(run_program, run):
    done = run_program("trainer.checkpoint", "--help")
    assert done.code == 0 and all(verb in done.out for verb in ("list", "show", "diff", "rename", "average", "strip"))
    done = run_program("trainer.checkpoint", "show", "/nowhere")
    assert done.code == 2 and done.err.startswith("error: ") and "Traceback" not in done.err
    assert json.loads((run / "result.json").read_text())["step"] == 30
