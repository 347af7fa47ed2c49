"""A program in the style of the classic tutorials: one device, no checkpoint, nothing that survives a Ctrl-C."""

import sys

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()
BATCH_SIZE, STEPS, RATE, REGULARIZATION, AVERAGE = 100, 300, 0.1, 1e-4, 0.99


def inference(images, num_classes, regularizer):
    weights1 = tf.Variable(tf.truncated_normal([64, 50], stddev=0.1))
    biases1 = tf.Variable(tf.constant(0.1, shape=[50]))
    weights2 = tf.Variable(tf.truncated_normal([50, num_classes], stddev=0.1))
    biases2 = tf.Variable(tf.constant(0.1, shape=[num_classes]))
    for weights in (weights1, weights2):
        tf.add_to_collection("losses", regularizer(weights))
    hidden = tf.nn.relu(tf.matmul(tf.reshape(images, [-1, 64]), weights1) + biases1)
    return tf.matmul(hidden, weights2) + biases2


images, labels = (np.load(sys.argv[1])[name] for name in ("x_train", "y_train"))
x, y = tf.placeholder(tf.float32, [None, 8, 8, 1]), tf.placeholder(tf.int64, [None])
logits = inference(x, 10, lambda weights: REGULARIZATION * tf.nn.l2_loss(weights))
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
loss += tf.add_n(tf.get_collection("losses"))
step = tf.train.get_or_create_global_step()
update = tf.train.GradientDescentOptimizer(RATE).minimize(loss, global_step=step)
average = tf.train.ExponentialMovingAverage(AVERAGE, step)
with tf.control_dependencies([update]):
    train_op = average.apply(tf.trainable_variables())
accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.float32))
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for _ in range(STEPS):
        chosen = np.random.randint(0, len(images), BATCH_SIZE)
        session.run(train_op, {x: images[chosen], y: labels[chosen]})
    print("accuracy on the training set:", session.run(accuracy, {x: images, y: labels}))
