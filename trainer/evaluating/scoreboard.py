"""Where an evaluation's figures go: lines and tables, pictures, TensorBoard, evaluations.jsonl, and `best/`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.table import Table
from tensorboard.summary.v1 import pr_curve_raw_data_pb

from trainer import plotting
from trainer.console import Console
from trainer.evaluating.evaluator import Evaluation
from trainer.learning.metrics import Goal
from trainer.learning.scores import THRESHOLDS, Scores
from trainer.reporting.event_file import EventFile, scalar_summary
from trainer.reporting.failures import Failures
from trainer.rundir import RunDir
from trainer.saving import best
from trainer.tf1 import tf

SHOWN_CLASSES = 20  # of a table or a picture; with more, only those that were mistaken most often


class Scoreboard:
    """The files of a run directory that evaluations write; a context manager that closes them."""

    def __init__(self, rundir: RunDir, class_names: Sequence[str], goal: Goal, top_k: int, console: Console) -> None:
        self._rundir, self._names, self._goal, self._top_k, self._console = rundir, class_names, goal, top_k, console
        self.failures = Failures(console.say)
        self._files: dict[Path, EventFile] = {}
        self._said_other = False
        self._known = _load_known(rundir.evaluations)
        with self.failures.tolerated("eval/"):
            rundir.eval_events.mkdir(exist_ok=True)

    def __enter__(self) -> Scoreboard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def knows(self, path: str, written: int, split: str, weights: str) -> bool:
        """Was this checkpoint of the run evaluated before, also by an earlier process?"""
        return (Path(path).name, written, split, weights) in self._known

    def keep_best(self, evaluation: Evaluation, path: str) -> None:
        """Keeps a checkpoint where it is the best so far."""
        metrics, of = evaluation.metrics, (evaluation.split, evaluation.weights, self._goal.name)
        found = best.Best(evaluation.step, *of, metrics[self._goal.name], metrics["loss"])
        with self.failures.tolerated("best/"):
            before = best.load_best(self._rundir)
            if best.is_better(found, before, self._goal):
                best.keep_best(self._rundir, path, found)
            elif before and not best.is_comparable(found, before) and not self._said_other:
                self._said_other = True
                self._console.say(
                    f"{self._rundir.best} stays: it keeps the best {before.metric} on the {before.split} set with "
                    f"{before.weights} weights; move it aside to keep that of another"
                )

    def log(self, evaluations: Sequence[Evaluation], path: str, written: int) -> None:
        """Draws evaluations, and adds each checkpoint of the run once to the curves of its split in TensorBoard.

        Args:
          evaluations: of one checkpoint.
          path: of the checkpoint.
          written: when its index was, nanoseconds since 1970: a name may be written more than once.
        """
        name = Path(path).name
        of_run = Path(path).parent.absolute() == self._rundir.path.absolute()
        for evaluation in evaluations:
            pictures: list[Path] = []
            with self.failures.tolerated("a picture"):
                pictures = self._draw(evaluation, evaluation.scores) if evaluation.scores else []
            key = (name, written, evaluation.split, evaluation.weights)
            if not of_run or key in self._known:
                continue
            self._known.add(key)
            self._log(evaluation, pictures)
            with self.failures.tolerated("evaluations.jsonl"), self._rundir.evaluations.open("a") as file:
                values = {**_values(evaluation, self._top_k), "checkpoint": name, "written": written}
                file.write("\n" * _is_cut(self._rundir.evaluations) + json.dumps(values) + "\n")

    def show(self, evaluations: Sequence[Evaluation], path: str, *, tables: bool, as_json: bool) -> None:
        """Prints the evaluations of a checkpoint, of one split with one or two kinds of weights."""
        for evaluation in evaluations:
            scores, value = evaluation.scores, evaluation.metrics[self._goal.name]
            rest = {name: f"{found:.4g}" for name, found in evaluation.metrics.items() if name != self._goal.name}
            rest |= {"loss": f"{evaluation.metrics['loss']:.4f}"}
            if scores:
                rest |= {f"top-{self._top_k}": f"{scores.top_k_accuracy:.2%}"}
            self._console.say(
                f"step {evaluation.step}  {evaluation.split} {self._goal.describe(value)}  "
                f"{'  '.join(f'{name} {text}' for name, text in sorted(rest.items(), reverse=True))}  "
                f"{evaluation.num_examples:,} images, {evaluation.weights} weights"
            )
            if tables and scores:
                self._console.table(class_table(scores, self._names))
                self._console.table(confusion_table(scores, self._names))
                self._console.say(f"pictures: {self._rundir.picture(evaluation.split, evaluation.weights, '*')}")
        if as_json:
            first, *others = evaluations
            values = {**_values(first, self._top_k), "checkpoint": path}
            if first.scores:
                values["classes"] = _class_rows(first.scores, self._names)
            values |= {other.weights: _values(other, self._top_k) for other in others}
            self._console.say(json.dumps(values, allow_nan=False))

    def say_best(self) -> None:
        """Says which checkpoint is the best."""
        found = None
        with self.failures.tolerated("best/"):
            found = best.load_best(self._rundir)
        if found:
            self._console.say(
                f"best: step {found.step}, {found.split} {self._goal.describe(found.value)}, {found.weights} weights; "
                f"kept in {self._rundir.best}"
            )

    def _draw(self, evaluation: Evaluation, scores: Scores) -> list[Path]:
        where = (evaluation.split, evaluation.weights)
        confusion, curves, wrong = (self._rundir.picture(*where, name) for name in ("confusion", "pr", "wrong"))
        chosen = shown_classes(scores)
        names = [self._names[index] for index in chosen]
        plotting.plot_confusion(scores.confusion[np.ix_(chosen, chosen)], names, confusion)
        precision, recall = (values[chosen] for values in scores.curves())
        plotting.plot_curves(precision, recall, names, curves)
        if not scores.most_wrong:
            return [confusion, curves]
        titles = [
            f"{self._names[image.label]} as {self._names[image.predicted]} {image.probability:.0%}"
            for image in scores.most_wrong
        ]
        plotting.plot_images([image.image for image in scores.most_wrong], titles, wrong)
        return [confusion, curves, wrong]

    def _log(self, evaluation: Evaluation, pictures: Sequence[Path]) -> None:
        """Adds to the curves of a split and kind of weights, which are a run of their own in TensorBoard."""
        folder = self._rundir.evaluated_events(evaluation.split, evaluation.weights)
        if folder not in self._files:
            self._files[folder] = EventFile(folder, suffix=f".{os.getpid()}", failures=self.failures)
        file, scores, step = self._files[folder], evaluation.scores, evaluation.step
        values = {**evaluation.metrics, **({"top_k": scores.top_k_accuracy} if scores else {})}
        for tag, value in values.items():
            file.add_summary(scalar_summary(tag, value), step)
        if scores:
            file.add_summary(_pr_curves(scores, self._names), step)
        for picture in pictures:
            tag = picture.name.split(".")[-2]
            file.add_summary(_image_summary(tag, picture.read_bytes()), step)


def shown_classes(scores: Scores) -> list[int]:
    """Chooses the classes of tables and pictures: all, or those that were mistaken most often."""
    count = len(scores.confusion)
    if count <= SHOWN_CLASSES:
        return list(range(count))
    wrong = scores.confusion - np.diag(np.diag(scores.confusion))
    return sorted(int(index) for index in np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)))[:SHOWN_CLASSES])


def class_table(scores: Scores, names: Sequence[str]) -> Table:
    table = Table("class", "images", "precision", "recall", title="classes")
    for index in shown_classes(scores):
        row = (scores.precision[index], scores.recall[index])
        table.add_row(names[index], f"{scores.support[index]:,}", *(f"{value:.2%}" for value in row))
    return table


def confusion_table(scores: Scores, names: Sequence[str]) -> Table:
    chosen = shown_classes(scores)
    table = Table("label \\ taken for", *(names[index] for index in chosen), title="confusion")
    for index in chosen:
        table.add_row(names[index], *(str(scores.confusion[index, other] or ".") for other in chosen))
    return table


def _values(evaluation: Evaluation, top_k: int) -> dict[str, Any]:
    scores = evaluation.scores
    return {
        "step": evaluation.step,
        "split": evaluation.split,
        "weights": evaluation.weights,
        **evaluation.metrics,
        **({"top_k": top_k, "top_k_accuracy": scores.top_k_accuracy} if scores else {}),
        "num_examples": evaluation.num_examples,
    }


def _class_rows(scores: Scores, names: Sequence[str]) -> list[dict[str, Any]]:
    columns = zip(names, scores.precision, scores.recall, scores.support, strict=True)
    return [
        {"name": name, "precision": float(precision), "recall": float(recall), "images": int(images)}
        for name, precision, recall, images in columns
    ]


def _pr_curves(scores: Scores, names: Sequence[str]) -> bytes:
    """Makes a summary of the precision-recall curves of the classes that are shown."""
    true, false = scores.counts_at_thresholds()
    precision, recall = scores.curves()
    merged = tf.Summary()
    for index in shown_classes(scores):
        positives, negatives = true[index, 0], false[index, 0]
        summary = pr_curve_raw_data_pb(
            name=f"pr_{names[index]}",
            true_positive_counts=true[index],
            false_positive_counts=false[index],
            true_negative_counts=negatives - false[index],
            false_negative_counts=positives - true[index],
            precision=precision[index],
            recall=recall[index],
            num_thresholds=THRESHOLDS,
        )
        merged.MergeFromString(summary.SerializeToString())
    data: bytes = merged.SerializeToString()
    return data


def _image_summary(tag: str, png: bytes) -> tf.Summary:
    width, height = plotting.png_size(io.BytesIO(png))
    image = tf.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return tf.Summary(value=[tf.Summary.Value(tag=tag, image=image)])


def _is_cut(path: Path) -> bool:
    """Did a crash cut off the last line?"""
    data = path.read_bytes()
    return bool(data) and not data.endswith(b"\n")


def _load_known(path: Path) -> set[tuple[str, int, str, str]]:
    """Reads what was evaluated before; a line that a crash cut off does not count."""
    known = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            known.add((str(row["checkpoint"]), int(row["written"]), str(row["split"]), str(row["weights"])))
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return known
