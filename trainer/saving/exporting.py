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
from trainer.saving.checkpoints import READ_ERRORS
from trainer.saving.models import Model, build_logits, map_weights
from trainer.tf1 import tf

SCOPE = "outputs"  # the names of the outputs are outputs/logits and so on
CLASS_NAMES = "class_names"
DECODABLE_DEPTHS = (1, 3)
GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R 601-2), as pillow weighs them


class Serving(NamedTuple):
    """The ends of an inference graph."""

    session: tf.Session  # with the weights
    model: Model  # in float32
    images: tf.Tensor  # uint8 [n, height, width, depth], placeholder
    outputs: dict[str, tf.Tensor]  # logits, probabilities: float32 [n, classes]; classes: int64 [n]
    class_names: tf.Tensor  # string [classes]

    def describe(self) -> str:
        """Says the names of its ends."""
        names = [tensor.name for tensor in (*self.outputs.values(), self.class_names)]
        return f"input {self.images.name}, outputs {', '.join(names)}"


def outputs_of(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """Names logits, float32 [n, classes], their softmax and the class of the largest, int64 [n]."""
    with tf.name_scope(SCOPE):  # A model may have a layer of the name.
        return {
            "logits": tf.identity(logits, "logits"),
            "probabilities": tf.nn.softmax(logits, name="probabilities"),
            "classes": tf.argmax(logits, 1, name="classes"),
        }


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
    model = model._replace(config=dataclasses.replace(model.config, precision="float32"))
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        images = tf.placeholder(tf.uint8, [None, *model.facts.image_shape], name="images")
        logits = build_logits(model, images, data_format="channels_last")
        class_names = tf.constant(list(model.facts.class_names), name=CLASS_NAMES)
        try:
            reader = tf.train.NewCheckpointReader(path)
            for name, variable in map_weights(path, weights).items():
                value = reader.get_tensor(name)
                if not np.isfinite(value).all():
                    raise NotFiniteError(f"checkpoint {path}: {name} is NaN or infinite")
                # Not by a Saver, whose operations would be in every export.
                session.run(variable.initializer, {variable.initializer.inputs[1]: value})
        except READ_ERRORS as error:
            raise TrainerError(f"checkpoint {path} cannot be read: {reason(error)}") from error
        yield Serving(session, model, images, outputs_of(logits), class_names)


def write_saved_model(serving: Serving, target: Path) -> list[str]:
    """Writes a SavedModel with the signatures serving_default, uint8_images and encoded_images.

    Encoded images become what `trainer.predict` makes of the same files, but for rounding.
    """
    model = serving.model
    shape = model.facts.image_shape
    signatures = {"uint8_images": _signature(serving.images, serving.outputs)}
    with tf.variable_scope("", reuse=True):
        with tf.name_scope("serving_default"):
            floats = tf.placeholder(tf.float32, [None, *shape], name="images")
            logits = build_logits(model, floats, data_format="channels_last")
            signatures["serving_default"] = _signature(floats, outputs_of(logits))
        if shape[2] in DECODABLE_DEPTHS:
            with tf.name_scope("encoded_images"):
                encoded = tf.placeholder(tf.string, [None], name="images")
                logits = build_logits(model, _decode(encoded, shape), data_format="channels_last")
                signatures["encoded_images"] = _signature(encoded, outputs_of(logits))
    builder = tf.saved_model.Builder(str(target))
    builder.add_meta_graph_and_variables(
        serving.session, [tf.saved_model.SERVING], signature_def_map=signatures, strip_default_attrs=True
    )
    builder.save()
    inputs = {"serving_default": f"float32 {list(shape)}, 0..1", "uint8_images": f"uint8 {list(shape)}"}
    return [f"signature {name}: {inputs.get(name, 'PNG or JPEG bytes')}" for name in sorted(signatures)]


def _signature(images: tf.Tensor, outputs: dict[str, tf.Tensor]) -> tf.MetaGraphDef.SignatureDefEntry:
    return tf.saved_model.predict_signature_def({"images": images}, outputs)


def _decode(encoded: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """Decodes PNG and JPEG, string [n], to uint8 [n, height, width, depth].

    What is transparent lies on white; another size is resized as pillow does it, by a triangle over the area.
    """
    height, width, depth = shape

    def decode(data: tf.Tensor) -> tf.Tensor:
        image = tf.cast(tf.io.decode_image(data, expand_animations=False), tf.float32)
        image.set_shape([None, None, None])
        channels = tf.shape(image)[2]
        colours = channels - (1 - channels % 2)  # Of two and four channels the last is how opaque it is.
        alpha = tf.cond(
            tf.equal(colours, channels), lambda: tf.ones_like(image[..., :1]), lambda: image[..., -1:] / 255
        )
        flat = tf.round(image[..., :colours] * alpha + 255 * (1 - alpha))
        grey = tf.cond(
            tf.equal(colours, 3), lambda: tf.reduce_sum(flat * tf.constant(GREY), axis=2, keepdims=True), lambda: flat
        )
        right = grey if depth == 1 else tf.cond(tf.equal(colours, 3), lambda: flat, lambda: tf.tile(flat, [1, 1, 3]))
        resized = tf.raw_ops.ScaleAndTranslate(
            images=tf.round(right)[tf.newaxis],
            size=[height, width],
            scale=tf.cast([height, width], tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32),
            translation=[0.0, 0.0],
            kernel_type="triangle",
            antialias=True,
        )[0]
        resized.set_shape(shape)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    return tf.map_fn(decode, encoded, fn_output_signature=tf.uint8)


def write_frozen(serving: Serving, target: Path) -> list[str]:
    """Writes one GraphDef whose variables are constants, without what only training needs."""
    graph_def = _freeze(serving)
    target.write_bytes(graph_def.SerializeToString())
    return [f"{len(graph_def.node)} nodes; {serving.describe()}"]


def _freeze(serving: Serving) -> tf.GraphDef:
    kept = [tensor.op.name for tensor in (*serving.outputs.values(), serving.class_names)]
    constant = tf.graph_util.convert_variables_to_constants(serving.session, serving.session.graph.as_graph_def(), kept)
    return tf.graph_util.remove_training_nodes(constant, protected_nodes=kept)


def write_graph(serving: Serving, target: Path) -> list[str]:
    """Writes the GraphDef, whose variables have no values, as text and binary.

    Raises:
      TrainerError: what was written does not read back as the same graph.
    """
    target.mkdir()
    graph_def = serving.session.graph.as_graph_def(add_shapes=True)
    for name, as_text in (("graph.pbtxt", True), ("graph.pb", False)):
        tf.train.write_graph(graph_def, str(target), name, as_text=as_text)
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
    saver.save(serving.session, str(target / "model.ckpt"), write_state=False)
    saver.export_meta_graph(str(target / "model.ckpt.meta.txt"), as_text=True)
    return [
        "tf.train.import_meta_graph('model.ckpt.meta').restore(session, 'model.ckpt')",
        f"{serving.describe()}; also as collections `inputs` and `outputs`",
    ]


def write_tflite(serving: Serving, target: Path) -> list[str]:
    """Writes a TensorFlow Lite model.

    Raises:
      TrainerError: the converter does not take the model.
    """
    outputs = [serving.outputs[name].op.name for name in ("logits", "probabilities")]
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
    return [f"{len(data):,} bytes; input uint8 images, outputs logits, probabilities"]


FORMATS: dict[str, Callable[[Serving, Path], list[str]]] = {
    "saved_model": write_saved_model,
    "frozen": write_frozen,
    "graph": write_graph,
    "meta": write_meta,
    "tflite": write_tflite,
}
