"""Pictures that are mixed with their neighbours, and the loss of such, against numpy."""

import math

import numpy as np
import pytest

from trainer.data.spec import IMAGE, LABEL, describe_images
from trainer.errors import UsageError
from trainer.inputs.batch import RECORD
from trainer.learning.losses import find_loss
from trainer.learning.task import make_task
from trainer.models.functions import find_model
from trainer.models.outputs import ModelOutput
from trainer.preprocessing import mixing
from trainer.preprocessing.draws import make_draws
from trainer.preprocessing.parsing import parse_pipeline
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(60)
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3)).astype(np.uint8)
UNIT = (PICTURES / 255).astype(np.float32)
KEYS = np.arange(6) + 40


def shares_of(text, images=PICTURES):
    side = make_preprocessing(images.shape[1:], text, seed=3).training
    with tf.Graph().as_default(), tf.Session() as session:
        keys = tf.constant(KEYS, tf.int64)
        return session.run([side.in_batches(tf.constant(images), keys), side.shares(keys)])


def test_mixup_adds_the_picture_before_by_its_share():
    found, shares = shares_of("unit|mixup(0.5)")
    by = shares[:, np.newaxis, np.newaxis, np.newaxis]
    np.testing.assert_allclose(found, by * UNIT + (1 - by) * np.roll(UNIT, 1, 0), atol=1e-6)
    assert len(np.unique(shares)) == 6 and (shares >= 0).all() and (shares <= 1).all()
    whole, again = shares_of("mixup(0.5)")
    assert whole.dtype == np.uint8 and not np.array_equal(again, shares)  # It stands in another place.


def test_cutmix_takes_a_window_of_the_picture_before():
    found, shares = shares_of("cutmix")
    other = np.roll(PICTURES, 1, 0)
    for image, mine, neighbour, share in zip(found, PICTURES, other, shares, strict=True):
        taken = (image == neighbour).all(-1) & ~(mine == neighbour).all(-1)
        rows, columns = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        if len(rows):
            window = np.zeros(taken.shape, bool)
            window[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
            np.testing.assert_array_equal(image, np.where(window[..., np.newaxis], neighbour, mine))
        assert share == pytest.approx(1 - taken.mean(), abs=1e-6)
    assert np.ptp(shares) > 0.2


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_shares_are_of_the_beta_distribution(alpha):
    """Mean a half, variance 1 / (4 (2 alpha + 1)), and as much in the first tenth as its density says."""
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(mixing._draw_shares(make_draws(1, tf.range(20_000, dtype=tf.int64)), alpha))
    assert found.mean() == pytest.approx(0.5, abs=0.015)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    edges = np.linspace(0, 0.1, 200_001)
    middles = (edges[1:] + edges[:-1]) / 2
    scale = math.gamma(2 * alpha) / math.gamma(alpha) ** 2
    if alpha >= 0.5:  # Else the density at 0 is too steep for this sum.
        wanted = (scale * (middles * (1 - middles)) ** (alpha - 1)).sum() * (edges[1] - edges[0])
        assert (found < 0.1).mean() == pytest.approx(wanted, abs=0.015)


def test_the_loss_weighs_both_labels_by_their_shares():
    spec = describe_images("x", (12, 10, 3), ("a", "b", "c"), {}, None)
    seen = make_preprocessing((12, 10, 3), "mixup(1.0)|scale(-1,1)", "scale(-1,1)", seed=3)
    task = make_task(
        spec,
        model=find_model("mlp", ["hidden_sizes=4"], UserCode()),
        loss=find_loss("", [], "class", UserCode()),
        preprocessing=seen,
    )
    logits = np.random.default_rng(2).standard_normal((6, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 2, 0, 1], np.int32)
    with tf.Graph().as_default(), tf.Session() as session:
        features = {IMAGE: tf.constant(PICTURES), LABEL: tf.constant(labels), RECORD: tf.constant(KEYS, tf.int64)}
        one = {name: values[:1] for name, values in features.items()}
        with pytest.raises(UsageError, match="a tower has one picture a step, and none to mix it with"):
            task.loss(ModelOutput(tf.constant(logits[:1])), one)
        output = ModelOutput(tf.constant(logits))
        loss, shares = session.run([task.loss(output, features), seen.training.shares(features[RECORD])])
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    soft = shares[:, np.newaxis] * np.eye(3)[labels] + (1 - shares[:, np.newaxis]) * np.eye(3)[np.roll(labels, 1)]
    np.testing.assert_allclose(loss, -(soft * log).sum(1), rtol=1e-5)
    assert RECORD in task.features


def test_nothing_random_stands_behind_a_mix():
    with pytest.raises(UsageError, match="flip_lr must stand before mixup"):
        make_preprocessing((12, 10, 3), "mixup|flip_lr")
    with pytest.raises(UsageError, match="crop_or_pad must stand before cutmix"):
        make_preprocessing((12, 10, 3), "cutmix|crop_or_pad(8)")
    with pytest.raises(UsageError, match="only one of cutmix and mixup may be in it, once"):
        make_preprocessing((12, 10, 3), "mixup|cutmix")
    with pytest.raises(UsageError, match="alpha=0 is out of range"):
        parse_pipeline("preprocess", "mixup(0)", training=True)
    with pytest.raises(UsageError, match="mixup is random, and only"):
        parse_pipeline("eval_preprocess", "mixup")
