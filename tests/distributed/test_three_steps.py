"""Three whole steps against numpy, for every strategy: gradients, mean, clipping, schedule, optimizer, averages.

A perceptron 64-9-10 on all 1,258 digits at once, so that the order of the records does not matter; two towers or two
workers. The loss is the mean cross entropy; gradients are clipped together to a norm of CLIP; the rate halves every
step; averages follow with d = min(0.9, (1 + step) / (10 + step)).
"""

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.distributed.jobs import variables
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split

pytestmark = pytest.mark.timeout(180)

STEPS, RATE, CLIP, DECAY = 3, 0.2, 0.3, 0.9
LAYERS = ("hidden1", "logits")
NAMES = [f"{layer}/{kind}" for layer in LAYERS for kind in ("weights", "biases")]
MODEL = [
    "--model=mlp", "--model_args=hidden_sizes=9, dropout=0", "--batch_size=1258", f"--clip=global_norm:{CLIP}",
    "--decay=exponential:0.5:1", f"--ema_decay={DECAY}", "--log_every=1", "--eval_every=0",
]  # fmt: skip


def gradients_of(weights, x, labels):
    w1, b1, w2, b2 = weights
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probabilities[rows, labels]).mean()
    back = probabilities
    back[rows, labels] -= 1
    back /= len(labels)
    below = back @ w2.T * (hidden > 0)
    return loss, [x.T @ below, below.sum(axis=0), hidden.T @ back, back.sum(axis=0)]


def train_by_hand(initial, x, labels, optimizer):
    """Returns the losses before each update, the weights and the averages after the last."""
    weights, averages = [w.copy() for w in initial], [w.copy() for w in initial]
    first, second = ([np.zeros_like(w) for w in initial] for _ in range(2))
    losses = []
    for step in range(1, STEPS + 1):
        loss, gradients = gradients_of(weights, x, labels)
        losses.append(loss)
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        assert norm > CLIP  # Else the clipping would not be tested.
        rate = RATE * 0.5 ** (step - 1)
        for index, gradient in enumerate(g * CLIP / norm for g in gradients):
            if optimizer == "momentum":
                first[index] = 0.9 * first[index] + gradient
                weights[index] -= rate * first[index]
            else:
                first[index] = 0.9 * first[index] + 0.1 * gradient
                second[index] = 0.999 * second[index] + 0.001 * gradient**2
                corrected = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                weights[index] -= corrected * first[index] / (np.sqrt(second[index]) + 1e-8)
            decay = min(DECAY, (1 + step) / (10 + step))
            averages[index] -= (1 - decay) * (averages[index] - weights[index])
    return losses, weights, averages


@pytest.fixture
def check(digits_dir, train, tmp_path):
    """Compares a run of three steps with those by hand."""
    images, labels = load_split(load_manifest(digits_dir), "train")
    # A rate so small that the weights stay what they were at first.
    settings = {"model": "mlp", "model_args": ("hidden_sizes=9, dropout=0",), "batch_size": 1258, "optimizer": "sgd"}
    still = train(**settings, learning_rate=1e-30, train_steps=1, logdir=tmp_path / "still")
    initial = [variables(still, 1)[name].astype(np.float64) for name in NAMES]

    def compare(logdir, optimizer):
        wanted = train_by_hand(initial, images.reshape(1258, 64) / 255, labels, optimizer)
        found = variables(logdir, STEPS)
        np.testing.assert_allclose(list(read_metrics(logdir, "loss").values()), wanted[0], rtol=1e-5)
        for index, name in enumerate(NAMES):
            np.testing.assert_allclose(found[name], wanted[1][index], rtol=2e-4, atol=2e-6, err_msg=name)
            average = found[f"{name}/ExponentialMovingAverage"]
            np.testing.assert_allclose(average, wanted[2][index], rtol=2e-4, atol=2e-6, err_msg=name)

    return compare


def flags_of(optimizer):
    return [*MODEL, f"--optimizer={optimizer}", f"--learning_rate={RATE}"]


@pytest.mark.parametrize("optimizer", [pytest.param("momentum", marks=pytest.mark.slow), "adam"])
@pytest.mark.parametrize(
    "strategy",
    [
        ["--strategy=parameter_device"],
        ["--strategy=parameter_device", "--bucket_mb=1"],
        ["--strategy=replicated", "--reduce=copy"],
        ["--strategy=replicated", "--reduce=tree"],
        ["--strategy=replicated", "--reduce=collective"],
    ],
    ids=lambda flags: "-".join(flag.partition("=")[2] for flag in flags),
)
def test_two_towers_make_the_steps_of_numpy(run_here, digits_dir, tmp_path, check, strategy, optimizer):
    where = [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}", f"--train_steps={STEPS}", "--num_gpus=2"]
    done = run_here("trainer", *flags_of(optimizer), *strategy, *where)
    assert done.code == 0, done
    check(tmp_path / "run", optimizer)


@pytest.mark.parametrize("optimizer", [pytest.param("momentum", marks=pytest.mark.slow), "adam"])
@pytest.mark.parametrize(
    ("strategy", "workers", "towers", "servers"),
    [("collective", 2, 1, 0), ("ps_sync", 2, 1, 2), pytest.param("ps_async", 1, 2, 1, marks=pytest.mark.slow)],
)
def test_a_cluster_makes_the_steps_of_numpy(run_job, check, strategy, workers, towers, servers, optimizer):
    flags = [*flags_of(optimizer), f"--strategy={strategy}", f"--train_steps={STEPS}"]
    check(run_job(*flags, workers=workers, towers=towers, ps=servers), optimizer)
