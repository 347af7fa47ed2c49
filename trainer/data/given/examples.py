"""Examples that a function of the user's gives: `examples(split)` of arrays and labels, or tensors of one example."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.console import Console
from trainer.data.conversion import EVAL_SHARDS, write_aside
from trainer.data.given.labels import Labels, label_of
from trainer.data.spec import OWN_FIELDS, SPLITS, DataError, DatasetSpec, Shard, describe_images
from trainer.data.writing import write_shards
from trainer.errors import UsageError
from trainer.settings.arguments import describe, read_options
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

GIVEN = ("epoch", "seed")  # what a function is given by name where it has such a parameter
DEPTHS = (1, 3, 4)
BATCH = 64  # examples of tensors that are computed at once
TELL_SECONDS = 10.0
STREAM = "examples"  # in the place of the training set's shard

END = object()  # of a pass

Example = tuple[np.ndarray, Any]


class Examples(NamedTuple):
    """A function `examples(split, **options)` of the user's."""

    reference: str  # as --input says it
    function: Callable[..., Any]
    takes: frozenset[str]  # of GIVEN
    options: Mapping[str, Any]
    seed: int  # of the run
    errors_named: Callable[[], AbstractContextManager[None]]
    entered: Callable[[], AbstractContextManager[None]]  # the same, and lets it import what lies beside its file

    def read(self, split: str, epoch: int = 0) -> Iterator[Example]:
        """Yields the examples of one pass: image uint8 [height, width, depth], and label as the function gives it.

        Raises:
          UsageError: the function fails, or gives something else.
        """
        given = {name: value for name, value in (("epoch", epoch), ("seed", self.seed)) if name in self.takes}
        with tf.Graph().as_default() as graph:
            # What TensorFlow shuffles, as `slice_input_producer` does: in each epoch another order, which repeats.
            tf.set_random_seed(zlib.crc32(f"{self.seed}/{epoch}".encode()) & 0x7FFFFFFF)
            found = self.function(split, **given, **self.options)
        if isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(each, tf.Tensor) for each in found):
            found = _run(graph, *found)
        if not isinstance(found, Iterable):
            raise UsageError(
                f"--input={self.reference} returned a {type(found).__name__}; wanted an iterator of (array, label), "
                "or two tensors, image and label of one example"
            )
        examples, number = iter(found), 0
        while True:
            # A generator begins with its first example, and may import then.
            with self.errors_named() if number else self.entered():
                example = next(examples, END)
            if example is END:
                return
            yield self._check(example, f"example {number} of {split}")
            number += 1

    def _check(self, example: Any, what: str) -> Example:
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise UsageError(
                f"--input={self.reference}: {what} is a {type(example).__name__}; wanted a pair, array and label"
            )
        image, label = np.asarray(example[0]), example[1]
        image = image[..., np.newaxis] if image.ndim == 2 else image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in DEPTHS:
            raise UsageError(
                f"--input={self.reference}: {what} is {image.dtype} {list(image.shape)}; wanted uint8, 0 to 255, "
                "[height, width, depth] of 1, 3 or 4 channels; what follows from the pixels is of --preprocess"
            )
        return np.array(image, order="C"), label  # A copy: the function may use one array again and again.


def open_examples(reference: str, args: Sequence[str], seed: int, code: UserCode) -> Examples:
    """Loads the function, and checks its options.

    Args:
      reference: `file.py:function` or `package.module:function`.
      args: texts of `name=value, ...`, of which later ones win.
      seed: of the run.
      code: loads it.

    Raises:
      UsageError: there is no such function, it takes something else, or an option is unknown or illegal.
    """
    function = code.load(reference, default="examples")
    parameters = list(inspect.signature(function).parameters.values())
    first = parameters[0].kind if parameters else None
    if first not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        raise UsageError(
            f"--input={reference} takes ({describe(parameters)}); wanted examples(split, option=default, ...)"
        )
    others = [parameter for parameter in parameters[1:] if parameter.name not in GIVEN]
    takes = frozenset(parameter.name for parameter in parameters[1:]) & set(GIVEN)
    options = read_options("input", reference, function, others, args, is_own=True)
    return Examples(reference, function, frozenset(takes), options, seed, *code.contexts_of(reference))


