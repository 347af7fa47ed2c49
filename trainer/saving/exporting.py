"""The trained model for others, from a clean graph: SavedModel, frozen, graph, MetaGraph, TensorFlow Lite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf import text_format

from trainer.errors import NotFiniteError, TrainerError, reason
from trainer.preprocessing.decoding import DECODABLE_DEPTHS, decode_any, decode_images
from trainer.preprocessing.preprocessing import Side
from trainer.saving.files import READ_ERRORS
from trainer.saving.folding import fold_batch_norms
from trainer.saving.models import Model, build_outputs, make_model, map_weights
from trainer.tf1 import tf, tf_path

SCOPE = "outputs"  # the names of the outputs are outputs/logits and so on
CLASS_NAMES = "class_names"
ANY_SIZE = "any_size"  # int32 [], in the graph of a model for pictures of several sizes: their depth


class Serving(NamedTuple):
    """The ends of an inference graph."""

    session: tf.Session  # with the weights
    model: Model  # in float32
    images: tf.Tensor  # uint8 [n, height, width, depth], placeholder; of pictures that have one size
    outputs: dict[str, tf.Tensor]  # logits, probabilities: float32 [n, classes]; classes: int64 [n]
    class_names: tf.Tensor  # string [classes]

    def describe(self) -> str:
        """Says the names of its ends."""
        names = [tensor.name for tensor in (*self.outputs.values(), self.class_names)]
        return f"input {self.images.name}, outputs {', '.join(names)}"


def predictions_of(model: Model, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Builds the model on preprocessed images, [n, height, width, depth], and names what it predicts."""
    outputs = build_outputs(model, images, data_format="channels_last")
    with tf.name_scope(SCOPE):  # A model may have a layer of the name.
        return model.task.predictions(outputs)


@contextmanager
def open_serving(model: Model, path: str, weights: str) -> Iterator[Serving]:
    """Builds the model on a placeholder in a graph of its own, with a checkpoint's weights; in float32, on the CPU.

    Args:
      model: from `load_model`.
      path: of the checkpoint.
      weights: ema or raw.

    Raises:
      UsageError: the checkpoint holds no such weights, or is of another model.
      NotFiniteError: a weight is NaN or infinite.
      TrainerError: it is damaged.
    """
    # Whatever the training computed in, so that all formats give the same.
    model = make_model(dataclasses.replace(model.config, precision="float32"), model.spec, model.code)
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        images = tf.placeholder(tf.uint8, [None, *model.task.preprocessing.elsewhere.batch_shape], name="images")
        outputs = predictions_of(model, model.task.preprocessing.elsewhere.of_values(images))
        class_names = tf.constant(list(model.spec.class_names), name=CLASS_NAMES)
        try:
            reader = tf.train.NewCheckpointReader(tf_path(path))
            for name, variable in map_weights(path, weights).items():
                value = reader.get_tensor(name)
                if not np.isfinite(value).all():
                    raise NotFiniteError(f"checkpoint {path}: {name} is NaN or infinite")
                # Not by a Saver, whose operations would be in every export.
                session.run(variable.initializer, {variable.initializer.inputs[1]: value})
        except READ_ERRORS as error:
            raise TrainerError(f"checkpoint {path} cannot be read: {reason(error)}") from error
        yield Serving(session, model, images, outputs, class_names)


def write_saved_model(serving: Serving, target: Path) -> list[str]:
    """Writes a SavedModel with the signatures serving_default, uint8_images and encoded_images.

    Encoded images become what `trainer.predict` makes of the same files, but for rounding.
    """
    model = serving.model
    side, seen = model.task.preprocessing.elsewhere, list(model.task.preprocessing.shape)
    signatures = {"uint8_images": _signature(serving.images, serving.outputs)}
    with tf.variable_scope("", reuse=True):
        with tf.name_scope("serving_default"):
            floats = tf.placeholder(tf.float32, [None, *seen], name="images")
            signatures["serving_default"] = _signature(floats, predictions_of(model, floats))
        if side.stored_shape[2] in DECODABLE_DEPTHS:
            if side.num_alone:
                tf.constant(side.stored_shape[2], name=ANY_SIZE)
            with tf.name_scope("encoded_images"):
                encoded = tf.placeholder(tf.string, [None], name="images")
                outputs = predictions_of(model, side.in_batches(_decode(encoded, side)))
                signatures["encoded_images"] = _signature(encoded, outputs)
    builder = tf.saved_model.Builder(tf_path(target))
    builder.add_meta_graph_and_variables(
        serving.session, [tf.saved_model.SERVING], signature_def_map=signatures, strip_default_attrs=True
    )
    builder.save()
    unit = ", 0..1" if model.task.preprocessing.dtype == tf.uint8 else ", as the model sees them"
    inputs = {"serving_default": f"float32 {seen}{unit}", "uint8_images": f"uint8 {list(side.batch_shape)}"}
    return [f"signature {name}: {inputs.get(name, 'PNG or JPEG bytes')}" for name in sorted(signatures)]


