"""Judges word vectors: python examples/word2vec/evaluate.py --logdir=runs/words --nearest=peace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vectors import Vectors, load_vectors

from trainer.console import Console, exit_program, run_program
from trainer.errors import OK, UsageError
from trainer.settings import flags
from trainer.settings.fields import between, check_fields, option
from trainer.signals import Signals

USAGE = "python examples/word2vec/evaluate.py --logdir=DIR [--analogies=FILE] [--similarities=FILE] [--nearest=WORD]"
AT_ONCE = 500  # questions


@dataclass(frozen=True)
class Settings:
    logdir: str = option("", "run directory of train.py", path=True)
    vectors: str = option("", "in its place, a file of vectors as export.py writes it", path=True)
    analogies: str = option("", "file of questions: four words a line, a is to b as c is to d", path=True)
    similarities: tuple[str, ...] = option((), "file of word, word, score; may be repeated", repeated=True)
    nearest: tuple[str, ...] = option((), "print the words nearest to this one; may be repeated", repeated=True)
    count: int = option(10, "of nearest words", legal=between(1, 100_000))
    json: bool = option(False, "end with a line of JSON")


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_evaluate, argv)


def _evaluate(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings: Settings = flags.parse_flags(Settings, argv, USAGE)
    check_fields(settings)
    vectors = load_vectors(settings.logdir, settings.vectors, console.say)
    found = {}
    if settings.analogies:
        right, asked, all_of_them = solve_analogies(vectors, _rows(settings.analogies, 4))
        found["analogies"] = right / asked if asked else None
        share = f"{right / asked:.2%}" if asked else "none"
        console.say(
            f"analogies: {share} of {asked:,} questions right ({all_of_them - asked:,} more have unknown words)"
        )
    for path in settings.similarities:
        correlation, asked, all_of_them = correlate(vectors, _rows(path, 3))
        found[Path(path).stem] = correlation
        shown = "none" if correlation is None else f"{correlation:.4f}"
        console.say(f"{Path(path).stem}: rank correlation {shown} over {asked:,} of {all_of_them:,} pairs")
    for word in settings.nearest:
        console.say(
            f"{word}: " + ", ".join(f"{other} {cosine:.3f}" for other, cosine in nearest(vectors, word, settings.count))
        )
    if settings.json:
        console.say(json.dumps(found))
    return OK


def _rows(path: str, columns: int) -> list[list[str]]:
    """Reads a file of words; lines that begin with a colon name sections."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    rows = [line.split() for line in lines if line.strip() and not line.startswith(":")]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise UsageError(f"{path}: row {number} has {len(row)} columns, wanted {columns}")
    return rows


def solve_analogies(vectors: Vectors, rows: Sequence[Sequence[str]]) -> tuple[int, int, int]:
    """Answers a is to b as c is to: the word nearest by cosine to b - a + c, none of the question's.

    Returns:
      How many answers are right, of how many questions whose words are known, of how many in all.
    """
    numbers = [[vectors.find(word) for word in row] for row in rows]
    known, unit, right = np.array([row for row in numbers if None not in row]), vectors.unit, 0
    for begin in range(0, len(known), AT_ONCE):
        a, b, c, d = known[begin : begin + AT_ONCE].T
        scores = (unit[b] - unit[a] + unit[c]) @ unit.T
        for words in (a, b, c):
            scores[np.arange(len(words)), words] = -np.inf
        right += int((scores.argmax(1) == d).sum())
    return right, len(known), len(rows)


def correlate(vectors: Vectors, rows: Sequence[Sequence[str]]) -> tuple[float | None, int, int]:
    """Computes Spearman's correlation of the cosines with people's scores; how many pairs are known, and all.

    There is none of less than two pairs, or of scores that are all the same.
    """
    pairs = [(vectors.find(a), vectors.find(b), score) for a, b, score in rows]
    known = [(a, b, score) for a, b, score in pairs if a is not None and b is not None]
    try:
        scores = np.array([float(score) for *_, score in known])
    except ValueError as error:
        raise UsageError(f"a score is no number: {error}") from error
    cosines = np.array([float(vectors.unit[a] @ vectors.unit[b]) for a, b, _ in known])
    if len(known) < 2 or not np.isfinite(scores).all() or np.ptp(scores) == 0 or np.ptp(cosines) == 0:
        return None, len(known), len(rows)
    return float(np.corrcoef(_ranks(cosines), _ranks(scores))[0, 1]), len(known), len(rows)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks values; equal ones share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def nearest(vectors: Vectors, word: str, count: int) -> list[tuple[str, float]]:
    """Finds the words whose vectors have the largest cosines with that of a word.

    Raises:
      UsageError: the word is not known.
    """
    found = vectors.find(word)
    if found is None:
        raise UsageError(f"--nearest={word}: the vocabulary of {len(vectors.words):,} words does not have it")
    cosines = vectors.unit @ vectors.unit[found]
    order = [number for number in np.argsort(-cosines)[: count + 1] if number != found]
    return [(vectors.words[number], float(cosines[number])) for number in order[:count]]


if __name__ == "__main__":
    exit_program(main())
