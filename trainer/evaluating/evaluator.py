"""Evaluations apart from training: one graph, into which the weights of one checkpoint after another are restored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.manifest import load_manifest
from trainer.data.spec import CLASS, IMAGE, LABEL, DatasetSpec
from trainer.errors import NotFiniteError, TrainerError, UsageError, reason
from trainer.evaluating.evaluation import evaluate
from trainer.graph.evaluation import build_eval_graph
from trainer.learning.scores import Scores
from trainer.placing.devices import choose_devices, gpu_memory_mib, make_session_config
from trainer.rundir import RunDir
from trainer.saving.files import READ_ERRORS
from trainer.saving.models import Model, map_weights, step_of
from trainer.tf1 import NUM_PHYSICAL_GPUS, tf, tf_path


class Evaluation(NamedTuple):
    """What a checkpoint came to on a split."""

    step: int
    split: str
    weights: str  # ema or raw
    metrics: dict[str, float]  # of the task
    num_examples: int
    scores: Scores | None  # of the classes, one by one, where each picture has one


class Evaluator:
    """An open session with the model's graph."""

    def __init__(self, session: tf.Session, model: Model, device: str) -> None:
        """Builds the graph into the default graph."""
        data_format = model.config.data_format
        self._graph = build_eval_graph(model.task, model.spec, data_format=data_format, device=device, reuse=False)
        self._session, self._model = session, model
        self._finite = {
            variable.op.name: tf.reduce_all(tf.math.is_finite(variable.read_value()))
            for variable in tf.global_variables()
            if variable.dtype.is_floating
        }
        self._savers: dict[tuple[str, ...], tf.train.Saver] = {}

    def _restore(self, path: str, weights: str) -> int:
        """Restores a checkpoint's weights; returns its step."""
        variables = map_weights(path, weights)
        names = tuple(sorted(variables))
        if names not in self._savers:  # Each one adds operations to the graph.
            self._savers[names] = tf.train.Saver(variables)
        try:
            self._savers[names].restore(self._session, tf_path(path))
            step = step_of(path)
            finite = self._session.run(self._finite)
        except READ_ERRORS as error:
            raise TrainerError(f"checkpoint {path} cannot be read: {reason(error)}") from error
        poisoned = ", ".join(name for name, value in finite.items() if not value)
        if poisoned:
            raise NotFiniteError(f"checkpoint {path}, {weights} weights: NaN or infinite values in {poisoned}")
        return step

    def evaluate(
        self,
        path: str,
        *,
        weights: str,
        spec: DatasetSpec,
        split: str,
        top_k: int,
        num_wrong: int,
        batch_size: int,
        reading: Callable[[], AbstractContextManager[None]],
        after_batch: Callable[[int], None],
    ) -> Evaluation:
        """Restores a checkpoint and scores every example of a split once.

        Args:
          path: of the checkpoint.
          weights: ema or raw.
          spec: of the data, as that of the run or like it.
          split: of the data.
          top_k: of the top-k accuracy.
          num_wrong: the most wrong images that are kept.
          batch_size: as `evaluation.evaluate` takes it.
          reading: is entered while a batch is read; what it raises ends the evaluation.
          after_batch: is told how many examples were scored.

        Raises:
          UsageError: the checkpoint holds no such weights, or is of another model.
          NotFiniteError: a weight or a logit is NaN or infinite.
          DataError: a record is damaged or wrong.
          TrainerError: the checkpoint is damaged.
        """
        step, task = self._restore(path, weights), self._model.task
        of_classes = spec.label_kind == CLASS
        scores = Scores(spec.num_classes, top_k=top_k, num_wrong=num_wrong) if of_classes else None
        try:
            metrics = evaluate(
                self._session,
                graph=self._graph,
                metrics=task.metrics,
                spec=spec,
                split=split,
                reading=reading,
                after_batch=after_batch,
                observe=functools.partial(_observe, scores) if scores else None,
                batch_size=batch_size,
            )
        except NotFiniteError as error:
            raise NotFiniteError(f"{path}, {weights} weights: a logit of the {split} set is not finite") from error
        return Evaluation(step, split, weights, metrics, spec.num_examples(split), scores)


def _observe(scores: Scores, logits: np.ndarray, features: Mapping[str, np.ndarray]) -> None:
    scores.update(logits, features[LABEL], features[IMAGE])


@contextmanager
def open_evaluator(model: Model, device: str) -> Iterator[Evaluator]:
    """Opens a session for evaluations.

    Args:
      model: from `load_model`.
      device: cpu, which leaves GPUs and their memory alone, or gpu.

    Raises:
      UsageError: there is no GPU.
    """
    if device == "gpu" and not NUM_PHYSICAL_GPUS:
        raise UsageError("--device=gpu, but this machine has no GPU that TensorFlow can use; use --device=cpu")
    devices = choose_devices(1, num_gpus=NUM_PHYSICAL_GPUS, device=device, virtual_gpus=False, parameter_device=device)
    settings = make_session_config(
        devices,
        intra_op_threads=0,
        inter_op_threads=0,
        deterministic=False,
        allow_soft_placement=True,
        log_device_placement=False,
        gpu_memory_mib=gpu_memory_mib,
    )
    with tf.Graph().as_default(), tf.Session(config=settings) as session:
        yield Evaluator(session, model, devices.towers[0])


def find_data(model: Model, rundir: RunDir, data_dir: str = "") -> DatasetSpec:
    """Finds the shards by which a run is judged.

    Args:
      model: of the run.
      rundir: of the run.
      data_dir: of the shards; empty: those of the run.

    Raises:
      UsageError: they are of another data set.
      DataError: there are none.
    """
    known = [model.spec.data_dir, Path(model.config.data_dir)]
    if model.config.keeps_data:  # The run directory holds the manifest, and may have been moved.
        known.append(rundir.files_data)
    there = [folder for folder in known if folder.is_dir()]
    folder = Path(data_dir) if data_dir else (there or [Path(model.config.data_dir)])[0]
    spec = load_manifest(folder).with_labels_offset(model.config.labels_offset)
    wanted, got = (model.spec.stored_shape, model.spec.class_names), (spec.stored_shape, spec.class_names)
    if wanted != got:
        raise UsageError(
            f"{folder} holds images of {_size(got[0])} in {len(got[1])} classes, the model wants {_size(wanted[0])} in "
            f"{len(wanted[1])}; give the --data_dir of the run's data set, or one with the same classes"
        )
    return spec


def _size(shape: tuple[int | None, int | None, int]) -> str:
    return "x".join(str(size or "any") for size in shape)
