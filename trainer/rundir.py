"""The name of every file in a run directory."""

from __future__ import annotations

import contextlib
from pathlib import Path

CHECKPOINT_PREFIX = "model.ckpt"


class RunDir:
    """Paths under `--logdir`; nothing is created here."""

    def __init__(self, logdir: str | Path) -> None:
        path = Path(logdir)
        self.path = path if path.name not in ("", "..") else path.resolve()  # `.` has no name to move aside
        self.config = self.path / "config.json"
        self.data = self.path / "data.json"
        self.files_data = (
            self.path / "data"
        )  # of --input=files: its manifest, and no picture; of a function: what it gives to evaluations
        self.code = self.path / "code"
        self.code_index = self.code / "code.json"
        self.flags = self.path / "flags.txt"
        self.graph = self.path / "graph.pbtxt"
        self.log = self.path / "train.log"
        self.metrics = self.path / "metrics.jsonl"
        self.lock = self.path / "lock"
        self.result = self.path / "result.json"
        self.traces = self.path / "traces"
        self.clean_shards = self.path / "clean_shards"
        self.eval_events = self.path / "eval"
        self.evaluations = self.eval_events / "evaluations.jsonl"
        self.best = self.path / "best"
        self.kept = self.path / "kept"
        self.export = self.path / "export"
        self.checkpoint_prefix = self.path / CHECKPOINT_PREFIX

    def task_log(self, job: str, task_index: int) -> Path:
        """Is of one task of a cluster."""
        return self.path / f"train-{job}-{task_index}.log"

    def clean_shards_of(self, worker: int) -> Path:
        """Is of one worker, each of which reads its own."""
        return self.clean_shards.with_name(f"clean_shards-{worker}") if worker else self.clean_shards

    def evaluated_events(self, split: str, weights: str) -> Path:
        """Is one run of TensorBoard for each split and kind of weights."""
        return self.eval_events / (split if weights == "ema" else f"{split}_{weights}")

    def evaluation_lock(self, split: str) -> Path:
        return self.eval_events / f"{split}.lock"

    def held(self, split: str) -> Path:
        """Holds the checkpoint that is being evaluated, which the training may delete meanwhile."""
        return self.eval_events / f"{split}.held"

    def picture(self, split: str, weights: str, name: str) -> Path:
        return self.eval_events / f"{split}.{weights}.{name}.png"

    def trace(self, step: int) -> Path:
        return self.traces / f"step_{step}.json"

    def top_ops(self, step: int) -> Path:
        return self.traces / f"step_{step}.top_ops.txt"


def replace_text(path: Path, text: str) -> None:
    """Writes a file aside and renames it, so that nobody finds half of it, whatever happens."""
    replace_bytes(path, text.encode("utf-8", "surrogateescape"))  # Names of files may be no UTF-8.


def replace_bytes(path: Path, content: bytes) -> None:
    """Does the same with bytes."""
    aside = path.with_name(f"{path.name}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
