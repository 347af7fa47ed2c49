"""The trainer called from Python: the same runs as from the command line, in any thread, beside eager TensorFlow."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.conftest import environment
from trainer import api
from trainer.errors import NotFiniteError, TrainerError, UsageError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def settings(digits_dir, tmp_path):
    return {"data_dir": digits_dir, "logdir": tmp_path / "run", "train_steps": 30, "eval_every": 0, "quiet": True}


def test_the_result_is_what_the_run_directory_holds(settings, tmp_path, run_here, digits_dir):
    result = api.train(**settings, num_gpus=2, learning_rate=0.01)
    assert result.status == "done" and result.step == 30 and result.test["accuracy"] > 0.5
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result.values()
    flags = ["--num_gpus=2", "--learning_rate=0.01", "--train_steps=30", "--eval_every=0", f"--data_dir={digits_dir}"]
    done = run_here("trainer", *flags, f"--logdir={tmp_path / 'other'}")
    assert done.code == 0, done
    other = json.loads((tmp_path / "other" / "result.json").read_text())
    same = ("step", "train_loss", "test_accuracy", "validation_accuracy", "devices")
    assert [other[name] for name in same] == [result.values()[name] for name in same]


def test_it_prints_nothing_where_it_is_asked_to_be_quiet(settings, capfd):
    api.train(**settings)
    assert capfd.readouterr().out == ""


def test_eager_mode_goes_on_around_it(digits_dir, tmp_path):
    """In a process of its own: the tests have loaded TensorFlow already."""
    script = tmp_path / "eager.py"
    script.write_text(f"""
import tensorflow as tf
from trainer import api
assert float(tf.reduce_sum(tf.constant([1.0, 2.0]))) == 3.0
api.train(data_dir={str(digits_dir)!r}, logdir={str(tmp_path / "run")!r}, train_steps=5, steps_per_loop=3, quiet=True)
assert tf.executing_eagerly() and float(tf.reduce_sum(tf.constant([1.0, 2.0]))) == 3.0

@tf.function
def count(n):
    total = tf.constant(0)
    for i in tf.range(n):
        total += i if i % 2 == 1 else 0
    return total

assert int(count(tf.constant(6))) == 9
with tf.GradientTape() as tape:
    x = tf.Variable(3.0)
    y = x * x
assert float(tape.gradient(y, x)) == 6.0
print("eager")
""")
    done = subprocess.run([sys.executable, script], env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.endswith("eager\n"), done


def test_threads_train_without_signals_and_again_and_again(settings, tmp_path):
    found = {}

    def train(name):
        found[name] = [
            api.train(**{**settings, "logdir": tmp_path / f"{name}{number}"}).train_loss for number in range(2)
        ]

    threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.ptp([*found["a"], *found["b"]]) < 1e-6 and len(found["a"] + found["b"]) == 4


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"learning_rat": 1}, UsageError, "learning_rat is no setting; did you mean learning_rate?"),
        ({"learning_rate": "fast"}, UsageError, "learning_rate='fast' is a str, wanted float"),
        ({"batch_size": True}, UsageError, "batch_size=True is a bool, wanted int"),
        ({"model": "cnn"}, UsageError, "model=cnn is unknown"),
        ({"logdir": "s3://bucket/run"}, UsageError, "s3:// is no path of this machine"),
        ({"model_args": "hidden_sizes=3"}, UsageError, "unexpected keyword argument 'hidden_sizes'"),
        ({"optimizer": "sgd", "learning_rate": 1e30}, NotFiniteError, "is not finite and not applied"),
    ],
)
def test_errors_are_exceptions(settings, wrong, error, message):
    with pytest.raises(error, match=message):
        api.train(**{**settings, **wrong})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1}, "lr is no setting; did you mean learning_rate?"),
        ({"dry_run": "flags"}, "dry_run is of the command line"),
        ({"group_readable": True}, "os.umask decides"),
        ({"trainable_scopes": [1]}, "trainable_scopes holds 1, a int; wanted str"),
        ({"logdir": "a\0b"}, "it holds a zero byte"),
        ({"epochs": None}, "epochs=None is a NoneType, wanted float"),
    ],
)
def test_mistakes_are_exceptions_of_one_line(settings, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        api.train(**settings)


def test_numbers_of_numpy_and_lists_are_taken():
    config = api.make_config(train_steps=np.int64(3), learning_rate=np.float32(0.5), trainable_scopes="conv1,conv2")
    assert (config.train_steps, config.learning_rate, config.trainable_scopes) == (3, 0.5, ("conv1", "conv2"))


def test_a_directory_that_cannot_be_made_is_an_error_of_the_trainer(settings):
    with pytest.raises(TrainerError, match="/proc/x"):
        api.train(**{**settings, "logdir": "/proc/x"})


def test_ctrl_c_saves_what_has_been_trained(settings, tmp_path):
    rows = tmp_path / "run" / "metrics.jsonl"

    def press():
        while not rows.exists() or "loss" not in rows.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        api.train(**{**settings, "train_steps": 1_000_000, "log_every": "1"})
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "stopped by SIGINT" and result["step"] > 0
    assert (tmp_path / "run" / f"model.ckpt-{result['step']}.index").is_file()
    assert api.train(**{**settings, "train_steps": result["step"] + 2}).step == result["step"] + 2


def test_determinism_ends_with_the_run(settings):
    from trainer.tf1 import tf

    api.train(**settings, deterministic=True)
    with tf.Graph().as_default():
        assert tf.random_normal([2]).shape == [2]  # With determinism, an operation without a seed is refused.
