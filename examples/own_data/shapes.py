"""Data of your own: pictures that a function draws, or reads from wherever yours are.

python -m trainer --input=examples/own_data/shapes.py --input_args='size=16' --epochs=20 --learning_rate=0.003
"""

import numpy as np

COUNTS = {"train": 1000, "validation": 200, "test": 200}


def examples(split, size=24):
    """Yields pictures, uint8 [height, width] or [height, width, depth], and the names of their classes."""
    rng = np.random.default_rng(list(COUNTS).index(split))
    rows, columns = np.mgrid[:size, :size]
    for _ in range(COUNTS[split]):
        y, x = rng.uniform(size / 3, 2 * size / 3, 2)
        radius, is_disk = rng.uniform(size / 6, size / 3), rng.random() < 0.5
        distance = np.hypot(rows - y, columns - x) if is_disk else np.maximum(abs(rows - y), abs(columns - x))
        picture = rng.integers(0, 80, (size, size)) + 120 * (distance < radius)
        yield picture.astype(np.uint8), "disk" if is_disk else "square"
