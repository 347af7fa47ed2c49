"""What published weights want of the pictures, and what a run gives them."""

import pytest

from trainer.data.spec import describe_images
from trainer.models.published import PUBLISHED, describe_difference
from trainer.preprocessing.preprocessing import preprocessing_of
from trainer.settings.model import MODELS


def made(text, tmp_path):
    spec = describe_images("any", (None, None, 3), ("a", "b"), {}, tmp_path, smallest=(64, 64))
    return preprocessing_of(spec, text)


@pytest.mark.parametrize(
    ("model", "right", "wrong"),
    [
        ("mobilenet_v1", "inception(128)", "vgg(128)"),
        ("mobilenet_v1", "resize(96,96)|scale(-1,1)", "resize(96,96)|scale(0,1)"),
        ("resnet_v1_50", "vgg(128)", "inception(128)"),
        ("resnet_v2_101", "resize(96,96)|scale(-1.0, 1.0)", "resize(96,96)"),
    ],
)
def test_other_numbers_than_the_weights_want_are_named(model, right, wrong, tmp_path):
    assert describe_difference(model, made(right, tmp_path)) is None
    told = describe_difference(model, made(wrong, tmp_path))
    assert f"--preprocess={PUBLISHED[model].pipeline}" in told and PUBLISHED[model].values in told


def test_networks_without_published_weights_want_nothing(tmp_path):
    assert describe_difference("lenet", made("resize(96,96)", tmp_path)) is None
    assert set(PUBLISHED) <= set(MODELS)
