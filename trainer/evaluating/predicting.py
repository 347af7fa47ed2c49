"""A model for images that have no label: from a run directory, a SavedModel or a frozen graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from trainer.data.pictures import as_png
from trainer.data.spec import CLASS, NUMBERS, SEVERAL
from trainer.errors import TrainerError, UsageError, reason
from trainer.evaluating.evaluation import images_at_once
from trainer.evaluating.foreign import Ends, load_foreign
from trainer.ops.loading import missing_named
from trainer.preprocessing.preprocessing import Side
from trainer.rundir import RunDir
from trainer.saving.exporting import ANY_SIZE, CLASS_NAMES, SCOPE, open_serving, predictions_of
from trainer.saving.frozen import load_graph
from trainer.saving.models import Model, choose_checkpoint, load_model
from trainer.tf1 import tf, tf_path

SIGNATURES = ("uint8_images", "serving_default")  # the first that is there is taken
OUTPUT_OF_KIND = {CLASS: "probabilities", SEVERAL: "probabilities", NUMBERS: "values"}
NO_GPU = {"GPU": 0}
FILES_AT_ONCE = 32  # of a model that takes pictures of several sizes


class Predictor(NamedTuple):
    """A loaded model."""

    image_shape: tuple[int | None, int | None, int]  # height, width, depth; None: of any size
    class_names: list[str]  # or names of numbers
    predict: Callable[[Sequence[np.ndarray]], np.ndarray]  # uint8 [h, w, d] each -> float32 [n, classes or numbers]
    at_once: int  # pictures that suit its memory
    label_kind: str = CLASS  # what is predicted: probabilities of classes or of several, or numbers


@contextmanager
def open_predictor(
    path: str,
    *,
    checkpoint: str = "",
    weights: str = "",
    trust_code: bool = False,
    say: Callable[[str], None] = print,
    ends: Ends | None = None,
    given: Mapping[str, Callable[..., Any]] | None = None,
) -> Iterator[Predictor]:
    """Loads a model, on the CPU.

    Args:
      path: of a run directory, a SavedModel, a directory of its versions, or a frozen graph.
      checkpoint: of a run directory, as `choose_checkpoint` takes it.
      weights: of a run directory: ema, raw, or nothing for the run's own choice.
      trust_code: of a run directory: run the user's code that lies there, also where it was not run before.
      say: is told what could not be noted.
      ends: of a graph of others.
      given: of a run directory: functions that Python gives.

    Raises:
      UsageError: there is no such model, or not one for images; TrainerError: it is damaged.
    """
    folder, is_run = Path(path), (Path(path) / "config.json").is_file()
    if not folder.exists():
        raise UsageError(f"--model={path}: no such file or directory")
    if ends and is_run:
        raise UsageError(
            "--input_tensor, --output_tensor, --preprocess and --labels are of graphs of others, not of a run"
        )
    if is_run:
        model = load_model(RunDir(folder), say, trust_code=trust_code, given=given)
        with _open_run(RunDir(folder), model, checkpoint, weights) as predictor:
            yield predictor
        return
    if checkpoint or weights:
        raise UsageError("--checkpoint and --weights belong to a run directory; this model holds one set of weights")
    if ends:
        with _open_foreign(folder, ends) as predictor:
            yield predictor
        return
    found = _find_saved_model(folder)
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count=NO_GPU)) as session:
        try:
            with missing_named(found or folder):
                loaded = _load_saved_model(session, found) if found else _load_frozen(session, folder)
        except (tf.errors.OpError, OSError, ValueError, KeyError) as error:
            raise TrainerError(f"--model={path} cannot be loaded: {reason(error)}") from error
        yield loaded


@contextmanager
def _open_foreign(path: Path, ends: Ends) -> Iterator[Predictor]:
    """Loads a graph of others."""
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count=NO_GPU)) as session:
        try:
            with missing_named(path := _find_saved_model(path) or path):
                foreign = load_foreign(session, path, ends)
        except (tf.errors.OpError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise TrainerError(f"--model={path} cannot be loaded: {reason(error)}") from error
        yield Predictor((None, None, foreign.depth), foreign.class_names, foreign.predict, foreign.at_once)


@contextmanager
def _open_run(rundir: RunDir, model: Model, checkpoint: str, weights: str) -> Iterator[Predictor]:
    path = choose_checkpoint(rundir, checkpoint)
    side = model.task.preprocessing.elsewhere
    with open_serving(model, path, weights or model.default_weights) as serving:
        with tf.variable_scope("", reuse=True), tf.name_scope("preprocessed_alone"):
            images = tf.placeholder(side.batch_dtype, [None, *side.batch_shape])
            predictions = predictions_of(serving.model, side.in_batches(images))
            probabilities = predictions[OUTPUT_OF_KIND[model.spec.label_kind]]
        predict = serving.session.make_callable(probabilities, feed_list=[images])
        with _open_alone(side) as alone:
            yield Predictor(
                model.spec.stored_shape,
                list(model.spec.class_names),
                lambda images: predict(np.stack([alone(image) for image in images])),
                images_at_once(model.task.preprocessing.shape),
                model.spec.label_kind,
            )


@contextmanager
def _open_alone(side: Side) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Yields what is done to each picture, uint8 [height, width, depth], before it goes into a batch."""
    if not side.num_alone:
        yield lambda image: image
        return
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count=NO_GPU)) as session:
        image = tf.placeholder(tf.uint8, side.stored_shape)
        yield session.make_callable(side.alone(image[tf.newaxis])[0], feed_list=[image])


