"""What an evaluation counts, batch by batch, in numpy: one pass, and memory that does not grow with the images."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

THRESHOLDS = 201  # of a precision-recall curve, evenly from 0 to 1


class Wrong(NamedTuple):
    """An image that was taken for another class."""

    loss: float
    label: int
    predicted: int
    probability: float  # of the predicted class
    image: np.ndarray  # uint8 [height, width, depth]


class Scores:
    """Sums over all images so far."""

    def __init__(self, num_classes: int, *, top_k: int, num_wrong: int) -> None:
        """Begins with no image.

        Args:
          num_classes: width of the logits.
          top_k: an image counts where its label is among so many of the largest logits.
          num_wrong: the most wrong images that are kept.
        """
        self.num_examples = 0
        self.confusion = np.zeros([num_classes, num_classes], np.int64)  # [label, predicted]
        self._top_k, self._in_top_k = top_k, 0
        # Images by the threshold up to which their probability of a class reaches; of the class, and of others.
        self._positives, self._negatives = (np.zeros([num_classes, THRESHOLDS], np.int64) for _ in range(2))
        self._num_wrong = num_wrong
        self._wrong: list[tuple[float, int, Wrong]] = []  # a heap, the least wrong first

    def update(self, logits: np.ndarray, labels: np.ndarray, images: np.ndarray) -> None:
        """Counts a batch.

        Args:
          logits: float32 [n, classes].
          labels: int32 [n].
          images: uint8 [n, height, width, depth].
        """
        count, classes = logits.shape
        rows = np.arange(count)
        with np.errstate(invalid="ignore"):  # Infinity less infinity is NaN.
            shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        exponents = np.exp(shifted)  # NaN where a logit is; the loss tells.
        sums = exponents.sum(axis=1)
        probabilities = exponents / sums[:, None]
        losses = np.log(sums) - shifted[rows, labels]
        predicted = logits.argmax(axis=1)
        # Ties count as `tf.nn.in_top_k` counts them: all that are as large as the last are in.
        self._in_top_k += int(((logits > logits[rows, labels][:, None]).sum(axis=1) < self._top_k).sum())
        np.add.at(self.confusion, (labels, predicted), 1)
        reached = np.floor(np.nan_to_num(probabilities) * (THRESHOLDS - 1)).astype(np.int64)
        of_class = np.zeros([count, classes], bool)
        of_class[rows, labels] = True
        for counts, chosen in ((self._positives, of_class), (self._negatives, ~of_class)):
            row, column = np.nonzero(chosen)
            np.add.at(counts, (column, reached[row, column]), 1)
        for index in np.flatnonzero(predicted != labels):
            self._keep(int(index), losses, labels, predicted, probabilities, images)
        self.num_examples += count

    def _keep(
        self,
        index: int,
        losses: np.ndarray,
        labels: np.ndarray,
        predicted: np.ndarray,
        probabilities: np.ndarray,
        images: np.ndarray,
    ) -> None:
        label, taken = int(labels[index]), int(predicted[index])
        wrong = Wrong(float(losses[index]), label, taken, float(probabilities[index, taken]), images[index])
        # The number breaks ties, so that images are never compared.
        heapq.heappush(self._wrong, (wrong.loss, -self.num_examples - index, wrong))
        if len(self._wrong) > self._num_wrong:
            heapq.heappop(self._wrong)

    @property
    def top_k_accuracy(self) -> float:
        return self._in_top_k / self.num_examples

    @property
    def support(self) -> np.ndarray:
        """Counts the images of each class: int64 [classes]."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def precision(self) -> np.ndarray:
        """Is, of what was taken for a class, the fraction that is of it: float64 [classes]; 0 where nothing was."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """Is, of the images of a class, the fraction that was taken for it: float64 [classes]."""
        return _ratio(np.diag(self.confusion), self.support)

    @property
    def most_wrong(self) -> list[Wrong]:
        """Gives the images of the largest loss that were taken for another class, the most wrong first."""
        return [wrong for _, _, wrong in sorted(self._wrong, key=lambda item: (-item[0], -item[1]))]

    def counts_at_thresholds(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts true and false positives, int64 [classes, THRESHOLDS]: images whose probability is at least i/200."""
        return tuple(  # type: ignore[return-value]
            counts[:, ::-1].cumsum(axis=1)[:, ::-1] for counts in (self._positives, self._negatives)
        )

    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Gives precision and recall of each class at each threshold, float64 [classes, THRESHOLDS].

        Where no image reaches a threshold, the precision is 1, as in scikit-learn.
        """
        true, false = self.counts_at_thresholds()
        taken = true + false
        return np.where(taken > 0, _ratio(true, taken), 1.0), _ratio(true, true[:, :1])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(part / np.maximum(whole, 1))
