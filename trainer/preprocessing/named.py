"""Whole pipelines that have a name, for people who know them from TF-Slim."""

from __future__ import annotations

import re
from typing import NamedTuple


class Named(NamedTuple):
    """A pipeline that has a name, as it is in training and in all else.

    SIZE stands for the height and width; SHORT for the shorter side before they are cut out, LONG for twice as much.
    """

    size: int  # that it has where none is given; 0: it takes none
    training: str
    evaluation: str

    def of(self, size: int) -> Named:
        short = round(size * 256 / 224)
        words = {"SIZE": size, "SHORT": short, "LONG": 2 * short}
        texts = (self.training, self.evaluation)
        return Named(size, *(re.sub("|".join(words), lambda word: str(words[word[0]]), text) for text in texts))


MEANS = "subtract_mean(123.68, 116.78, 103.94)"  # of ImageNet's red, green and blue, as the published weights want it
INCEPTION = "central_crop(0.875)|unit|resize(SIZE, method='bilinear_tf1')|scale(-1, 1)"
VGG = f"float|resize_short(SHORT, method='bilinear_tf1')|crop_or_pad(SIZE)|{MEANS}"
LENET = "crop_or_pad(SIZE)|subtract_mean(128)|divide(128)"
MNIST = "crop_or_pad(SIZE)|scale(-0.5, 0.5)"
# As TF-Slim's preprocessing of these names; resnet: near TensorFlow's official models; mnist: as its MNIST tutorial.
PIPELINES = {
    "cifar": Named(
        32,
        "pad(4)|random_crop(SIZE)|flip_lr|float|brightness(63)|contrast(0.2..1.8)|standardize",
        "crop_or_pad(SIZE)|standardize",
    ),
    "inception": Named(299, "distorted_crop(SIZE, method='any')|flip_lr|unit|color|scale(-1, 1)", INCEPTION),
    "inception_fast": Named(299, "distorted_crop(SIZE)|flip_lr|unit|color('bs')|scale(-1, 1)", INCEPTION),
    "lenet": Named(28, LENET, LENET),
    "mnist": Named(28, MNIST, MNIST),
    "none": Named(0, "", ""),
    "resnet": Named(224, f"distorted_crop(SIZE)|flip_lr|{MEANS}", VGG),
    "vgg": Named(
        224,
        f"random_resize_short(SHORT..LONG, method='bilinear_tf1')|random_crop(SIZE)|flip_lr|{MEANS}",
        VGG,
    ),
}
