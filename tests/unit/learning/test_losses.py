"""Losses and metrics against numpy, and against arithmetic on paper."""

import numpy as np
import pytest

from trainer.data.spec import CLASS, NUMBERS, SEVERAL
from trainer.errors import UsageError
from trainer.learning import metrics
from trainer.learning.losses import LOSSES, find_loss
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(0, 2, (7, 4)).astype(np.float32)
CLASSES = np.array([0, 1, 2, 3, 0, 0, 2], np.int32)
SETS = (RNG.random((7, 4)) < 0.4).astype(np.float32)
TARGETS = RNG.normal(0, 3, (7, 4)).astype(np.float32)
LOG_SOFTMAX = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
ONE_HOT = np.eye(4)[CLASSES]
ERROR = np.abs(LOGITS - TARGETS)


def compute(function, *arguments):
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(function(*map(tf.constant, arguments)))


@pytest.mark.parametrize(
    ("name", "options", "labels", "wanted"),
    [
        ("softmax", {}, CLASSES, -(ONE_HOT * LOG_SOFTMAX).sum(1)),
        ("softmax", {"label_smoothing": 0.1}, CLASSES, -((0.9 * ONE_HOT + 0.025) * LOG_SOFTMAX).sum(1)),
        (
            "softmax",
            {"class_weights": (1, 2, 0, 0.5)},
            CLASSES,
            -(ONE_HOT * LOG_SOFTMAX).sum(1) * np.array([1, 2, 0, 0.5])[CLASSES],
        ),
        ("sigmoid", {}, SETS, (np.log1p(np.exp(LOGITS)) - SETS * LOGITS).sum(1)),
        ("mse", {}, TARGETS, (ERROR**2).mean(1)),
        ("huber", {"delta": 1.5}, TARGETS, np.where(ERROR <= 1.5, ERROR**2 / 2, 1.5 * ERROR - 1.5**2 / 2).mean(1)),
        (
            "hinge",
            {},
            CLASSES,
            np.maximum(0, 1 + np.where(ONE_HOT > 0, -np.inf, LOGITS).max(1) - (ONE_HOT * LOGITS).sum(1)),
        ),
        ("hinge", {}, SETS, np.maximum(0, 1 - (2 * SETS - 1) * LOGITS).sum(1)),
    ],
)
def test_losses_follow_their_formulas(name, options, labels, wanted):
    found = compute(lambda logits, given: LOSSES[name][0](logits, given, **options), LOGITS, labels)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "args", "kind", "message"),
    [
        (
            "mse",
            [],
            CLASS,
            "--loss=mse is for labels of kind numbers, and these are of kind class: use softmax or hinge",
        ),
        ("softmax", ["label_smoothing=2"], CLASS, "label_smoothing=2 is out of range: a number, 0 <= value < 1"),
        ("softmax", ["smoothing=0.1"], CLASS, "unexpected keyword argument 'smoothing'; it takes label_smoothing=0.0"),
        ("softmax", ["class_weights=(1, 'a')"], CLASS, "class_weights=.* is out of range: numbers of 0 or more"),
        ("softmax", ["class_weights=(1, 2)"], CLASS, "holds 2 numbers, wanted one for each of 4 classes"),
    ],
)
def test_mistakes_are_told(loss, args, kind, message):
    with pytest.raises(UsageError, match=message):
        compute(find_loss(loss, args, kind, UserCode()), LOGITS, CLASSES)


def test_losses_of_ones_own_are_of_each_example_or_their_mean(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import tensorflow.compat.v1 as tf\n"
        "def each(outputs, targets, over=1.0):\n"
        "    cost = tf.where(tf.greater(outputs, targets), (outputs - targets) * over, (targets - outputs) * 3.0)\n"
        "    return tf.reduce_mean(cost, 1)\n"
        "def mean(outputs, targets):\n    return tf.reduce_mean(tf.abs(outputs - targets))\n"
        "def wide(outputs, targets):\n    return outputs - targets\n"
        "def one(outputs):\n    return outputs\n"
    )
    wanted = np.where(LOGITS > TARGETS, (LOGITS - TARGETS) * 2, (TARGETS - LOGITS) * 3).mean(1)
    found = compute(find_loss(f"{path}:each", ["over=2.0"], NUMBERS, UserCode()), LOGITS, TARGETS)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    found = compute(find_loss(f"{path}:mean", [], NUMBERS, UserCode()), LOGITS, TARGETS)
    np.testing.assert_allclose(found, np.full(7, ERROR.mean()), rtol=1e-5)
    with pytest.raises(UsageError, match=r"wide returned float32 \(7, 4\); wanted floats, one for each example"):
        compute(find_loss(f"{path}:wide", [], NUMBERS, UserCode()), LOGITS, TARGETS)
    with pytest.raises(UsageError, match=r"one takes \(outputs\); wanted loss\(logits, labels, option=default"):
        find_loss(f"{path}:one", [], NUMBERS, UserCode())
    with pytest.raises(UsageError, match="function=loss is unknown: choose one of each, mean, one, wide"):
        find_loss(str(path), [], NUMBERS, UserCode())


def judge(kind, logits, labels, batch_size):
    """Judges batch by batch."""
    part, _ = metrics.OF_KIND[kind]
    judged = metrics.make_metrics([part], metrics.Goal(part.names[0]))
    totals = {}
    for begin in range(0, len(logits), batch_size):
        rows = slice(begin, begin + batch_size)
        totals = metrics.add_sums(totals, compute(judged.sums, logits[rows], labels[rows]))
    return judged.finish(totals)


@pytest.mark.parametrize("batch_size", [7, 3, 1])
def test_numbers_are_judged_by_error_and_explained_variance(batch_size):
    found = judge(NUMBERS, LOGITS, TARGETS, batch_size)
    explained = 1 - ((LOGITS - TARGETS) ** 2).sum(0) / ((TARGETS - TARGETS.mean(0)) ** 2).sum(0)
    assert found["mean_absolute_error"] == pytest.approx(ERROR.mean(), rel=1e-5)
    assert found["r2"] == pytest.approx(explained.mean(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [200, 60])
def test_several_labels_are_judged_by_precision_recall_and_average_precision(batch_size):
    """The average precision of a class ranks its pictures; bins of 1/1000 put a few of 200 side by side."""
    rng = np.random.default_rng(3)
    labels = (rng.random((200, 3)) < [0.5, 0.2, 0.05]).astype(np.float32)
    logits = (rng.normal(0, 1, (200, 3)) + 1.5 * labels - 0.5).astype(np.float32)
    found = judge(SEVERAL, logits, labels, batch_size)
    taken = logits > 0
    assert found["precision"] == pytest.approx((taken & (labels > 0)).sum() / taken.sum())
    assert found["recall"] == pytest.approx((taken & (labels > 0)).sum() / labels.sum())
    of_classes = []
    for score, truth in zip(logits.T, labels.T, strict=True):
        ranked = truth[np.argsort(-score)]
        precision = ranked.cumsum() / np.arange(1, 201)
        of_classes.append((precision * ranked).sum() / ranked.sum())
    assert found["mean_average_precision"] == pytest.approx(np.mean(of_classes), abs=2e-3)


def test_average_precision_on_paper():
    """Ranks: yes, no, yes, no: (1 + 2/3) / 2; a class without examples does not count."""
    positives, negatives = np.array([[0, 1, 0, 1], [0, 0, 0, 0]]), np.array([[1, 0, 1, 0], [1, 1, 1, 1]])
    assert metrics.mean_average_precision(positives, negatives) == pytest.approx((1 + 2 / 3) / 2)
