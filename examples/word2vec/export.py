"""Writes vectors for other programs: python examples/word2vec/export.py --logdir=runs/words --output=words.bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vectors import load_vectors, write_file

from trainer.console import Console, exit_program, run_program
from trainer.errors import OK, UsageError
from trainer.settings import flags
from trainer.settings.fields import option
from trainer.signals import Signals

USAGE = "python examples/word2vec/export.py --logdir=DIR --output=FILE"


@dataclass(frozen=True)
class Settings:
    logdir: str = option("", "run directory of train.py", path=True)
    output: str = option("", "file that is written: .txt, or .bin; as word2vec.c does, and gensim reads", path=True)
    overwrite: bool = option(False, "replace what is there")


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_export, argv)


def _export(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings: Settings = flags.parse_flags(Settings, argv, USAGE)
    path = Path(settings.output)
    if path.suffix not in (".txt", ".bin"):
        raise UsageError(f"--output={settings.output}: wanted a file that ends in .txt or .bin")
    if path.exists() and not settings.overwrite:
        raise UsageError(f"{path} is there; --overwrite replaces it")
    vectors = load_vectors(settings.logdir, "", console.say)
    write_file(vectors, path)
    console.say(f"wrote {len(vectors.words):,} vectors of {vectors.values.shape[1]} numbers to {path}")
    return OK


if __name__ == "__main__":
    exit_program(main())
