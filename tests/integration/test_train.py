"""Whole runs in this process, on the digits."""

import contextlib
import json

import numpy as np
import pytest

from tests.conftest import read_metrics
from trainer.data.manifest import load_manifest
from trainer.errors import NotFiniteError, UsageError
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


def weights(logdir):
    reader = tf.train.NewCheckpointReader(tf.train.latest_checkpoint(str(logdir)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize(
    "optimizer", ["momentum", "adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "rmsprop"))]
)
def test_one_tower_and_four_give_the_same_losses(train, tmp_path, optimizer):
    """50 steps, each loss to 1e-5 relative."""
    settings = {
        "optimizer": optimizer,
        "learning_rate": 0.01 if optimizer in ("sgd", "momentum") else 0.0005,
        "model_args": ("dropout=0",),
        "decay": "constant",
        "weight_decay": 1e-4,
        "clip": "global_norm:10",
        "train_steps": 50,
        "log_every": "1",
    }
    losses = []
    for towers in (1, 4):
        logdir = train(**settings, num_gpus=towers, logdir=str(tmp_path / str(towers)))
        losses.append(list(read_metrics(logdir, "loss").values()))
    assert len(losses[0]) == 50 and losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_the_loss_of_the_first_step_is_that_of_numpy(train, digits_dir, tmp_path):
    """One step of an mlp by sgd on the whole training set at once, weights and loss."""
    from trainer.data.records import load_split

    settings = {
        "model": "mlp", "model_args": ("hidden_sizes=9, dropout=0",), "batch_size": 1258, "optimizer": "sgd",
        "decay": "constant", "weight_decay": 0.02, "train_steps": 1, "log_every": "1",
    }  # fmt: skip
    # A step that is too small to move a float32 weight shows the weights before the step.
    before = weights(train(**settings, learning_rate=1e-9, logdir=str(tmp_path / "before")))
    logdir = train(**settings, learning_rate=0.5, logdir=str(tmp_path / "after"))
    after = weights(logdir)
    images, labels = load_split(load_manifest(digits_dir), "train")
    x = images.reshape(1258, 64) / 255
    w1, b1, w2, b2 = (
        before[f"{n}/{k}"].astype(np.float64) for n in ("hidden1", "logits") for k in ("weights", "biases")
    )
    hidden = np.maximum(x @ w1 + b1, 0)
    scores = np.exp(hidden @ w2 + b2)
    p = scores / scores.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(1258), labels]).mean() + 0.02 * ((w1**2).sum() + (w2**2).sum()) / 2
    np.testing.assert_allclose(read_metrics(logdir, "loss")[1], loss, rtol=1e-5)

    error = (p - np.eye(10)[labels]) / 1258
    back = (error @ w2.T) * (hidden > 0)
    wanted = {
        "logits/weights": w2 - 0.5 * (hidden.T @ error + 0.02 * w2),
        "logits/biases": b2 - 0.5 * error.sum(axis=0),
        "hidden1/weights": w1 - 0.5 * (x.T @ back + 0.02 * w1),
        "hidden1/biases": b1 - 0.5 * back.sum(axis=0),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert after["global_step"] == 1 and after["position"] == 1258


def test_result_and_files_of_a_run(train):
    logdir = train(train_steps=60, eval_every="20", trace_every="30", log_every="10", num_gpus=2, device="cpu")
    result = json.loads((logdir / "result.json").read_text())
    assert list(result) == [
        "step",
        "epochs",
        "train_loss",
        "goal",
        "validation_accuracy",
        "validation_loss",
        "best_validation_accuracy",
        "best_step",
        "test_accuracy",
        "test_loss",
        "images_per_second",
        "input_bound",
        "seconds",
        "devices",
        "skipped_steps",
        "overflowed_steps",
        "skipped_records",
        "failed_writes",
        "status",
    ]
    assert (result["step"], result["status"], result["devices"]) == (60, "done", ["/cpu:0", "/cpu:1"])
    assert result["epochs"] == round(60 * 64 / 1258, 4)
    assert result["test_accuracy"] > 0.9 and result["validation_accuracy"] > 0.9 and result["images_per_second"] > 0
    assert {round(result["test_accuracy"] * 359, 6) % 1, round(result["validation_accuracy"] * 180, 6) % 1} == {0.0}
    assert list(read_metrics(logdir, "loss")) == [10, 20, 30, 40, 50, 60]
    assert list(read_metrics(logdir, "validation_accuracy")) == [20, 40, 60]
    names = {path.name for path in logdir.iterdir()}
    assert names >= {
        "flags.txt",
        "config.json",
        "checkpoint",
        "model.ckpt-60.index",
        "model.ckpt-60.data-00000-of-00001",
        "graph.pbtxt",
        "metrics.jsonl",
        "result.json",
        "train.log",
        "traces",
        "eval",
    }
    log = (logdir / "train.log").read_text()
    assert "compute-bound: the input queue was" in log or "input-bound: the input queue was" in log


def test_a_finished_run_says_so(train, capsys):
    train(train_steps=5)
    train(train_steps=5)
    assert "already trained to step 5" in capsys.readouterr().out


def test_another_model_is_refused_with_the_differences(train):
    logdir = train(train_steps=3)
    before = (logdir / "config.json").read_text()
    with pytest.raises(UsageError, match=r"holds another run.*\n  model: lenet -> mlp\n  optimizer: adam -> sgd"):
        train(train_steps=6, model="mlp", optimizer="sgd")
    assert (logdir / "config.json").read_text() == before


def test_resume_must_and_never(train, tmp_path):
    with pytest.raises(UsageError, match=r"--resume=must, but .* holds no checkpoint"):
        train(train_steps=3, resume="must", logdir=str(tmp_path / "absent"))
    logdir = train(train_steps=3)
    train(train_steps=4, resume="never")
    assert weights(logdir)["global_step"] == 4
    assert weights(tmp_path / "run.1")["global_step"] == 3
    assert "resuming" not in (logdir / "train.log").read_text()


def test_the_current_directory_can_be_moved_aside_too(train, tmp_path, monkeypatch):
    logdir = train(train_steps=3)
    monkeypatch.chdir(logdir)
    train(train_steps=4, resume="never", logdir=".")
    assert (weights(tmp_path / "run.1")["global_step"], weights(logdir)["global_step"]) == (3, 4)


def test_the_newest_checkpoints_are_kept(train):
    logdir = train(train_steps=20, checkpoint_every="4", keep_checkpoints=3)
    assert sorted(path.stem for path in logdir.glob("*.index")) == ["model.ckpt-12", "model.ckpt-16", "model.ckpt-20"]


def test_the_newest_checkpoints_are_kept_over_a_resume(train):
    train(train_steps=12, checkpoint_every="4", keep_checkpoints=3)
    logdir = train(train_steps=20, checkpoint_every="4", keep_checkpoints=3)
    assert sorted(path.stem for path in logdir.glob("*.index")) == ["model.ckpt-12", "model.ckpt-16", "model.ckpt-20"]


def test_a_loss_that_is_not_finite_stops_the_run(train, tmp_path):
    with pytest.raises(NotFiniteError, match=r"step \d+ is not finite and not applied: the loss, ") as caught:
        train(train_steps=500, optimizer="sgd", learning_rate=1e12, decay="constant")
    assert caught.value.exit_code == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "not finite"


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_evaluation_is_exact_whatever_the_batch_size(train, digits_dir, batch_size):
    """Against numpy on the checkpoint's averaged weights."""
    from trainer.data.records import load_split
    from trainer.evaluating.evaluation import evaluate
    from trainer.graph.evaluation import build_eval_graph
    from trainer.graph.update import build_counters
    from trainer.learning.averages import make_averages
    from trainer.learning.losses import cross_entropy
    from trainer.learning.task import make_task
    from trainer.models.functions import find_model
    from trainer.settings.plugins import UserCode

    logdir = train(train_steps=30, model="mlp", model_args=("hidden_sizes=20",))
    saved = weights(logdir)
    found = load_manifest(digits_dir)
    images, labels = load_split(found, "test")
    w1, b1, w2, b2 = (
        saved[f"{layer}/{kind}/ExponentialMovingAverage"].astype(np.float64)
        for layer in ("hidden1", "logits")
        for kind in ("weights", "biases")
    )
    logits = np.maximum(images.reshape(359, 64) / 255 @ w1 + b1, 0) @ w2 + b2
    wanted = (logits.argmax(axis=1) == labels).mean()
    loss = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(359), labels]).mean()

    with tf.Graph().as_default(), tf.Session() as session:
        counters = build_counters()
        task = make_task(found, model=find_model("mlp", ["hidden_sizes=20"], UserCode()), loss=cross_entropy)
        task.build({"image": tf.placeholder(tf.uint8, [None, 8, 8, 1])})
        ema = make_averages(0.99, counters.step)
        ema.make(tf.trainable_variables())
        graph = build_eval_graph(task, found, data_format="auto", device="/cpu:0", ema=ema)
        tf.train.Saver().restore(session, tf.train.latest_checkpoint(str(logdir)))
        counts = []
        result = evaluate(
            session,
            graph=graph,
            metrics=task.metrics,
            spec=found,
            split="test",
            batch_size=batch_size,
            reading=contextlib.nullcontext,
            after_batch=counts.append,
        )
    assert sum(counts) == 359
    assert result["accuracy"] == pytest.approx(wanted, abs=1e-12)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert json.loads((logdir / "result.json").read_text())["test_accuracy"] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("source", ["preloaded", "feed", "synthetic"])
