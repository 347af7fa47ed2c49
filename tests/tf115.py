"""What TensorFlow 1.15 writes and reads, run by a Python 3.7: `tf115.py write DIR` or `tf115.py read PATH OUT.npz`.

`write` trains nothing: a perceptron 64-4-10 of ref variables, with averages and momentum, is saved in both formats.
`read` restores a checkpoint by a plain `tf.train.Saver` on variables that it declares, and saves their values.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

SHAPES = [("hidden1/weights", [64, 4]), ("hidden1/biases", [4]), ("logits/weights", [4, 10]), ("logits/biases", [10])]
AVERAGE = "/ExponentialMovingAverage"


def values(name, shape):
    """Gives values that follow from the name and the place alone."""
    count = int(np.prod(shape))
    return ((np.arange(count) * 7 + len(name)) % 23 / 23.0 - 0.5).astype(np.float32).reshape(shape)


def write(folder):
    step = tf.train.get_or_create_global_step()
    variables = [tf.get_variable(name, initializer=values(name, shape), use_resource=False) for name, shape in SHAPES]
    loss = tf.add_n([tf.reduce_sum(variable**2) for variable in variables])
    train = tf.train.MomentumOptimizer(0.01, 0.9).minimize(loss, global_step=step)
    average = tf.train.ExponentialMovingAverage(0.9)
    with tf.control_dependencies([train]):
        both = average.apply(variables)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(7):
            session.run(both)
        for version, name in ((tf.train.SaverDef.V1, "v1.ckpt"), (tf.train.SaverDef.V2, "v2.ckpt")):
            saver = tf.train.Saver(write_version=version)
            saver.save(session, str(Path(folder) / name), step, write_meta_graph=False, write_state=False)
        found = session.run({variable.op.name: variable for variable in tf.global_variables()})
    np.savez(str(Path(folder) / "values.npz"), **{name.replace("/", "."): value for name, value in found.items()})


def read(path, output):
    step = tf.train.get_or_create_global_step()
    variables = [tf.get_variable(name, shape, use_resource=False) for name, shape in SHAPES]
    average = tf.train.ExponentialMovingAverage(0.9)
    average.apply(variables)
    averages = [average.average(variable) for variable in variables]
    declared = [step, *variables, *averages]
    with tf.Session() as session:
        tf.train.Saver(declared).restore(session, path)
        found = session.run({variable.op.name: variable for variable in declared})
    np.savez(output, **{name.replace("/", "."): value for name, value in found.items()})


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        read(sys.argv[2], sys.argv[3])
