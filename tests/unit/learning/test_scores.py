"""Scores against slow counting, one image after the other, and against TensorFlow's own top-k."""

import math

import numpy as np
import pytest

from trainer.learning.scores import THRESHOLDS, Scores
from trainer.tf1 import tf

CLASSES, COUNT = 7, 300


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(5)
    logits = np.round(rng.normal(0, 2, [COUNT, CLASSES]), 1).astype(np.float32)  # Rounded, so that there are ties.
    labels = rng.integers(0, CLASSES - 1, COUNT).astype(np.int32)  # The last class has no image.
    images = rng.integers(0, 256, [COUNT, 2, 2, 1]).astype(np.uint8)
    return logits, labels, images


@pytest.fixture(scope="module")
def scores(examples):
    found = Scores(CLASSES, top_k=3, num_wrong=10)
    for begin, end in ((0, 128), (128, 129), (129, COUNT)):
        found.update(*(part[begin:end] for part in examples))
    return found


def softmax(row):
    exponents = [math.exp(float(value) - float(max(row))) for value in row]
    return [value / sum(exponents) for value in exponents]


def test_the_confusion_is_that_of_counting(scores, examples):
    logits, labels, _ = examples
    confusion = [[0] * CLASSES for _ in range(CLASSES)]
    for row, label in zip(logits, labels, strict=True):
        confusion[label][list(row).index(max(row))] += 1
    assert scores.confusion.tolist() == confusion
    assert scores.num_examples == COUNT


def test_top_k_counts_ties_as_tensorflow_does(scores, examples):
    logits, labels, _ = examples
    with tf.Graph().as_default(), tf.Session() as session:
        wanted = session.run(tf.nn.in_top_k(logits, labels, 3)).mean()
    assert scores.top_k_accuracy == pytest.approx(wanted)


def test_precision_and_recall_are_those_of_the_confusion_on_paper():
    found = Scores(3, top_k=1, num_wrong=1)
    # Labels 0 0 0 1 are taken for 0 0 1 1: precision 1, 1/2, 0 (never taken); recall 2/3, 1, 0 (no image).
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
    found.update(logits, np.array([0, 0, 0, 1], np.int32), np.zeros([4, 1, 1, 1], np.uint8))
    assert found.precision.tolist() == [1.0, 0.5, 0.0]
    assert found.recall.tolist() == pytest.approx([2 / 3, 1.0, 0.0])
    assert found.support.tolist() == [3, 1, 0]


def test_curves_count_what_reaches_each_threshold(scores, examples):
    logits, labels, _ = examples
    true, false = scores.counts_at_thresholds()
    precision, recall = scores.curves()
    probabilities = np.array([softmax(row) for row in logits])
    for kind in range(CLASSES):
        for index in (0, 1, 50, 100, 199, 200):
            reached = np.floor(probabilities[:, kind] * (THRESHOLDS - 1)) >= index
            hits, misses = int((reached & (labels == kind)).sum()), int((reached & (labels != kind)).sum())
            assert (true[kind, index], false[kind, index]) == (hits, misses)
            assert precision[kind, index] == (hits / (hits + misses) if hits + misses else 1.0)
            assert recall[kind, index] == (hits / (labels == kind).sum() if (labels == kind).any() else 0.0)


def test_the_most_wrong_images_are_those_of_the_largest_loss(scores, examples):
    logits, labels, images = examples
    wrong = [index for index in range(COUNT) if logits[index].argmax() != labels[index]]
    losses = {index: -math.log(softmax(logits[index])[labels[index]]) for index in wrong}
    wanted = sorted(wrong, key=lambda index: (-losses[index], index))[:10]
    found = scores.most_wrong
    assert [round(item.loss, 9) for item in found] == [round(losses[index], 9) for index in wanted]
    assert np.array_equal(found[0].image, images[wanted[0]])
    assert (found[0].label, found[0].predicted) == (labels[wanted[0]], logits[wanted[0]].argmax())
