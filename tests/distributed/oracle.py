"""One step of loss = x * a * b by two workers, which are threads with servers of their own: `oracle.py STRATEGY`.

Prints the mean of the losses that each worker learns, and the variables after the step that each worker has.
"""

import json
import sys
import threading

from launch.network import enter_private_network

NOBODY = enter_private_network()  # Before TensorFlow starts threads; where it cannot be, the servers are open.

from launch.plan import free_ports  # noqa: E402
from trainer.cluster.server import make_worker_config, start_server  # noqa: E402
from trainer.cluster.spec import Cluster  # noqa: E402
from trainer.placing.all_reduce import AllReduce  # noqa: E402
from trainer.placing.ps_exchange import GradientQueues, VariableSpread, ps_device  # noqa: E402
from trainer.placing.strategy import Workers  # noqa: E402
from trainer.tf1 import tf  # noqa: E402

RATE, STEPS = 0.1, 2
SETTINGS = tf.ConfigProto(allow_soft_placement=True)


class Task:
    """What a worker builds, and its session."""

    def __init__(self, strategy, cluster, target):
        self.index = cluster.task_index
        self.graph = tf.Graph()
        with self.graph.as_default(), tf.device(f"/job:worker/task:{self.index}/device:CPU:0"):
            device = None if strategy == "collective" else VariableSpread(2)
            with tf.device(None if strategy == "collective" else ps_device(0)):
                position = tf.get_variable("position", initializer=tf.zeros([], tf.int64), trainable=False)
            with tf.device(device):
                a, b = (tf.get_variable(name, initializer=value) for name, value in (("a", 3.0), ("b", 5.0)))
            self.variables = [a, b]
            loss = [2.0, 4.0][self.index] * a * b
            self.tensors = [loss, *tf.gradients(loss, [a, b])]
            build = {"collective": self.collective, "ps_sync": self.ps_sync, "ps_async": self.ps_async}
            self.fetches = build[strategy](position)
            self.initialize = tf.global_variables_initializer()
            self.local = tf.local_variables_initializer()
        self.session = tf.Session(target, graph=self.graph, config=make_worker_config(SETTINGS, cluster))

    def update(self, gradients):
        """Applies gradients once all of them are there."""
        with tf.control_dependencies(gradients):
            pairs = [
                (tf.identity(gradient), variable) for gradient, variable in zip(gradients, self.variables, strict=True)
            ]
        return tf.train.GradientDescentOptimizer(RATE).apply_gradients(pairs)

    def collective(self, _):
        mean, *gradients = AllReduce(Workers(self.index, 2), bucket_bytes=0).average(self.tensors, [])
        return mean, self.update(gradients)

    def ps_sync(self, position):
        queues = GradientQueues(Workers(self.index, 2), generation=1, position=0)
        devices = [ps_device(0), *(variable.device for variable in self.variables)]
        if self.index:
            return queues.hand_over(self.tensors, devices, batch_size=2)
        mean, *gradients = queues.average(self.tensors, devices)
        with tf.control_dependencies([self.update(gradients)]), tf.control_dependencies([position.assign_add(2).op]):
            nothing = tf.zeros([0, 2], tf.int64)
        return mean, queues.publish(mean, nothing, position)

    def ps_async(self, _):
        loss, *gradients = self.tensors
        return loss, self.update(gradients)

    def run(self, results):
        """Makes the steps."""
        steps = [float(self.session.run(self.fetches)[0]) for _ in range(STEPS)]
        results[self.index] = steps


def main(strategy):
    ports = [f"127.0.0.1:{port}" for port in free_ports(4)]
    workers = dict(enumerate(ports[:2]))
    servers = {} if strategy == "collective" else dict(enumerate(ports[2:]))
    jobs = [("ps", index) for index in servers] + [("worker", index) for index in workers]
    clusters = [Cluster(job, index, workers, servers, "the test") for job, index in jobs]
    targets = [start_server(cluster, SETTINGS, lambda line: None, network_is_isolated=True) for cluster in clusters]
    pairs = zip(clusters, targets, strict=True)
    tasks = [Task(strategy, cluster, target) for cluster, target in pairs if cluster.job == "worker"]
    for task in tasks:
        if strategy == "collective" or not task.index:
            task.session.run(task.initialize)
        task.session.run(task.local)
    results = {}
    threads = [threading.Thread(target=task.run, args=(results,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
        if strategy == "ps_async":  # One after the other, so that paper can follow.
            thread.join(30)
    for thread in threads:
        thread.join(30)
    variables = [[float(value) for value in task.session.run(task.variables)] for task in tasks]
    devices = [variable.device for variable in tasks[0].variables]
    print(json.dumps({"losses": [results[index] for index in sorted(results)], "after": variables, "on": devices}))


if __name__ == "__main__":
    main(sys.argv[1])
