"""tensorpack, from memory through its queue. `tensorpack_queue.py WORK`. Needs `tf_keras`: its layers are tf.layers."""

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow.compat.v1 as tf
from common import BATCH, batches, load_data, repeat, serve
from tensorpack import Callback, QueueInput, SimpleTrainer
from tensorpack.dataflow import DataFromGenerator
from tensorpack.models import Conv2D, FullyConnected, MaxPooling
from tensorpack.tfutils.sesscreate import NewSessionCreator
from tensorpack.tfutils.sessinit import JustCurrentSession

tf.disable_v2_behavior()
work = sys.argv[1]
images, labels = load_data()


def cost(images, labels):
    h = tf.cast(images, tf.float32) / 255.0
    if work == "lenet":
        h = MaxPooling("pool1", Conv2D("conv1", h, 32, 5, activation=tf.nn.relu), 2)
        h = MaxPooling("pool2", Conv2D("conv2", h, 64, 5, activation=tf.nn.relu), 2)
    h = FullyConnected("hidden", h, 512 if work == "lenet" else 500, activation=tf.nn.relu)
    logits = FullyConnected("logits", h, 10)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def make_optimizer():
    return tf.train.AdamOptimizer(0.001) if work == "lenet" else tf.train.GradientDescentOptimizer(0.1)


class Serve(Callback):
    """Makes steps when told to, in the place of the first epoch: its queue is being filled by then."""

    def _before_epoch(self):
        serve(repeat(self.trainer.run_step))


data = DataFromGenerator(lambda: ([images[chosen], labels[chosen]] for chosen in batches(len(labels))))
signature = [tf.TensorSpec([BATCH, 28, 28, 1], tf.uint8, "images"), tf.TensorSpec([BATCH], tf.int32, "labels")]
trainer = SimpleTrainer()
trainer.setup_graph(signature, QueueInput(data), cost, make_optimizer)
trainer.setup_callbacks([Serve()], [])
trainer.initialize(NewSessionCreator(), JustCurrentSession())
trainer.main_loop(steps_per_epoch=1, starting_epoch=1, max_epoch=1)
