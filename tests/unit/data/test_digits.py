import hashlib
from importlib import resources

import numpy as np

from trainer.data.sources.digits import read_digits


def test_the_embedded_digits_are_those_of_scikit_learn():
    """The checksums are of `load_digits()` of scikit-learn 1.9: images as uint8 and target as uint8."""
    with resources.files("trainer.data.sources").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    )
    assert (
        hashlib.sha256(labels.tobytes()).hexdigest()
        == "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0"
    )


def test_every_digit_is_in_one_split():
    counts = {split: len(list(read_digits(split))) for split in ("train", "validation", "test")}
    assert counts == {"train": 1258, "validation": 180, "test": 359}


def test_pixels_fill_the_range_of_bytes():
    image, label = next(read_digits("train"))
    assert image.shape == (8, 8, 1) and image.dtype == np.uint8 and 0 <= label <= 9
    values = np.unique(np.stack([image for image, _ in read_digits("train")]))
    # 17 grey values, 0..16, times 255/16.
    assert values.tolist() == [round(v * 255 / 16) for v in range(17)]
