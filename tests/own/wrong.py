"""Networks that cannot be trained as they are; each test names one."""

import tensorflow.compat.v1 as tf


def _net(images, num_classes):
    flat = tf.reshape(images, [-1, 64])
    return tf.matmul(flat, tf.get_variable("weights", [64, num_classes]))


def nothing():
    pass


def num_classes_first(num_classes, images):
    return _net(images, num_classes)


def needs_more(images, num_classes, width):
    return _net(images, num_classes)


def fails(images, num_classes):
    return tf.matmul(images, _net(images, num_classes))


def returns_nothing(images, num_classes):
    _net(images, num_classes)


def squeezes_nothing(images, num_classes):
    return _net(images, num_classes)[:, None, None, :]


def no_logits(images, num_classes):
    return {"predictions": _net(images, num_classes)}


def other_classes(images):
    return _net(images, 7)


def sets_seed(images, num_classes):
    tf.set_random_seed(3)
    return _net(images, num_classes)


def takes_a_name(images, num_classes):
    tf.get_variable("position", [], tf.int64)
    return _net(images, num_classes)


def makes_a_name_twice(images, num_classes):
    tf.Variable(tf.zeros([64, num_classes]), name="weights")
    return _net(images, num_classes)


def no_variable(images, num_classes):
    return tf.reshape(images, [-1, 64])[:, :num_classes]


def vector_loss(images, num_classes):
    logits = _net(images, num_classes)
    tf.losses.add_loss(tf.reduce_sum(logits, 1))
    return logits


def scatters(images, num_classes):
    table = tf.get_variable("table", [3], trainable=False)
    with tf.control_dependencies([tf.scatter_update(table, [0], [1.0])]):
        return tf.identity(_net(images, num_classes))


def assigns_in_a_branch(images, num_classes):
    mean = tf.get_variable("mean", [], trainable=False)
    chosen = tf.cond(tf.reduce_sum(images) > 0, lambda: tf.assign(mean, 1.0), lambda: tf.constant(0.0))
    return _net(images, num_classes) + chosen


def reads_after(images, num_classes):
    count = tf.get_variable("count", [], trainable=False)
    with tf.control_dependencies([tf.assign_add(count, 1.0)]):
        return _net(images, num_classes) + count.read_value()


def in_training_alone(images, num_classes, training):
    if not training:
        tf.get_variable("other", [3])
    return _net(images, num_classes)


def by_towers(images, num_classes, calls=[]):  # noqa: B006  (a fault that is looked for)
    calls.append(1)
    tf.get_variable(f"number_{len(calls)}", [3])
    return _net(images, num_classes)


def idle(images, num_classes):
    mean = tf.get_variable("mean", initializer=0.0, trainable=False)
    tf.assign(mean, tf.reduce_mean(images))
    tf.get_variable("unused", [2])
    return _net(images, num_classes)


def clips(images, num_classes):
    """Assigns to trained variables, as TF1 programs do before their train_op."""
    logits = _net(images, num_classes)
    weights = tf.get_variable("weights", [64, num_classes])
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign(weights, tf.clip_by_value(weights, -9.0, 9.0)))
    return logits


def clips_nothing(images, num_classes):
    return _net(images, num_classes)


def python_update(images, num_classes):
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.py_func(lambda: 1.0, [], tf.float32))
    return _net(images, num_classes)


def averages_tensors(images, num_classes):
    logits = _net(images, num_classes)
    tf.add_to_collection(
        tf.GraphKeys.UPDATE_OPS, tf.train.ExponentialMovingAverage(0.9).apply([tf.reduce_mean(images)])
    )
    return logits


def always_drops(images, num_classes, keep_prob=0.5):
    return tf.nn.dropout(_net(images, num_classes), keep_prob)


def phase(images, num_classes, phase_train=False):
    logits = _net(images, num_classes)
    return tf.nn.dropout(logits, 0.5) if phase_train else logits


def assigns_another_shape(images, num_classes):
    mean = tf.get_variable("mean", [4], trainable=False)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign(mean, tf.zeros([3]), validate_shape=False))
    return _net(images, num_classes)


def hides(images, num_classes):
    tf.get_variable("hidden", [2], collections=["mine"])
    return _net(images, num_classes)


def ref(images, num_classes):
    tf.get_variable("old", [2], use_resource=False)
    return _net(images, num_classes)
