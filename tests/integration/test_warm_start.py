"""Fine-tuning: what is loaded, what stays frozen to the last bit, and what is trained."""

import json

import numpy as np
import pytest

from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.errors import UsageError
from trainer.saving.tensors import load_tensors
from trainer.tf1 import tf

FIVE = ("hidden_sizes=(16, 16, 16, 16), dropout=0",)  # and the logits: five layers
SIX = ("hidden_sizes=(16, 16, 16, 16, 16), dropout=0",)


@pytest.fixture
def five_layers(train_once, tmp_path):
    folder = train_once(model="mlp", model_args=FIVE, train_steps=60).rename(tmp_path / "five")
    return str(folder / "model.ckpt-60")


@pytest.mark.parametrize(
    ("optimizer", "steps", "settings"),
    [
        ("adam", 30, {}),
        ("momentum", 30, {"num_gpus": 4}),
        ("adam", 30, {"steps_per_loop": 10}),
        ("momentum", 3, {"precision": "float16"}),
    ],
)
def test_a_new_layer_is_trained_alone_and_the_others_keep_every_bit(train, five_layers, optimizer, steps, settings):
    folder = train(
        model="mlp",
        model_args=SIX,
        weight_decay=0.01,
        optimizer=optimizer,
        learning_rate=0.01,
        train_steps=steps,
        warm_start=five_layers,
        ignore_missing=True,
        trainable_scopes=("hidden5",),
        **settings,
    )
    before, after = load_tensors(five_layers), load_tensors(str(folder / f"model.ckpt-{steps}"))
    frozen = [
        f"{layer}/{kind}"
        for layer in ("hidden1", "hidden2", "hidden3", "hidden4", "logits")
        for kind in ("weights", "biases")
    ]
    for name in frozen:
        assert after[name].tobytes() == before[name].tobytes(), name
    # Optimizer slots and averages are there for what is trained, and for nothing else.
    others = {name for name in after if "/" in name and not name.startswith("update/")} - set(frozen)
    assert all(name.startswith("hidden5/") for name in others), others
    assert "hidden5/weights/ExponentialMovingAverage" in after
    assert len([name for name in after if name.startswith("hidden5/weights/")]) == (2 if optimizer == "momentum" else 3)


def test_frozen_scopes_are_the_opposite_and_the_rest_is_trained(train, five_layers):
    folder = train(
        model="mlp",
        model_args=FIVE,
        train_steps=5,
        warm_start=five_layers,
        freeze_scopes=("hidden1", "hidden2/biases"),
    )
    before, after = load_tensors(five_layers), load_tensors(str(folder / "model.ckpt-5"))
    same = {name for name in after if name in before and np.array_equal(after[name], before[name])}
    assert {name for name in same if name.startswith(("hidden", "logits"))} == {
        "hidden1/weights",
        "hidden1/biases",
        "hidden2/biases",
    }


def test_the_first_step_begins_at_the_weights_of_the_checkpoint(train, five_layers, digits_dir):
    """One step of plain descent from the loaded weights, against the same step in numpy."""
    rate = 1e-3
    folder = train(
        model="mlp",
        model_args=FIVE,
        train_steps=1,
        optimizer="sgd",
        learning_rate=rate,
        decay="constant",
        batch_size=1258,  # The whole training set: its order does not matter.
        warm_start=five_layers,
    )
    images, labels = load_split(load_manifest(digits_dir), "train")
    weights = load_tensors(five_layers)
    after = load_tensors(str(folder / "model.ckpt-1"))
    layers = ["hidden1", "hidden2", "hidden3", "hidden4", "logits"]
    inputs = [images.reshape(len(images), -1) / 255.0]
    for layer in layers[:-1]:
        inputs.append(np.maximum(inputs[-1] @ weights[f"{layer}/weights"] + weights[f"{layer}/biases"], 0))
    logits = inputs[-1] @ weights["logits/weights"] + weights["logits/biases"]
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    delta = exponents / exponents.sum(1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= len(labels)
    for layer, given in zip(reversed(layers), reversed(inputs), strict=True):
        wanted = weights[f"{layer}/weights"] - rate * given.T @ delta
        np.testing.assert_allclose(after[f"{layer}/weights"], wanted, atol=2e-7)
        np.testing.assert_allclose(
            after[f"{layer}/biases"], weights[f"{layer}/biases"] - rate * delta.sum(0), atol=2e-7
        )
        delta = (delta @ weights[f"{layer}/weights"].T) * (given > 0)


def test_renamed_and_excluded_tensors(train, five_layers, tmp_path):
    """A checkpoint of another program, with names of its own, written by a plain Saver."""
    with tf.Graph().as_default(), tf.Session() as session:
        stored = {
            name: value for name, value in load_tensors(five_layers).items() if name.endswith(("weights", "biases"))
        }
        variables = [
            tf.get_variable(f"net/{name.replace('hidden', 'fc_')}", initializer=value) for name, value in stored.items()
        ]
        session.run(tf.global_variables_initializer())
        path = tf.train.Saver(variables).save(session, str(tmp_path / "other.ckpt"))
    folder = train(
        model="mlp",
        model_args=FIVE,
        train_steps=1,
        warm_start=path,
        warm_start_rename=("^net/=>", r"^fc_(\d)=>hidden\1"),
        warm_start_exclude=("logits",),
        freeze_scopes=("hidden1", "hidden2", "hidden3", "hidden4"),
    )
    after = load_tensors(str(folder / "model.ckpt-1"))
    assert np.array_equal(after["hidden3/weights"], stored["hidden3/weights"])
    assert not np.allclose(after["logits/weights"], stored["logits/weights"], atol=0.01)
    said = (folder / "train.log").read_text()
    assert "loaded    hidden3/weights from net/fc_3/weights" in said
    assert "excluded  logits/weights keeps its initial value" in said


def test_a_resumed_run_goes_on_from_its_own_checkpoint(train, five_layers):
    settings = {"model": "mlp", "model_args": FIVE, "warm_start": five_layers, "freeze_scopes": ("hidden1",)}
    train(train_steps=5, **settings)
    folder = train(train_steps=8, **settings)
    assert json.loads((folder / "result.json").read_text())["step"] == 8
    assert "is not read: the run goes on from its own checkpoint" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable_scopes": ("hidden9",)}, "hidden9 holds no variable of the model; its scopes are hidden1"),
        ({"freeze_scopes": ("hidden1", "hidden2", "hidden3", "hidden4", "logits")}, "leave no variable to train"),
        (
            {"model_args": ("hidden_sizes=(16, 16, 16, 8)",)},
            "logits/weights is float32 .8, 10., in the checkpoint float32 .16, 10.",
        ),
        ({"model_args": SIX}, "hidden5/weights is not in the checkpoint"),
        ({"warm_start_rename": ("nothing=>x",)}, "changes no name"),
        ({"warm_start": "/nowhere/model.ckpt-1"}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_a_mistake_that_is_explained(train, five_layers, settings, message):
    with pytest.raises(UsageError, match=message):
        train(**{"model": "mlp", "model_args": FIVE, "train_steps": 1, "warm_start": five_layers, **settings})
