"""The two tables of word vectors, and the operation that trains them."""

from __future__ import annotations

from typing import NamedTuple

from corpus import operations

from trainer.graph.update import Counters, build_counters
from trainer.tf1 import tf


class Step(NamedTuple):
    """What one run trains: a stretch of the corpus."""

    ids: tf.Tensor  # int32 [n], placeholder
    rates: tf.Tensor  # float32 [2], placeholder: of its first word, and behind its last
    position: tf.Tensor  # int64 [], placeholder: of its first word in all epochs
    loss: tf.Tensor  # float32 [], mean over some contexts; NaN where the vectors are
    step: tf.Tensor  # int64 [], after it
    counters: Counters


def build_tables(num_words: int, dim: int, seed: int) -> tuple[tf.Variable, tf.Variable]:
    """Makes w_in, uniform within 0.5 / dim, and w_out, zeros: float32 [num_words, dim]."""
    first = tf.random.stateless_uniform([num_words, dim], [seed, 0], -0.5 / dim, 0.5 / dim)
    return tf.get_variable("w_in", initializer=first), tf.get_variable("w_out", initializer=tf.zeros([num_words, dim]))


def build_step(counts, dim: int, *, window: int, negatives: int, subsample: float, seed: int, threads: int) -> Step:
    """Builds tables, counters and the training of a stretch.

    Args:
      counts: int64 [num_words], of the words in the corpus.
      dim: of the vectors.
      window: words to each side of a center, at most.
      negatives: samples for each center.
      subsample: frequency above which words are left out the more, the more frequent they are.
      seed: of the vectors and of all that is drawn.
      threads: of TensorFlow's pool; 0: all.
    """
    tables = build_tables(len(counts), dim, seed)
    counters = build_counters()
    ids = tf.placeholder(tf.int32, [None], "ids")
    rates, position = tf.placeholder(tf.float32, [2], "rates"), tf.placeholder(tf.int64, [], "position")
    trained = operations().word2vec_train(
        tables[0].handle,
        tables[1].handle,
        tf.constant(counts, tf.int64),
        ids,
        position,
        rates,
        window_size=window,
        num_negative_samples=negatives,
        subsample=subsample,
        seed=seed,
        threads=threads,
    )
    with tf.control_dependencies([trained.loss]):
        moved = counters.position.assign(position + tf.size(ids, out_type=tf.int64), read_value=False)
        step = counters.step.assign_add(1)
    with tf.control_dependencies([moved]):
        step = tf.identity(step)
    return Step(ids, rates, position, trained.loss, step, counters)
