"""Devices for towers, and the session that goes with them."""

import threading

import numpy as np
import pytest

from trainer.errors import UsageError
from trainer.placing.devices import choose_devices, make_session_config, visible_memory
from trainer.tf1 import tf


def choose(num_towers, num_gpus, **settings):
    settings = {"device": "gpu", "virtual_gpus": False, "parameter_device": "cpu", **settings}
    return choose_devices(num_towers, num_gpus=num_gpus, **settings)


def session_config(devices, **settings):
    settings = {
        "intra_op_threads": 0,
        "inter_op_threads": 0,
        "deterministic": False,
        "allow_soft_placement": True,
        "log_device_placement": False,
        "gpu_memory_mib": None,
        **settings,
    }
    return make_session_config(devices, **settings)


def test_without_gpus_there_are_virtual_cpu_devices_and_a_line_that_says_so():
    devices = choose(2, 0)
    assert devices.towers == ["/cpu:0", "/cpu:1"] and devices.parameters == "/cpu:0"
    assert devices.note == "this machine has no GPU that TensorFlow can use: training on 2 virtual CPU devices"
    config = session_config(devices)
    assert config.device_count == {"CPU": 2, "GPU": 0}
    assert config.inter_op_parallelism_threads == -1
    assert session_config(devices, inter_op_threads=3, intra_op_threads=5).inter_op_parallelism_threads == 3


def test_device_cpu_leaves_gpus_alone():
    devices = choose(1, 4, device="cpu")
    assert devices.towers == ["/cpu:0"] and devices.note == "--device=cpu: training on 1 virtual CPU device"
    assert session_config(devices).device_count["GPU"] == 0


def test_with_enough_gpus_there_is_nothing_to_say():
    devices = choose(2, 4)
    assert devices.towers == ["/gpu:0", "/gpu:1"] and devices.note == "" and devices.parameters == "/cpu:0"
    config = session_config(devices, log_device_placement=True)
    assert config.gpu_options.allow_growth and config.allow_soft_placement and config.log_device_placement
    assert "CPU" not in config.device_count and config.inter_op_parallelism_threads == 0


def test_variables_can_live_on_the_first_gpu():
    assert choose(2, 2, parameter_device="gpu").parameters == "/gpu:0"
    assert choose(2, 0, parameter_device="gpu").parameters == "/cpu:0"


def test_too_few_gpus_are_an_error_with_what_would_work():
    with pytest.raises(UsageError) as caught:
        choose(4, 2)
    assert str(caught.value) == (
        "num_gpus=4, but this machine has 2: use --num_gpus=2, --virtual_gpus to split them, or --device=cpu"
    )


@pytest.mark.parametrize(
    ("num_gpus", "wanted", "device"),
    [(2, "auto", "/gpu:0"), (2, "cpu", "/cpu:0"), (2, "gpu", "/gpu:0"), (0, "auto", "/cpu:0")],
)
def test_variables_live_on_the_first_gpu_where_there_is_one(num_gpus, wanted, device):
    assert choose(2, num_gpus, parameter_device=wanted).parameters == device


def test_gpus_are_split_evenly_when_asked():
    devices = choose(5, 2, virtual_gpus=True)
    assert devices.towers == [f"/gpu:{index}" for index in range(5)] and devices.virtual_gpus == (3, 2)
    config = session_config(devices, gpu_memory_mib=lambda: [30000, 20000])
    parts = [list(part.memory_limit_mb) for part in config.gpu_options.experimental.virtual_devices]
    assert parts == [pytest.approx([9000] * 3), pytest.approx([9000] * 2)]


def test_deterministic_runs_treat_tiny_numbers_alike_whichever_thread_ends_the_wait():
    """A step that finds its batch goes on in its own thread, one that waits in the thread that brings the batch."""
    config = session_config(choose(1, num_gpus=0), deterministic=True)
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        queue = tf.FIFOQueue(2, [tf.float32], [[]])
        put, batch = queue.enqueue(1.0), queue.dequeue()
        tiny = tf.placeholder(tf.float32, []) * batch
        feed = {tiny.op.inputs[0]: np.float32(1e-40)}
        session.run(put)
        found = session.run(tiny, feed)
        bring = threading.Timer(0.3, session.run, [put])
        bring.start()
        waited = session.run(tiny, feed)
        bring.join()
    assert found == waited == 0.0


@pytest.mark.parametrize(
    ("visible", "memory"),
    [
        (None, [1, 2, 3]),
        ("2,0", [3, 1]),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", [1]),
        ("GPU-b,0", [2, 1]),
        ("GPU-,0", []),
        ("7", []),
        ("", []),
    ],
)
def test_the_memory_is_that_of_the_gpus_that_cuda_shows(visible, memory):
    assert visible_memory(visible, [("0", "GPU-a1", 1), ("1", "GPU-b2", 2), ("2", "GPU-c3", 3)]) == memory
