"""What all peers share: their data, and how they are told to train for a while."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import numpy as np

BATCH = int(os.environ.get("PEERS_BATCH", "128"))
WARMUP_SECONDS = 1.0


def load_data() -> tuple[np.ndarray, np.ndarray]:
    """Loads images, uint8 [n, 28, 28, 1], and labels, int32 [n]."""
    with np.load(os.environ["PEERS_DATA"]) as data:
        return data["images"], data["labels"]


def batches(count: int, seed: int = 1):
    """Yields the indices of one batch after another, each epoch in an order of its own."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def serve(train: Callable[[float], int]) -> None:
    """Trains when told: reads seconds from standard input, a line each, and answers with images a second.

    Args:
      train: trains for about so many seconds, and returns the steps once they have all ended.
    """
    train(WARMUP_SECONDS)
    print("READY", flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        steps = train(float(line))
        print("SPEED", steps * BATCH / (time.perf_counter() - begin), flush=True)


def repeat(step: Callable[[], object], finish: Callable[[], object] = lambda: None) -> Callable[[float], int]:
    """Makes a `train` of a function that makes one step."""

    def train(seconds: float) -> int:
        begin, steps = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            step()
            steps += 1
        finish()
        return steps

    return train