def _run(graph: tf.Graph, image: tf.Tensor, label: tf.Tensor) -> Iterator[tuple[Any, Any]]:
    """Yields what tensors of one example are, one after the other, until their input has ended."""
    with graph.as_default():
        # By one thread, so that they stay in their order.
        batch = tf.train.batch([image, label], BATCH, capacity=2 * BATCH, allow_smaller_final_batch=True)
        initialize = tf.group(tf.global_variables_initializer(), tf.local_variables_initializer())
        coord = tf.train.Coordinator()
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            session.run(initialize)
            threads = tf.train.start_queue_runners(session, coord)
            try:
                while True:
                    yield from zip(*session.run(batch), strict=True)
            except tf.errors.OutOfRangeError:
                coord.request_stop()
                coord.join(threads)  # Raises what has ended one of them.
            finally:
                coord.request_stop()


def look_at(examples: Examples, *, name: str, attribution: str, data_dir: Path, console: Console) -> DatasetSpec:
    """Makes one pass over all splits: counts, and writes what is evaluated into shards, so that it is there for ever.

    The training set stays a stream; in the place of its shards stands how many examples it has, and their digest.

    Raises:
      UsageError: the function fails, or gives something else than examples of one shape.
      DataError: a split is empty.
    """
    labels, looks = Labels(), dict[str, _Look]()
    for split in SPLITS:
        looks[split] = _Look(examples.reference, split, labels, console)
        looks[split].over(examples.read(split))
        if not looks[split].count:
            raise DataError(
                f"--input={examples.reference} gives no example of {split}; wanted some of each of {', '.join(SPLITS)}"
            )
    shapes = {look.shape for look in looks.values()}
    if len(shapes) > 1:
        raise UsageError(f"--input={examples.reference}: images of {' and '.join(map(str, sorted(shapes)))}")

    labels.check(sum(look.count for look in looks.values()), examples.reference)
    (height, width, depth), train = looks["train"].shape, looks["train"]
    stream = (Shard(STREAM, train.count, train.num_bytes, train.digest.hexdigest()),)
    spec = dataclasses.replace(
        describe_images(
            name, (height, width, depth), labels.names(), {"train": stream}, data_dir, attribution,
            label_kind=labels.kind,
        ),
        fields=OWN_FIELDS._replace(generator=examples.reference),
    )  # fmt: skip

    def write(folder: Path) -> DatasetSpec:
        splits: dict[str, tuple[Shard, ...]] = {"train": stream}
        for split in ("validation", "test"):
            pairs = ((image, label_of(label, spec)) for image, label in examples.read(split))
            num = min(EVAL_SHARDS, looks[split].count)
            splits[split] = write_shards(pairs, folder=folder, split=split, num_shards=num, advance=lambda count: None)
            if sum(shard.num_examples for shard in splits[split]) != looks[split].count:
                raise DataError(f"--input={examples.reference} gives another number of {split} examples in each pass")
        return dataclasses.replace(spec, splits=splits, data_dir=folder)

    written = write_aside(data_dir, write)
    counts = ", ".join(f"{looks[split].count:,} of {split}" for split in SPLITS)
    console.say(f"--input={examples.reference} gives {counts}, in {written.num_classes} classes or numbers")
    return written


class _Look:
    """One pass over a split."""

    def __init__(self, reference: str, split: str, labels: Labels, console: Console) -> None:
        self._reference, self._split, self._labels, self._console = reference, split, labels, console
        self.count, self.num_bytes, self.digest = 0, 0, hashlib.sha256()
        self.shape: tuple[int, ...] = ()

    def over(self, examples: Iterable[Example]) -> None:
        """Notes what the examples are.

        Raises:
          UsageError: they are not of one size, or of one kind of label.
        """
        told = time.monotonic()
        for image, label in examples:
            what = f"example {self.count} of {self._split}, by --input={self._reference}"
            self.shape = self.shape or image.shape
            if image.shape != self.shape:
                raise UsageError(
                    f"{what}, is {list(image.shape)}, and those before it are {list(self.shape)}; wanted one size"
                )
            self.digest.update(image.tobytes())
            self.digest.update(repr(self._labels.take(label, what)).encode())
            self.count, self.num_bytes = self.count + 1, self.num_bytes + image.nbytes
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self._console.say(
                    f"counting --input={self._reference}: {self.count:,} examples of {self._split} so far; one pass "
                    "over a split has to end"
                )
