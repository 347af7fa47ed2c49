"""Settings of the data: which set, where it lies, and how it reaches the towers."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.grammars import MAX_COUNT, MAX_STEPS
from trainer.settings.fields import IDENTITY, OWN, REFERENCE, TASK, WITHIN, Use, between, is_reference, option

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar100_coarse")
INPUTS = ("queue", "files", "preloaded", "feed", "synthetic")
READING_INPUTS = ("queue", "files")  # which read shards by threads
QUEUED_INPUTS = (*READING_INPUTS, "feed")  # A batch of theirs is another one whenever it is taken.


def queues_batches(source: str) -> bool:
    """Does this --input put batches on a queue?"""
    return source in QUEUED_INPUTS or is_reference(source)


@dataclass(frozen=True)
class DataSettings:
    """The data, and how it reaches the towers."""

    dataset: str = option(
        "", "name of the data set (default: what lies in --data_dir, else digits, which are embedded)", scope=IDENTITY
    )
    data_dir: str = option("", "directory of its TFRecord shards (default: data/DATASET)", scope=TASK, path=True)
    input: str = option(
        "queue",
        "how batches reach the towers; or your function examples(split) of arrays and labels, as my_data.py or "
        "package.module:function",
        INPUTS,
        code=REFERENCE,
    )
    input_args: tuple[str, ...] = option(
        (),
        "options of your function, as 'path=/data, size=32'; may be repeated",
        repeated=True,
        used_by=Use("input", (OWN,)),
    )
    source: str = option(
        "",
        "files: your pictures, which are read where they lie: a folder with one for each class (or such in train, val, "
        "test), or a list (CSV or TSV); nothing has to be converted",
        scope=IDENTITY,
        path=True,
        used_by=Use("input", ("files",)),
    )
    split: str = option(
        "80/10/10",
        "files: shares of training, validation and test that the source does not tell",
        scope=IDENTITY,
        used_by=Use("input", ("files",)),
    )
    labels_offset: int = option(
        0,
        "is subtracted from the labels: 1 drops a class 0 that is none, -1 adds one, as published weights of 1,001 "
        "classes have it",
        scope=IDENTITY,
        legal=between(-1, MAX_COUNT),
    )
    preprocess: str = option(
        "",
        "what is done to the pictures of the training: operations joined by |, as 'pad(4)|random_crop(32)|flip_lr', or "
        "the name of a pipeline (docs/preprocessing.md); empty: nothing",
        code=WITHIN,
    )
    eval_preprocess: str = option(
        "",
        "the same for evaluation, export and predict (default: --preprocess without what is random)",
        code=WITHIN,
    )
    queue_readers: int = option(
        1,
        "threads that read shards; the order of the records stays the same",
        scope=TASK,
        legal=between(1, MAX_COUNT),
        used_by=Use("input", READING_INPUTS),
    )
    queue_capacity: int = option(
        64,
        "whole batches that the input queue holds",
        scope=TASK,
        legal=between(1, MAX_COUNT),
        used_by=Use("input", (*QUEUED_INPUTS, OWN)),
    )
    queue_mb: int = option(
        256,
        "MiB that the batches on the input queue take at most, beside --queue_capacity",
        scope=TASK,
        legal=between(1, 1 << 20),
        used_by=Use("input", (*QUEUED_INPUTS, OWN)),
    )
    decode_threads: int = option(
        0,
        "threads that decode pictures; 0: one for each core; the order of the records stays the same",
        scope=TASK,
        legal=between(0, MAX_COUNT),
        used_by=Use("input", READING_INPUTS),
    )
    cache: str = option(
        "none",
        "memory: what is done to each encoded picture alone, before anything random, is done once and kept in memory",
        ("none", "memory"),
        scope=TASK,
        used_by=Use("input", READING_INPUTS),
    )
    shuffle_mb: int = option(
        64,
        "MiB of records that are shuffled together at most; another number gives another order",
        legal=between(1, 1 << 20),
        scope=IDENTITY,
        used_by=Use("input", (*READING_INPUTS, OWN)),
    )
    skip_corrupt: int = option(
        0, "damaged records that are skipped; 0: the first one is an error", legal=between(0, MAX_STEPS)
    )
