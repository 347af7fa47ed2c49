"""A plain TensorFlow graph loop with feed_dict, as tutorials of version 1 wrote it. `tf_graph.py WORK`.

It runs on TensorFlow 1.15 and on 2.21.
"""

import sys

import numpy as np
import tensorflow as tf
from common import BATCH, batches, load_data, repeat, serve

if tf.__version__.startswith("2"):
    tf = tf.compat.v1
    tf.disable_v2_behavior()
work = sys.argv[1]
images, labels = load_data()
x = tf.placeholder(tf.uint8, [BATCH, 28, 28, 1])
y = tf.placeholder(tf.int32, [BATCH])


def dense(h, units, relu=True):
    n = int(h.shape[1])
    w = tf.Variable(tf.truncated_normal([n, units], stddev=(2.0 / n) ** 0.5))
    h = tf.matmul(h, w) + tf.Variable(tf.zeros([units]))
    return tf.nn.relu(h) if relu else h


def conv(h, filters):
    n = int(h.shape[3])
    w = tf.Variable(tf.truncated_normal([5, 5, n, filters], stddev=(2.0 / (25 * n)) ** 0.5))
    h = tf.nn.relu(tf.nn.conv2d(h, w, strides=[1, 1, 1, 1], padding="SAME") + tf.Variable(tf.zeros([filters])))
    return tf.nn.max_pool(h, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")


h = tf.cast(x, tf.float32) / 255.0
if work == "lenet":
    h = dense(tf.reshape(conv(conv(h, 32), 64), [BATCH, 7 * 7 * 64]), 512)
    optimizer = tf.train.AdamOptimizer(0.001)
else:
    h = dense(tf.reshape(h, [BATCH, 784]), 500)
    optimizer = tf.train.GradientDescentOptimizer(0.1)
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=dense(h, 10, relu=False)))
update = optimizer.minimize(loss)
session = tf.Session()
session.run(tf.global_variables_initializer())
source = batches(len(labels))


def step():
    chosen = next(source)
    session.run(update, {x: images[chosen], y: labels[chosen]})


serve(repeat(step))
assert np.isfinite(session.run(loss, {x: images[:BATCH], y: labels[:BATCH]}))
