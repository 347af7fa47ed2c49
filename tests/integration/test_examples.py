"""The examples: small, complete, and true."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPO, environment
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split

pytestmark = pytest.mark.timeout(120)
EXAMPLES = REPO / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_they_are_short(path):
    is_program = path.parent.name == "word2vec"
    assert path.read_text().count("\n") <= (200 if is_program else 40)


def test_a_network_of_ones_own_learns(train):
    run = train(model=f"{EXAMPLES / 'own_model' / 'my_net.py'}", train_steps=30, num_gpus=2)
    assert "draws random numbers" not in (run / "train.log").read_text()


def test_a_loss_and_metrics_of_ones_own(train):
    run = train(metrics=f"{EXAMPLES / 'own_metrics' / 'confident.py'}", best="confident_and_right:max", train_steps=200)
    result = json.loads((run / "result.json").read_text())
    assert 0.3 < result["test_confident_and_right"] <= result["test_confident"] < 1


def test_the_program_and_what_becomes_of_it_both_learn(digits_dir, tmp_path):
    from trainer import api

    images, labels = load_split(load_manifest(digits_dir), "train")
    np.savez(tmp_path / "digits.npz", x_train=images / 255, y_train=labels)
    command = [sys.executable, str(EXAMPLES / "tf1_script" / "before.py"), str(tmp_path / "digits.npz")]
    before = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
    assert before.returncode == 0 and float(before.stdout.split(":")[-1]) > 0.9, before
    result = api.train(
        model=f"{EXAMPLES / 'tf1_script' / 'after.py'}:inference", data_dir=digits_dir, logdir=tmp_path / "run",
        batch_size=100, train_steps=300, optimizer="sgd", learning_rate=0.1, decay="constant", weight_decay=1e-4,
        num_gpus=2, quiet=True,
    )  # fmt: skip
    assert result.test["accuracy"] > 0.85


def test_data_of_ones_own_is_learned(tmp_path):
    from trainer import api

    settings = {"input": f"{EXAMPLES / 'own_data' / 'shapes.py'}", "input_args": "size=16", "logdir": tmp_path / "run"}
    assert api.train(**settings, epochs=20.0, learning_rate=0.003, quiet=True).test["accuracy"] > 0.9
