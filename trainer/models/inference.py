"""Images -> logits, for any model: what training, evaluation and export share."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.models import layers
from trainer.settings.model import MODELS
from trainer.settings.plugins import load_function
from trainer.tf1 import tf


def channels_first(data_format: str, device: str) -> bool:
    """Reads --data_format for a device."""
    return data_format == "channels_first" or (data_format == "auto" and device.startswith("/gpu"))


def inference(
    images: tf.Tensor,
    *,
    model: str,
    num_classes: int,
    hidden_sizes: Sequence[int],
    precision: str = "float32",
    channels_first: bool = False,
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
    dropout: layers.Dropout = layers.no_dropout,
) -> tf.Tensor:
    """Builds a model on images, [batch, height, width, depth]: logits, float32 [batch, classes].

    Args:
      images: uint8, which the model sees as 0..1, or float32 that is so already.
      model: of MODELS.
      num_classes: width of the logits.
      hidden_sizes: of the mlp.
      precision: float32, bfloat16 or float16, of everything between images and logits.
      channels_first: do convolutions compute on [batch, depth, height, width].
      input_dropout: fraction of the mlp's input that is dropped in training.
      hidden_dropout: fraction of the hidden units that is dropped in training.
      dropout: `layers.make_dropout(...)` in training.
    """
    pixels = tf.cast(images, tf.as_dtype(precision))
    if images.dtype == tf.uint8:
        pixels *= 1 / 255
    logits = load_function(MODELS[model])(
        pixels,
        num_classes=num_classes,
        dropout=dropout,
        hidden_dropout=hidden_dropout,
        hidden_sizes=hidden_sizes,
        input_dropout=input_dropout,
        channels_first=channels_first,
    )
    return tf.cast(logits, tf.float32)
