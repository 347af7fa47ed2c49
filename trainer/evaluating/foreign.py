"""Graphs that others have frozen or saved: the user tells their ends, and what is done to pictures before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.errors import UsageError, unknown_name
from trainer.evaluating.evaluation import images_at_once
from trainer.preprocessing.parsing import parse_pipeline
from trainer.saving.frozen import load_graph
from trainer.settings.plugins import UserCode
from trainer.subgraphs import PYTHON, ancestors
from trainer.tf1 import tf, tf_path

HARMFUL = {"WriteFile", "Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints", "CreateSummaryFileWriter", "WriteSummary"}


class Ends(NamedTuple):
    """What has to be told of a graph of others."""

    input_tensor: str  # of images, as `input:0`
    output_tensor: str  # of a number for each class
    preprocess: str = ""  # a pipeline, of which the part for evaluation is taken; empty: bytes as 0..1
    labels: str = ""  # file with a name of a class on each line, or `0:name`; empty: their numbers


def make_ends(input_tensor: str, output_tensor: str, preprocess: str, labels: str) -> Ends | None:
    """Takes what was told of a graph of others; None where nothing was.

    Raises:
      UsageError: only one end was told.
    """
    ends = Ends(input_tensor, output_tensor, preprocess, labels)
    if not any(ends):
        return None
    if not (input_tensor and output_tensor):
        raise UsageError("a graph of others needs both --input_tensor and --output_tensor")
    return ends


class Foreign(NamedTuple):
    """A loaded graph of others."""

    depth: int  # of the pictures
    class_names: list[str]
    predict: Callable[[Sequence[np.ndarray]], np.ndarray]  # uint8 [h, w, d] of any size each -> float32 [n, classes]
    at_once: int  # pictures that suit its memory


def load_foreign(session: tf.Session, path: Path, ends: Ends) -> Foreign:
    """Loads a frozen graph, or a SavedModel, into a session.

    Raises:
      UsageError: it has no such tensors, or the pipeline does not give what it takes.
    """
    if path.is_dir():
        tf.saved_model.load(session, [tf.saved_model.SERVING], tf_path(path))
    else:
        tf.import_graph_def(load_graph(path), name="")
    images, outputs = (_find_tensor(session.graph, name) for name in (ends.input_tensor, ends.output_tensor))
    _check_harmless(outputs)
    shape = images.shape.as_list() if images.shape.rank == 4 else []
    if len(shape) != 4 or shape[3] is None or (None in shape[1:] and not ends.preprocess):
        raise UsageError(
            f"{ends.input_tensor} is {images.shape}, wanted images [n, height, width, depth]; "
            "--preprocess may give the size"
        )
    picture = tf.placeholder(tf.uint8, [None, None, shape[3]])
    prepared = _prepare(picture, ends.preprocess, shape[1:], images.dtype)
    shape[1:] = prepared.shape.as_list()
    prepare = session.make_callable(prepared, feed_list=[picture])
    run = session.make_callable(outputs, feed_list=[images])
    at_once = shape[0]  # Many graphs take one picture.

    def predict(pictures: Sequence[np.ndarray]) -> np.ndarray:
        batch = np.stack([prepare(picture) for picture in pictures])
        size = at_once or len(batch)
        if size > 1 and at_once:
            batch = np.concatenate([batch, np.repeat(batch[-1:], -len(batch) % size, axis=0)])
        found = [np.asarray(run(batch[start : start + size])) for start in range(0, len(batch), size)]
        if found[0].ndim < 2 or len(found[0]) != size:
            raise UsageError(f"{ends.output_tensor} gives {found[0].shape} for {size} pictures; wanted [n, classes]")
        return np.concatenate(found).reshape(len(batch), -1)[: len(pictures)]

    classes = predict([np.zeros([*shape[1:]], np.uint8)]).shape[1]
    return Foreign(shape[3], _read_labels(ends.labels, classes), predict, images_at_once(shape[1:]))


def _find_tensor(graph: tf.Graph, name: str) -> tf.Tensor:
    full = name if ":" in name else f"{name}:0"
    try:
        return graph.get_tensor_by_name(full)
    except (KeyError, ValueError):
        known = [op.name for op in graph.get_operations() if op.outputs]
        raise unknown_name("tensor", full.partition(":")[0], known[:5] + known[-5:]) from None


def _prepare(picture: tf.Tensor, preprocess: str, shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """Builds what the graph takes of a picture, uint8 [height, width, depth] of any size."""
    if preprocess:
        pipeline = parse_pipeline("preprocess", preprocess, code=UserCode())
        prepared = pipeline(picture[tf.newaxis])[0]
    else:
        prepared = tf.image.resize(picture[tf.newaxis], shape[:2])[0]
        prepared = tf.cast(tf.round(prepared), tf.uint8)
    if not prepared.shape.is_compatible_with(shape):
        raise UsageError(
            f"--preprocess={preprocess} gives pictures {prepared.shape}, and the graph takes {tuple(shape)}; "
            f"name the size, as inception({shape[0]})"
        )
    if prepared.dtype.is_floating and not dtype.is_floating:
        raise UsageError(f"--preprocess={preprocess} gives {prepared.dtype.name}, and the graph takes {dtype.name}")
    if not prepared.shape.is_fully_defined() and None in shape:
        raise UsageError(f"--preprocess={preprocess} gives pictures of several sizes; wanted one, as resize(224, 224)")
    if prepared.dtype == tf.uint8 and dtype.is_floating:
        prepared = tf.cast(prepared, dtype) / 255
    prepared.set_shape(shape)
    return tf.cast(prepared, dtype)


def _check_harmless(outputs: tf.Tensor) -> None:
    """Refuses a graph that would write files, or run Python, on the way to its output.

    Raises:
      UsageError: it is such.
    """
    for op in ancestors([outputs]):
        if op.type in HARMFUL | PYTHON:
            raise UsageError(f"the graph runs {op.type} ({op.name}), which a prediction needs not: not from others")


def _read_labels(path: str, classes: int) -> list[str]:
    """Reads the names of classes.

    Raises:
      UsageError: there are more or fewer than the graph has classes.
    """
    if not path:
        return [str(number) for number in range(classes)]
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--labels={path}: no such file")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = [name.partition(":")[2] if name.partition(":")[0].isdecimal() else name for name in lines]
    if len(names) != classes:
        hint = (
            "; a class 0 that is none, the background, may be missing or too many"
            if abs(len(names) - classes) == 1
            else ""
        )
        raise UsageError(f"--labels={path} names {len(names)} classes, and the graph has {classes}{hint}")
    return names
