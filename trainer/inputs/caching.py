"""Decoded pictures that are kept in memory: what the decoder threads of the queue input take instead of decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.errors import UsageError
from trainer.inputs.batch import RECORD, Features
from trainer.inputs.loading import load_training
from trainer.inputs.preloaded import store
from trainer.preprocessing.preprocessing import Side
from trainer.tf1 import tf


class Cache(NamedTuple):
    """The pictures and labels of a training set, by the numbers of their records."""

    decode: Callable[[Features], Features]  # what was shuffled, with RECORD -> features of the same examples
    fill: Callable[[tf.Session], None]  # before the decoders start


def make_cache(spec: DatasetSpec, side: Side) -> Cache:
    """Decodes a training set.

    Raises:
      UsageError: its pictures are not encoded, are another thing in each epoch, or do not fit into memory.
      DataError: a record is damaged.
    """
    if not spec.is_encoded:
        raise UsageError("--cache=memory is for encoded pictures, and these are stored as pixels: leave it out")
    arrays = dict(zip((IMAGE, LABEL), load_training(spec, side), strict=True))
    stored = {name: store(name, array) for name, array in arrays.items()}

    def decode(found: Features) -> Features:
        numbers = found[RECORD] % spec.num_examples("train")
        gathered = {name: tf.gather(variable, numbers) for name, (variable, _) in stored.items()}
        return {**gathered, RECORD: found[RECORD]}

    def fill(session: tf.Session) -> None:
        for name, (_, set_value) in stored.items():
            set_value(session, arrays[name])

    return Cache(decode, fill)
