"""What becomes of it: the function, unchanged. All else are flags.

python -m trainer --model=examples/tf1_script/after.py:inference --batch_size=100 --train_steps=300 --optimizer=sgd \
  --learning_rate=0.1 --decay=constant --weight_decay=1e-4 --ema_decay=0.99 --num_gpus=2
"""

import tensorflow.compat.v1 as tf


def inference(images, num_classes, regularizer):
    weights1 = tf.Variable(tf.truncated_normal([64, 50], stddev=0.1))
    biases1 = tf.Variable(tf.constant(0.1, shape=[50]))
    weights2 = tf.Variable(tf.truncated_normal([50, num_classes], stddev=0.1))
    biases2 = tf.Variable(tf.constant(0.1, shape=[num_classes]))
    for weights in (weights1, weights2):
        tf.add_to_collection("losses", regularizer(weights))
    hidden = tf.nn.relu(tf.matmul(tf.reshape(images, [-1, 64]), weights1) + biases1)
    return tf.matmul(hidden, weights2) + biases2