def _find_saved_model(folder: Path) -> Path | None:
    """Finds a SavedModel, or the newest of several versions; None for a file."""
    if folder.is_file():
        return None
    versions = sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    for candidate in (folder, *reversed(versions)):
        if tf.saved_model.contains_saved_model(tf_path(candidate)):
            return candidate
    raise UsageError(f"--model={folder} holds neither a run (config.json) nor a SavedModel (saved_model.pb)")


def _load_saved_model(session: tf.Session, folder: Path) -> Predictor:
    meta = tf.saved_model.load(session, [tf.saved_model.SERVING], tf_path(folder))
    there = [name for name in SIGNATURES if name in meta.signature_def]
    if not there:
        raise UsageError(f"--model={folder} has none of the signatures {', '.join(SIGNATURES)}")
    operations = {operation.name for operation in session.graph.get_operations()}
    if ANY_SIZE in operations:
        return _predict_files(session, meta.signature_def["encoded_images"])
    signature = meta.signature_def[there[0]]
    if len(signature.inputs) != 1:
        raise UsageError(f"--model={folder}: signature {there[0]} takes {len(signature.inputs)} inputs, wanted one")
    outputs = signature.outputs
    kind = _kind_of(outputs)
    name = OUTPUT_OF_KIND[kind] if OUTPUT_OF_KIND[kind] in outputs else next(iter(outputs))
    images = session.graph.get_tensor_by_name(next(iter(signature.inputs.values())).name)
    return _make_predictor(session, images, session.graph.get_tensor_by_name(outputs[name].name), kind)


def _predict_files(session: tf.Session, signature: tf.MetaGraphDef.SignatureDefEntry) -> Predictor:
    """Predicts by the signature for files, where what is done to pictures of several sizes is in the graph."""
    encoded = session.graph.get_tensor_by_name(signature.inputs["images"].name)
    kind = _kind_of(signature.outputs)
    probabilities = session.graph.get_tensor_by_name(signature.outputs[OUTPUT_OF_KIND[kind]].name)
    run = session.make_callable(probabilities, feed_list=[encoded])
    names, depth = session.run([f"{CLASS_NAMES}:0", f"{ANY_SIZE}:0"])

    def predict(images: Sequence[np.ndarray]) -> np.ndarray:
        files = [as_png(Image.fromarray(image[..., 0] if depth == 1 else image)) for image in images]
        return np.asarray(run(files))

    return Predictor((None, None, int(depth)), [name.decode() for name in names], predict, FILES_AT_ONCE, kind)


def _kind_of(outputs: Collection[str]) -> str:
    """Tells by the names of a model's outputs what they are."""
    return SEVERAL if "labels" in outputs else NUMBERS if OUTPUT_OF_KIND[NUMBERS] in outputs else CLASS


def _load_frozen(session: tf.Session, path: Path) -> Predictor:
    graph_def = load_graph(path)
    names = {node.name for node in graph_def.node}
    kind = _kind_of({name.removeprefix(f"{SCOPE}/") for name in names})
    output = f"{SCOPE}/{OUTPUT_OF_KIND[kind]}"
    if not {"images", output} <= names:
        raise UsageError(f"--model={path} has no nodes `images` and `{output}`; it has {len(names)} others")
    kept = [f"{name}:0" for name in ("images", output, CLASS_NAMES) if name in names]
    images, probabilities, *_ = tf.import_graph_def(graph_def, return_elements=kept, name="")
    return _make_predictor(session, images, probabilities, kind)


def _make_predictor(session: tf.Session, images: tf.Tensor, probabilities: tf.Tensor, kind: str) -> Predictor:
    if images.shape.rank != 4 or None in images.shape.as_list()[1:]:
        raise UsageError(f"the model takes {images.shape}, wanted images [n, height, width, depth]")
    height, width, depth = images.shape.as_list()[1:]
    names = [str(number) for number in range(int(probabilities.shape[1]))]
    if CLASS_NAMES in {operation.name for operation in session.graph.get_operations()}:
        names = [name.decode() for name in session.run(f"{CLASS_NAMES}:0")]
    run, shape = session.make_callable(probabilities, feed_list=[images]), (height, width, depth)
    unit = np.float32(1 / 255)

    def predict(pixels: Sequence[np.ndarray]) -> np.ndarray:
        stacked = np.stack(pixels)
        return np.asarray(run(stacked if images.dtype == tf.uint8 else stacked.astype(np.float32) * unit))

    return Predictor(shape, names, predict, images_at_once(shape), kind)
