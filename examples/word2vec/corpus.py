"""A corpus into a vocabulary and the numbers of its words, in a file that is mapped into memory."""

from __future__ import annotations

import lzma
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import NamedTuple

import numpy as np

import trainer.ops
from trainer.errors import UsageError, reason
from trainer.rundir import replace_text
from trainer.signals import check_installed
from trainer.tf1 import tf

CHUNK = 4 << 20  # bytes of text that are counted at once
MOST_WORDS = 1 << 31
SPACES = (b" ", b"\n", b"\t", b"\r", b"\v", b"\f")
END = -1  # of a line, which no window spans


class Ids(NamedTuple):
    """The numbers of a corpus's words, in a file."""

    path: Path
    size: int

    def stretch(self, begin: int, count: int) -> np.ndarray:
        """Maps some of them into memory, for as long as the array lives: int32 [count], less at the end."""
        count = min(count, self.size - begin)
        return np.memmap(self.path, np.int32, "r", offset=4 * begin, shape=(count,))

    def pieces(self) -> Iterator[np.ndarray]:
        return (self.stretch(begin, CHUNK) for begin in range(0, self.size, CHUNK))


class Corpus(NamedTuple):
    """A corpus as it is trained on."""

    words: list[str]  # by number, the most frequent first
    counts: np.ndarray  # int64 [words]
    ids: Ids  # END behind each line

    @property
    def num_words(self) -> int:
        return int(self.counts.sum())


def operations():
    """Builds and loads the operations in C++, where products and sums may be fused: they have no stock twins."""
    return trainer.ops.load("word2vec_ops.cc", flags=("-ffp-contract=fast",))


def load(folder: Path) -> Corpus | None:
    """Reads what `prepare` has written; None where it has not come to its end.

    Raises:
      UsageError: a file is not as it was written.
    """
    vocabulary, ids = folder / "vocabulary.tsv", folder / "ids.int32"
    if not vocabulary.is_file():
        return None
    try:
        rows = [line.rsplit("\t", 1) for line in vocabulary.read_text().split("\n")[1:-1]]
        counts = np.array([int(count) for _, count in rows], np.int64)
        mapped = Ids(ids, ids.stat().st_size // 4)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: the prepared corpus is damaged ({error}); use another --logdir") from error
    found = [(int((piece >= 0).sum()), int(piece.max()), int(piece.min())) for piece in mapped.pieces()]
    numbers, largest, least = zip(*found, strict=True) if found else ([0], [-1], [END])
    if sum(numbers) != int(counts.sum()) or max(largest) >= len(counts) or min(least) < END:
        raise UsageError(f"{ids} is not what {vocabulary.name} belongs to: use another --logdir")
    return Corpus([word for word, _ in rows], counts, mapped)


def prepare(path: Path, folder: Path, *, min_count: int, tokens: str) -> Corpus:
    """Counts a corpus, and writes its vocabulary and numbers.

    Args:
      path: text, also packed by xz; a line is a document.
      folder: gets `vocabulary.tsv` and `ids.int32`.
      min_count: words that come less often are left out.
      tokens: letters: runs of a to z, in lower case; whitespace: what stands between white space.

    Raises:
      UsageError: it is empty, no text, too large, or has less than two words.
    """
    raw = folder / "ids.part"
    try:
        with raw.open("wb") as file:
            words, counts, size = _count(path, file, tokens)
        kept = np.flatnonzero(counts >= min_count)
        if len(kept) < 2:
            raise UsageError(
                f"{path} has {len(kept)} words that come {min_count} times or more, of {len(counts):,}; wanted two; a "
                "lower --min_count may help"
            )
        order = kept[np.lexsort((words[kept], -counts[kept]))]
        _renumber(np.memmap(raw, np.int32, "r", shape=(size,)), order, len(counts), folder / "ids.int32")
    finally:
        raw.unlink(missing_ok=True)
    text = "".join(f"{word.decode()}\t{count}\n" for word, count in zip(words[order], counts[order], strict=True))
    replace_text(folder / "vocabulary.tsv", f"word\tcount\n{text}")  # Last: it says that all is there.
    found = load(folder)
    assert found
    return found


def _count(path: Path, file, tokens: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Writes the words' numbers by their first coming; returns words, counts, and how many numbers it wrote."""
    size = 0
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        module = operations()
        text = tf.placeholder(tf.string, [])
        words = module.word2vec_words(shared_name=str(path))
        encode = session.make_callable(module.word2vec_encode(words, text, tokens=tokens), [text])
        try:
            for piece in _pieces(path):
                check_installed()
                ids = encode(piece)
                size += len(ids)
                if size >= MOST_WORDS:
                    raise UsageError(f"{path} has 2^31 words or more: split it")
                ids.tofile(file)
        except tf.errors.InvalidArgumentError as error:
            raise UsageError(f"{path}: {reason(error)}") from error
        found, counts = session.run(module.word2vec_vocabulary(words))
    if not len(found):
        raise UsageError(f"{path} has no words; wanted text")
    try:
        b"\n".join(found).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: {error}") from error
    return found, counts, size


def _renumber(raw: np.ndarray, order: np.ndarray, num_words: int, path: Path) -> None:
    """Writes the numbers by frequency, without words that are left out."""
    numbers = np.full(num_words + 1, -2, np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    numbers[num_words] = END  # Where -1 looks.
    aside = path.with_name(f"{path.name}.part")
    with aside.open("wb") as file:
        for begin in range(0, len(raw), CHUNK):
            check_installed()
            ids = numbers[raw[begin : begin + CHUNK]]
            ids[ids != -2].tofile(file)
    aside.replace(path)


def _pieces(path: Path) -> Iterator[bytes]:
    """Yields the text in pieces that end behind a word, unpacked by a thread of its own.

    Raises:
      UsageError: it cannot be read.
    """
    queue: Queue[bytes | BaseException | None] = Queue(4)
    threading.Thread(target=_read, args=(path, queue), daemon=True).start()
    rest = b""
    while (piece := queue.get()) is not None:
        if isinstance(piece, BaseException):
            raise UsageError(f"--corpus={path} cannot be read: {piece}") from piece
        end = max(piece.rfind(space) for space in SPACES) + 1
        yield rest + piece[:end]
        rest = piece[end:] if end else rest + piece
        if not end and len(rest) > CHUNK:
            raise UsageError(f"{path} is no text: {len(rest):,} bytes without a space")
    yield rest


def _read(path: Path, queue: Queue) -> None:
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            while piece := file.read(CHUNK):
                queue.put(piece)
        queue.put(None)
    except BaseException as error:
        queue.put(error)
