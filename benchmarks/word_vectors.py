"""The word vectors of examples/word2vec beside gensim's: the same corpus, words, settings and machine, in turn.

    python benchmarks/word_vectors.py --corpus=ungdc.txt.xz --data_dir=words --rounds=3 --seeds=3

`--data_dir` holds google_analogies.txt, ws353.txt and bruni_men.txt. It makes an environment for gensim
(benchmarks/.environments), and writes the corpus as gensim takes it (`corpus_file`: words, a document a line).
It prints words a second (all words of the corpus, those that are left out among them), with one thread and with two;
what both find after the same epochs; how long counting takes; and the memory of a training.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from peers import HERE, at_least_one, make_environment

EXAMPLE = HERE.parent / "examples" / "word2vec"
FILES = ("google_analogies.txt", "ws353.txt", "bruni_men.txt")
GENSIM = """
import json, sys, time
from gensim.models import Word2Vec
corpus, epochs, seed, output, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
model = Word2Vec(vector_size=100, window=5, negative=5, sample=1e-4, sg=1, workers=workers, min_count=5, seed=seed)
begin = time.time()
model.build_vocab(corpus_file=corpus)
counted = time.time()
model.train(corpus_file=corpus, total_examples=model.corpus_count, total_words=model.corpus_total_words, epochs=epochs)
speed = model.corpus_total_words * epochs / (time.time() - counted)
model.wv.save_word2vec_format(output, binary=True)
print(json.dumps({"words_per_second": speed, "counting": counted - begin}))
"""
MEMORY = """
import runpy, sys, resource
from trainer.tf1 import tf
with tf.Graph().as_default(), tf.Session() as session:
    session.run(tf.constant(1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
import train
code = train.main(sys.argv)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{(after - before) / 1024:.0f} MiB above an open session")
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=HERE.parent)
    if done.returncode:
        raise SystemExit(f"{command[1]}: {done.stderr[-2000:]}")
    return done.stdout


def ours(corpus: str, folder: Path, seed: int, epochs: int, threads: int = 0) -> tuple[float, float]:
    """Trains; returns words a second, and the seconds that counting took (0 where it was counted before)."""
    flags = [f"--corpus={corpus}", f"--logdir={folder}", f"--seed={seed}", f"--epochs={epochs}", f"--threads={threads}"]
    out = run(sys.executable, EXAMPLE / "train.py", *flags)
    counted = re.search(r"counted in ([\d.]+) s", out)
    return json.loads((folder / "result.json").read_text())["words_per_second"], float(counted[1]) if counted else 0.0


def judge(vectors: str, data: Path) -> dict[str, float]:
    flags = [f"--analogies={data / FILES[0]}", *(f"--similarities={data / name}" for name in FILES[1:]), "--json"]
    return json.loads(run(sys.executable, EXAMPLE / "evaluate.py", vectors, *flags).splitlines()[-1])


def show(name: str, values: list[float], form: str) -> None:
    print(f"{name:<44} {statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]", flush=True)


class Peer(NamedTuple):
    """gensim, on the corpus as it takes it."""

    python: Path  # of its environment
    folder: Path
    corpus: Path  # plain text

    def train(self, seed: int, epochs: int) -> dict[str, float]:
        output = self.folder / f"gensim{seed}.bin"
        return json.loads(run(self.python, self.folder / "theirs.py", self.corpus, str(epochs), str(seed), output, "2"))


def make_peer(corpus: str, python: Path, folder: Path) -> Peer:
    plain = folder / "corpus.txt"
    with lzma.open(corpus) as file, plain.open("wb") as written:
        for line in file:
            written.write(b" ".join(re.findall(rb"[a-z]+", line.lower())) + b"\n")
    (folder / "theirs.py").write_text(GENSIM)
    return Peer(python, folder, plain)


def measure_speed(corpus: str, peer: Peer, rounds: int) -> None:
    rows, counts = [], []
    for number in range(rounds):
        speed, counted = ours(corpus, peer.folder / f"two{number}", 1, 1)
        theirs = peer.train(1, 1)
        one, _ = ours(corpus, peer.folder / f"one{number}", 1, 1, threads=1)
        rows.append((speed, theirs["words_per_second"], one))
        counts.append((counted, theirs["counting"]))
    show("words/s, two threads", [row[0] for row in rows], ",.0f")
    show("words/s, one thread", [row[2] for row in rows], ",.0f")
    show("gensim, two workers", [row[1] for row in rows], ",.0f")
    show("to gensim", [row[0] / row[1] for row in rows], ".2f")
    show("two threads to one", [row[0] / row[2] for row in rows], ".2f")
    show("seconds to count, xz unpacked", [row[0] for row in counts], ".1f")
    show("gensim's, plain text", [row[1] for row in counts], ".1f")


def measure_memory(corpus: str, folder: Path) -> None:
    """Trains on what the first round has counted, so that counting takes no memory here."""
    (folder / "memory.py").write_text(MEMORY)
    (folder / "memory").mkdir()
    for name in ("vocabulary.tsv", "ids.int32", "config.json"):
        (folder / "memory" / name).hardlink_to(folder / "two0" / name)
    flags = [f"--corpus={corpus}", f"--logdir={folder}/memory", "--epochs=1"]
    lines = run(sys.executable, folder / "memory.py", EXAMPLE / "train.py", *flags).splitlines()
    assert not any("counted in" in line for line in lines)
    print(lines[-1])


def measure_accuracy(corpus: str, peer: Peer, data: Path, seeds: int, epochs: int) -> None:
    found: dict[str, list[dict[str, float]]] = {"this": [], "gensim": []}
    for seed in range(1, seeds + 1):
        ours(corpus, peer.folder / f"seed{seed}", seed, epochs)
        found["this"].append(judge(f"--logdir={peer.folder}/seed{seed}", data))
        peer.train(seed, epochs)
        found["gensim"].append(judge(f"--vectors={peer.folder}/gensim{seed}.bin", data))
    for name in ("analogies", "ws353", "bruni_men"):
        for who, values in found.items():
            show(f"{name}, {who}, {epochs} epochs", [each[name] for each in values], ".4f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--rounds", type=at_least_one, default=3, help="of speed, one epoch each")
    parser.add_argument("--seeds", type=int, default=3, help="of accuracy; 0: only speed")
    parser.add_argument("--epochs", type=at_least_one, default=5, help="of accuracy")
    parser.add_argument("--environments", default=str(HERE / ".environments"))
    args = parser.parse_args()
    python = make_environment("gensim", Path(args.environments).absolute(), sys.executable)
    with tempfile.TemporaryDirectory() as temporary:
        peer = make_peer(args.corpus, python, Path(temporary))
        measure_speed(args.corpus, peer, args.rounds)
        measure_memory(args.corpus, peer.folder)
        if args.seeds:
            measure_accuracy(args.corpus, peer, Path(args.data_dir), args.seeds, args.epochs)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
