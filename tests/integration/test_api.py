"""The trainer called from Python: the same runs as from the command line, in any thread, beside eager TensorFlow."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.conftest import environment
from trainer import api
from trainer.errors import NotFiniteError, UsageError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def settings(digits_dir, tmp_path):
    return {"data_dir": digits_dir, "logdir": tmp_path / "run", "train_steps": 30, "eval_every": 0, "quiet": True}


def test_the_result_is_what_the_run_directory_holds(settings, tmp_path, run_program, digits_dir):
    result = api.train(**settings, num_gpus=2, learning_rate=0.01)
    assert result.status == "done" and result.step == 30 and result.test_accuracy > 0.5
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == vars(result)
    flags = ["--num_gpus=2", "--learning_rate=0.01", "--train_steps=30", "--eval_every=0", f"--data_dir={digits_dir}"]
    done = run_program("trainer", *flags, f"--logdir={tmp_path / 'other'}")
    assert done.code == 0, done
    other = json.loads((tmp_path / "other" / "result.json").read_text())
    same = ("step", "train_loss", "test_accuracy", "validation_accuracy", "devices")
    assert [other[name] for name in same] == [getattr(result, name) for name in same]


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
        ({"learning_rat": 1}, UsageError, "setting=learning_rat is unknown: .*; did you mean learning_rate?"),
        ({"learning_rate": "fast"}, UsageError, "learning_rate='fast' is a str, wanted float"),
        ({"batch_size": True}, UsageError, "batch_size=True is a bool, wanted int"),
        ({"model": "cnn"}, UsageError, "model=cnn is unknown"),
        ({"logdir": "s3://bucket/run"}, UsageError, "s3:// is no path of this machine"),
        ({"hidden_sizes": [3]}, UsageError, "--hidden_sizes=3 is of --model=mlp"),
        ({"optimizer": "sgd", "learning_rate": 1e30}, NotFiniteError, "is not finite and not applied"),
    ],
)
def test_errors_are_exceptions(settings, wrong, error, message):
    with pytest.raises(error, match=message):
        api.train(**{**settings, **wrong})