def test_every_input_trains(train, source):
    logdir = train(train_steps=40, input=source)
    result = json.loads((logdir / "result.json").read_text())
    assert result["step"] == 40
    assert source == "synthetic" or result["test_accuracy"] > 0.85


class Recorder(tf.train.SessionRunHook):
    """Writes down what it is called for; asks to stop after one step."""

    def __init__(self, last_step=None):
        self.calls, self.last_step = [], last_step

    def begin(self):
        assert not tf.get_default_graph().finalized
        self.one = tf.get_variable("one_of_the_hook", initializer=1.0, trainable=False)
        self.calls.append("begin")

    def after_create_session(self, session, coord):
        assert session.run(self.one) == 1.0  # Also where the run goes on from a checkpoint, which lacks it.
        self.calls.append("after_create_session")

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(tf.train.get_global_step())

    def after_run(self, run_context, run_values):
        self.calls.append(int(run_context.session.run(tf.train.get_global_step())))
        if self.calls[-1] == self.last_step:
            run_context.request_stop()

    def end(self, session):
        self.calls.append("end")


def test_stock_hooks_live_as_tensorflow_runs_them(train, monkeypatch):
    """They know nothing of `due`, are run at every step, and may end the training, which then is done."""
    from trainer.training import periodic

    hooks = []
    make_periodic = periodic.make_periodic

    def with_hooks(*args, **rest):
        made = make_periodic(*args, **rest)
        return made._replace(hooks=[*made.hooks, *hooks])

    monkeypatch.setattr("trainer.training.chief.make_periodic", with_hooks)
    hooks[:] = [first := Recorder()]
    train(train_steps=3)
    assert first.calls == ["begin", "after_create_session", 1, 2, 3, "end"]
    hooks[:] = [second := Recorder(last_step=5)]
    logdir = train(train_steps=9)
    assert second.calls == ["begin", "after_create_session", 4, 5, "end"]
    result = json.loads((logdir / "result.json").read_text())
    assert (result["step"], result["status"]) == (5, "done") and result["test_accuracy"] is not None
