"""NaN and infinity, planted in the data, in a gradient, in one tower of four: never applied, never saved, named."""

import json

import numpy as np
import pytest

import trainer.learning.task
from trainer.errors import NotFiniteError
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)
PLAIN = {"model": "mlp", "model_args": ("hidden_sizes=16, dropout=0",), "decay": "constant", "log_every": "1"}


def weights(logdir):
    reader = tf.train.NewCheckpointReader(tf.train.latest_checkpoint(str(logdir)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def nan_logits(logits, bad):
    return logits + tf.where(bad, np.float32(np.nan), np.float32(0))


def spoil_gradient(value):
    """Leaves the logits as they are, but multiplies their gradient with a value where `bad`."""

    def how(logits, bad):
        @tf.custom_gradient
        def same(x):
            return tf.identity(x), lambda dy: dy * tf.where(bad, np.float32(value), np.float32(1))

        return same(logits)

    return how


nan_gradient, infinite_gradient = spoil_gradient(np.nan), spoil_gradient(np.inf)


@pytest.fixture
def plant(monkeypatch):
    """Spoils the logits of one tower (None: all) at the updates from one step on, so many times in a row."""

    def spoil(how, first, tower=None, times=1):
        real = trainer.learning.task.build_model

        def spoiled(function, images, **rest):
            built = real(function, images, **rest)
            logits = built.logits
            if "tower_" not in logits.name:
                return built  # In the evaluation.
            here = tower is None or f"tower_{tower}/" in logits.name
            # Batches before this one: that many steps were applied or skipped.
            (position,) = [variable for variable in tf.global_variables() if variable.op.name == "position"]
            number = position.read_value() // 64
            bad = (number >= first - 1) & (number < first - 1 + times)
            return built._replace(logits=how(logits, bad & here))

        monkeypatch.setattr(trainer.learning.task, "build_model", spoiled)

    return spoil


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (nan_logits, "the loss, the gradient of hidden1/weights, the gradient of hidden1/biases and 2 more in tower 0"),
        (nan_gradient, "the gradient of hidden1/weights, the gradient of hidden1/biases"),
    ],
)
def test_the_run_stops_with_code_3_and_keeps_the_steps_before(train, tmp_path, plant, how, told):
    plant(how, 7)
    with pytest.raises(NotFiniteError) as caught:
        train(**PLAIN, train_steps=20)
    assert caught.value.exit_code == 3
    assert f"step 7 is not finite and not applied: {told}" in str(caught.value)
    logdir = tmp_path / "run"
    assert json.loads((logdir / "result.json").read_text())["status"] == "not finite"
    saved = weights(logdir)
    assert saved["global_step"] == 6 and saved["position"] == 6 * 64
    assert all(np.isfinite(value).all() for value in saved.values())


@pytest.mark.parametrize("how", [nan_logits, nan_gradient])
def test_the_tower_is_named(train, plant, how):
    plant(how, 3, tower=2)
    with pytest.raises(NotFiniteError, match="tower 2") as caught:
        train(**PLAIN, train_steps=20, num_gpus=4)
    assert "tower 0" not in str(caught.value) and "mean" not in str(caught.value)


def test_the_same_command_goes_on_with_the_batch_that_was_refused(train, tmp_path, plant, monkeypatch):
    whole = weights(train(**PLAIN, train_steps=12, logdir=str(tmp_path / "whole")))
    with monkeypatch.context():
        plant(nan_logits, 7)
        with pytest.raises(NotFiniteError):
            train(**PLAIN, train_steps=12)
    monkeypatch.undo()
    again = weights(train(**PLAIN, train_steps=12))
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_skipped_steps_leave_no_trace_but_their_count(train, tmp_path, plant, monkeypatch, capsys):
    """As if the stream had never held those batches: compared with a run whose input drops them."""
    from trainer.inputs import feed

    indices = feed.batch_keys

    def without_three(*args):
        stream = indices(*args)
        return (batch for number, batch in enumerate(stream) if number not in (6, 7, 8))

    with monkeypatch.context() as patch:
        patch.setattr(feed, "batch_keys", without_three)
        wanted = weights(train(**PLAIN, train_steps=12, input="feed", logdir=str(tmp_path / "wanted")))
    plant(nan_logits, 7, times=3)
    logdir = train(**PLAIN, train_steps=12, input="feed", nonfinite="skip", max_skips=3)
    found = weights(logdir)
    assert found.pop("position") == 15 * 64 and found.pop("skipped_steps") == 3
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    result = json.loads((logdir / "result.json").read_text())
    assert (result["step"], result["skipped_steps"], result["epochs"]) == (12, 3, round(15 * 64 / 1258, 4))
    assert "skipped (3 of at most --max_skips=3)" in capsys.readouterr().out


def test_too_many_skips_end_the_run(train, tmp_path, plant):
    plant(nan_logits, 7, times=3)
    with pytest.raises(NotFiniteError, match=r"step 7 is not finite .*; 2 were skipped before it"):
        train(**PLAIN, train_steps=12, nonfinite="skip", max_skips=2)
    assert weights(tmp_path / "run")["global_step"] == 6


def test_skips_are_counted_over_a_resume(train, plant):
    plant(nan_logits, 4, times=2)
    train(**PLAIN, train_steps=6, nonfinite="skip", max_skips=2)
    plant(nan_logits, 12, times=1)
    with pytest.raises(NotFiniteError, match=r"step 10 is not finite .*; 2 were skipped before it"):
        train(**PLAIN, train_steps=12, nonfinite="skip", max_skips=2)


def test_a_nan_in_the_data_is_never_applied(train, own_digits_dir, tmp_path, monkeypatch):
    """One image of the set is read as NaN: each epoch holds it once, in a batch that is skipped."""
    from trainer.data.manifest import load_manifest
    from trainer.data.records import load_split

    images, _ = load_split(load_manifest(own_digits_dir), "train")
    marked = images[100].astype(np.float32).sum()
    only = (images.astype(np.float32).sum(axis=(1, 2, 3)) == marked).sum()
    real = trainer.learning.task.build_model

    def spoiled(function, x, **rest):
        bad = tf.equal(tf.reduce_sum(tf.round(x * 255), axis=[1, 2, 3]), marked)
        built = real(function, x, **rest)
        if "tower_" not in built.logits.name:
            return built
        nan = tf.where(bad, tf.fill(tf.shape(bad), np.float32(np.nan)), tf.zeros_like(bad, tf.float32))
        return built._replace(logits=built.logits + nan[:, None])

    monkeypatch.setattr(trainer.learning.task, "build_model", spoiled)
    logdir = train(**PLAIN, data_dir=str(own_digits_dir), epochs=2.0, nonfinite="skip", eval_every="1epochs")
    result = json.loads((logdir / "result.json").read_text())
    assert 2 <= result["skipped_steps"] <= np.ceil(result["epochs"]) * only
    assert all(np.isfinite(value).all() for value in weights(logdir).values())


def test_clipping_by_value_makes_no_number_of_infinity(train, plant):
    plant(infinite_gradient, 3)
    with pytest.raises(NotFiniteError, match="step 3"):
        train(**PLAIN, train_steps=10, clip="value:0.1")


def test_histograms_do_not_hide_the_cause(train, plant):
    """HistogramSummary fails on NaN: the step must be refused before that is seen."""
    plant(nan_logits, 4)
    with pytest.raises(NotFiniteError, match="step 4"):
        train(**PLAIN, train_steps=10, histogram_every="1", summary_every="1")
