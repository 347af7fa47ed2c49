"""The recipe of configs/mnist_lenet_quick.flags, for the peers."""

import math

EPOCHS = 2
BATCH = 128
RATE = 0.003  # of adam
WARMUP = 50  # steps
DROPOUT = 0.1


def factor(step: int, steps: int) -> float:
    """Is what the rate is multiplied with: a linear warm-up, and cosine decay to zero at the last of `steps`."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
