"""Trains word vectors: python examples/word2vec/train.py --corpus=corpus.txt.xz --logdir=runs/words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.console import Console, exit_program, run_program
from trainer.errors import UsageError
from trainer.rundir import RunDir, replace_text
from trainer.settings import flags
from trainer.settings.fields import above, between, check_fields, option
from trainer.signals import Signals

USAGE = "python examples/word2vec/train.py --corpus=FILE --logdir=DIR [--flag=value ...]"
KEPT = ("tokens", "min_count", "dim", "window", "negatives", "subsample", "epochs", "learning_rate", "seed")


@dataclasses.dataclass(frozen=True)
class Settings:
    corpus: str = option("", "text, also packed by xz; a line is a document; needed at the first start", path=True)
    logdir: str = option("", "run directory, also for tensorboard", path=True)
    tokens: str = option("letters", "letters: runs of a to z, in lower case; whitespace", ("letters", "whitespace"))
    min_count: int = option(5, "words that come less often are left out", legal=between(1, 1 << 30))
    dim: int = option(100, "numbers of a vector", legal=between(1, 10_000))
    window: int = option(5, "words to each side, at most", legal=between(1, 32))
    negatives: int = option(5, "negative samples for each word", legal=between(1, 63))
    subsample: float = option(1e-4, "frequency above which words are left out; 0: none is", legal=between(0, 1))
    epochs: int = option(5, "passes over the corpus", legal=between(1, 10_000))
    learning_rate: float = option(0.025, "rate of the first word; it falls to zero", legal=above(0, 10))
    seed: int = option(1, "of the vectors, and of all that is drawn", legal=between(0, 2**31 - 1))
    threads: int = option(0, "that train; 0: as many as cores", legal=between(0, 1024))
    deterministic: bool = option(False, "one thread, and the same bits in every run")
    words_per_step: int = option(1_000_000, "of one run of the session", legal=between(1000, 10_000_000))
    checkpoint_seconds: float = option(60.0, "between checkpoints", legal=above(0, 1e6))
    log_seconds: float = option(5.0, "between lines", legal=above(0, 1e6))


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_train, argv)


def _train(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings: Settings = flags.parse_flags(Settings, argv, USAGE)
    check_fields(settings)
    if not settings.logdir:
        raise UsageError(f"--logdir is missing: the directory of the run; usage: {USAGE}")
    signals.shield()  # Before TensorFlow's first thread.

    from trainer.saving.lock import RunLock  # TensorFlow is imported after parsing.

    signals.defer()
    rundir = RunDir(settings.logdir)
    rundir.path.mkdir(parents=True, exist_ok=True)
    with RunLock(rundir, say=console.say):
        _check_same(settings, rundir)
        console.open_log(rundir.log)
        return _run(settings, rundir, console, signals)


def _check_same(settings: Settings, rundir: RunDir) -> None:
    """Refuses to go on with another experiment, and notes what this one is.

    Before the first checkpoint anything may change; another corpus, or other words of it, are counted anew.
    """
    from trainer.saving.files import has_files

    before, mine = _noted(rundir), {name: getattr(settings, name) for name in KEPT}
    mine["corpus"] = _fingerprint(Path(settings.corpus)) if settings.corpus else before.get("corpus")
    pairs = [(name, before.get(name), value) for name, value in mine.items()]
    changed = [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]
    if has_files(rundir):
        if changed:
            raise UsageError(f"{rundir.path} holds another run ({', '.join(changed)}); use another --logdir")
        return
    vocabulary = rundir.path / "vocabulary.tsv"
    if any(before.get(name) != mine[name] for name in ("corpus", "tokens", "min_count")):
        vocabulary.unlink(missing_ok=True)
    if not vocabulary.is_file() and not settings.corpus:
        raise UsageError(f"--corpus is missing: a file of text; usage: {USAGE}")
    replace_text(rundir.config, json.dumps(mine, indent=2) + "\n")


def _noted(rundir: RunDir) -> dict[str, object]:
    """Reads what an earlier start has noted; nothing where there was none."""
    try:
        found = json.loads(rundir.config.read_text())
        return {name: found.get(name) for name in (*KEPT, "corpus")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{rundir.config} cannot be read: {error}; use another --logdir") from error


def _fingerprint(path: Path) -> str:
    """Tells a corpus from another, by its size and its beginning."""
    try:
        with path.open("rb") as file:
            return f"{path.stat().st_size} bytes, {hashlib.sha256(file.read(1 << 20)).hexdigest()[:16]}"
    except OSError as error:
        raise UsageError(f"--corpus={path}: {error.strerror or error}; wanted a file of text") from error


def _run(settings: Settings, rundir: RunDir, console: Console, signals: Signals) -> int:
    import corpus
    from loop import Run, run_steps
    from model import build_step

    from trainer.saving import checkpoints
    from trainer.saving.progress import load_progress
    from trainer.tf1 import op_determinism, tf

    begin = time.monotonic()
    data = corpus.load(rundir.path)
    if data is None:
        path = Path(settings.corpus)
        data = corpus.prepare(path, rundir.path, min_count=settings.min_count, tokens=settings.tokens)
        seconds = time.monotonic() - begin
        console.say(f"{data.num_words:,} words of {len(data.words):,} types in {path}, counted in {seconds:.1f} s")
    signals.check()
    found = load_progress(rundir, console.say)
    with op_determinism(settings.deterministic), tf.Graph().as_default(), tf.device("/cpu:0"):
        step = build_step(
            data.counts,
            settings.dim,
            window=settings.window,
            negatives=settings.negatives,
            subsample=settings.subsample,
            seed=settings.seed,
            threads=1 if settings.deterministic else settings.threads,
        )
        ops = checkpoints.build_checkpoint_ops()
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            session.run(tf.global_variables_initializer())
            if found:
                checkpoints.restore(ops, session, found.path)
                console.say(f"resuming from step {found.step}, word {found.position:,}")
            position = found.position if found else 0
            return run_steps(Run(settings, rundir, data, step, ops, session, console, signals), position)


if __name__ == "__main__":
    exit_program(main())
