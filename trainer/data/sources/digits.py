"""The embedded data set: 1,797 handwritten digits of 8x8 pixels.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). `digits.npz`
holds its test portion, with the values 0..16 unchanged, in the order of scikit-learn's `load_digits`, and for each
image the split (0 train, 1 validation, 2 test) that was drawn once, by class.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import numpy as np

from trainer.data.spec import SPLITS

ATTRIBUTION = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, "
    "https://doi.org/10.24432/C50P49, CC BY 4.0"
)
MAXIMUM = 16


def read_digits(split: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (image uint8 [8, 8, 1] in 0..255, label) of one split."""
    with resources.files("trainer.data.sources").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        chosen = arrays["split"] == SPLITS.index(split)
        images, labels = arrays["images"][chosen], arrays["labels"][chosen]
    pixels = np.round(images * (255 / MAXIMUM)).astype(np.uint8)[..., np.newaxis]
    yield from zip(pixels, (int(label) for label in labels), strict=True)
