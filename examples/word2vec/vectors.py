"""Word vectors of a run, and in files as word2vec.c writes them, which gensim reads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.errors import UsageError
from trainer.rundir import RunDir, replace_bytes


class Vectors(NamedTuple):
    """Words and their vectors."""

    words: list[str]
    values: np.ndarray  # float32 [words, dim]
    number: dict[str, int]
    unit: np.ndarray  # the same, each of length 1

    def find(self, word: str) -> int | None:
        """Finds the number of a word as it is written, or else in lower case; None where it is not known."""
        return self.number.get(word, self.number.get(word.lower()))


def make_vectors(words: list[str], values: np.ndarray) -> Vectors:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return Vectors(
        words, values, {word: number for number, word in enumerate(words)}, values / np.maximum(lengths, 1e-12)
    )


def load_vectors(logdir: str, path: str, say: Callable[[str], None]) -> Vectors:
    """Loads the vectors of a run's newest checkpoint, or those of a file.

    Raises:
      UsageError: there are none, or both are named.
    """
    if bool(logdir) == bool(path):
        raise UsageError("name the vectors either by --logdir=DIR, the run's, or by --vectors=FILE")
    return read_file(Path(path)) if path else _load_run(RunDir(logdir), say)


def _load_run(rundir: RunDir, say: Callable[[str], None]) -> Vectors:
    import corpus

    from trainer.saving.models import choose_checkpoint
    from trainer.saving.tensors import load_tensors

    data = corpus.load(rundir.path)
    if data is None:
        raise UsageError(f"{rundir.path} holds no run of train.py")
    checkpoint = choose_checkpoint(rundir, "")
    say(f"vectors of {checkpoint}")
    return make_vectors(data.words, load_tensors(checkpoint)["w_in"])


def write_file(vectors: Vectors, path: Path) -> None:
    """Writes vectors: as text, or where the name ends in .bin, as bytes."""
    count, dim = vectors.values.shape
    lines = [f"{count} {dim}\n".encode()]
    for word, row in zip(vectors.words, vectors.values, strict=True):
        if path.suffix == ".bin":
            lines.append(word.encode() + b" " + row.astype("<f4").tobytes() + b"\n")
        else:
            lines.append(f"{word} {' '.join(map(repr, row.tolist()))}\n".encode())
    replace_bytes(path, b"".join(lines))


def read_file(path: Path) -> Vectors:
    """Reads such a file.

    Raises:
      UsageError: it is no such file.
    """
    try:
        with path.open("rb") as file:
            count, dim = map(int, file.readline().split())
            if path.suffix != ".bin":
                rows = [line.split(" ") for line in file.read().decode().split("\n")[:-1]]
                words, values = [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)
            else:
                words, values = [], np.empty([count, dim], np.float32)
                for number in range(count):
                    word = b"".join(iter(functools.partial(_letter, file), b" "))
                    words.append(word.lstrip(b"\n").decode())
                    values[number] = np.frombuffer(file.read(4 * dim), "<f4")
        if values.shape != (count, dim):
            raise ValueError(f"it holds {values.shape}, and says {count, dim}")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no vectors: {error}") from error
    return make_vectors(words, values)


def _letter(file) -> bytes:
    letter = file.read(1)
    if not letter:
        raise ValueError("it ends within a word")
    return letter