def _decode(encoded: tf.Tensor, side: Side) -> tf.Tensor:
    """Decodes image files, string [n], and does what is done to each picture alone: [n, *batch_shape]."""
    if not side.num_alone:
        return decode_images(encoded, side.batch_shape)

    def decode(data: tf.Tensor) -> tf.Tensor:
        return side.alone(decode_any(data, side.stored_shape[2])[tf.newaxis])[0]

    images = tf.map_fn(decode, encoded, fn_output_signature=side.batch_dtype)
    return tf.reshape(images, [-1, *side.batch_shape])


def _signature(images: tf.Tensor, outputs: dict[str, tf.Tensor]) -> tf.MetaGraphDef.SignatureDefEntry:
    return tf.saved_model.predict_signature_def({"images": images}, outputs)


def write_frozen(serving: Serving, target: Path) -> list[str]:
    """Writes one GraphDef whose variables are constants, without what only training needs."""
    graph_def = _freeze(serving)
    target.write_bytes(graph_def.SerializeToString())
    return [f"{len(graph_def.node)} nodes; {serving.describe()}"]


def _freeze(serving: Serving) -> tf.GraphDef:
    kept = [tensor.op.name for tensor in (*serving.outputs.values(), serving.class_names)]
    constant = tf.graph_util.convert_variables_to_constants(serving.session, serving.session.graph.as_graph_def(), kept)
    return fold_batch_norms(tf.graph_util.remove_training_nodes(constant, protected_nodes=kept), kept)


def write_graph(serving: Serving, target: Path) -> list[str]:
    """Writes the GraphDef, whose variables have no values, as text and binary.

    Raises:
      TrainerError: what was written does not read back as the same graph.
    """
    target.mkdir()
    graph_def = serving.session.graph.as_graph_def(add_shapes=True)
    for name, as_text in (("graph.pbtxt", True), ("graph.pb", False)):
        tf.train.write_graph(graph_def, tf_path(target), name, as_text=as_text)
    binary = tf.GraphDef.FromString((target / "graph.pb").read_bytes())
    text = text_format.Parse((target / "graph.pbtxt").read_text(), tf.GraphDef())
    if binary != graph_def or text != graph_def:
        raise TrainerError(f"{target} does not read back as what was written")
    return [f"{len(graph_def.node)} nodes; {serving.describe()}"]


def write_meta(serving: Serving, target: Path) -> list[str]:
    """Writes the MetaGraph with its collections, binary and as text, and the weights it restores."""
    target.mkdir()
    for name, tensor in (("inputs", serving.images), *(("outputs", tensor) for tensor in serving.outputs.values())):
        tf.add_to_collection(name, tensor)
    saver = tf.train.Saver()
    saver.save(serving.session, tf_path(target / "model.ckpt"), write_state=False)
    saver.export_meta_graph(tf_path(target / "model.ckpt.meta.txt"), as_text=True)
    return [
        "tf.train.import_meta_graph('model.ckpt.meta').restore(session, 'model.ckpt')",
        f"{serving.describe()}; also as collections `inputs` and `outputs`",
    ]


def write_tflite(serving: Serving, target: Path) -> list[str]:
    """Writes a TensorFlow Lite model.

    Raises:
      TrainerError: the converter does not take the model.
    """
    names = [name for name in ("logits", "probabilities", "values") if name in serving.outputs]
    outputs = [serving.outputs[name].op.name for name in names]
    frozen = target.with_name(f"{target.name}.pb.part")
    frozen.write_bytes(_freeze(serving).SerializeToString())
    try:
        with tf.Graph().as_default():  # The converter looks into the collections of the default graph.
            data = tf.lite.TFLiteConverter.from_frozen_graph(str(frozen), [serving.images.op.name], outputs).convert()
    except Exception as error:  # The converter raises classes of its own, which are not public.
        raise TrainerError(f"TensorFlow Lite's converter does not take the model: {reason(error)}") from error
    finally:
        frozen.unlink()
    target.write_bytes(data)
    return [f"{len(data):,} bytes; input uint8 images, outputs {', '.join(names)}"]


FORMATS: dict[str, Callable[[Serving, Path], list[str]]] = {
    "saved_model": write_saved_model,
    "frozen": write_frozen,
    "graph": write_graph,
    "meta": write_meta,
    "tflite": write_tflite,
}
