"""What moves between devices, and how: on virtual CPU devices, and in the graph of a run on GPUs."""

import collections

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.integration.test_loops import same
from tests.integration.test_resume import weights
from tests.networks import logits_of
from tests.soak import pairs
from trainer.console import Console
from trainer.errors import UsageError
from trainer.placing.devices import Devices
from trainer.settings.config import Config, validate
from trainer.signals import Signals
from trainer.tf1 import tf
from trainer.training.graphs import build_graphs
from trainer.training.measuring import open_bench
from trainer.training.starting import prepare

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("source", "towers", "loop"),
    [("queue", 1, 1), ("feed", 2, 1), pytest.param("queue", 2, 10, marks=pytest.mark.slow)],
)
def test_staged_batches_are_the_same_batches(train, tmp_path, source, towers, loop):
    """Also over the end of a run: what was staged and not consumed comes again."""
    settings = {"input": source, "num_gpus": towers, "steps_per_loop": loop, "log_every": "10"}
    one = train(**settings, logdir=str(tmp_path / "one"), train_steps=45, decay="constant")
    for steps in (20, 45):
        run = train(**settings, logdir=str(tmp_path / "two"), train_steps=steps, decay="constant", staging="yes")
    same(weights(run), weights(one))
    assert read_metrics(run, "loss") == read_metrics(one, "loss")


def test_staging_needs_batches_that_wait():
    with pytest.raises(
        UsageError, match=r"--staging=yes needs an input that queues batches: --input=queue or files or feed"
    ):
        validate(Config(staging="yes", input="preloaded"))


@pairs("towers", [(4,)], [(2,), (4,)])
def test_gradients_in_buckets_have_the_same_mean(train, tmp_path, towers):
    settings = {"num_gpus": towers, "train_steps": 20, "log_every": "10", "batch_size": 64}
    one = train(**settings, logdir=str(tmp_path / "one"))
    for megabytes in (0.01, 100):
        run = train(**settings, logdir=str(tmp_path / f"{megabytes}"), bucket_mb=megabytes)
        same(weights(run), weights(one))


def test_channels_first_gives_the_same_steps(train, tmp_path):
    """oneDNN computes both orders on a CPU; TensorFlow's own kernels there know only channels last."""
    settings = {"train_steps": 20, "log_every": "1", "model_args": ("dropout=0",)}
    one = train(**settings, logdir=str(tmp_path / "one"))
    other = train(**settings, logdir=str(tmp_path / "other"), data_format="channels_first")
    losses = [list(read_metrics(run, "loss").values()) for run in (one, other)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert {n: v.shape for n, v in weights(one).items()} == {n: v.shape for n, v in weights(other).items()}


def copies(session, fetches):
    """Counts what is copied from each device to another in one run."""
    metadata = tf.RunMetadata()
    session.run(fetches, options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
    nodes = [node for graph in metadata.partition_graphs for node in graph.node if node.op in ("_Send", "_HostSend")]
    nodes = [node for node in nodes if "/ctrl/" not in node.input[0]]  # Orders two operations, carries nothing.
    ends = [[node.attr[end].s.decode()[-5:] for end in ("send_device", "recv_device")] for node in nodes]
    return collections.Counter(f"{one} -> {other}" for one, other in ends)


@pytest.fixture
def bench_copies(digits_dir, tmp_path):
    def count(**settings):
        config = Config(data_dir=str(digits_dir), logdir=str(tmp_path / "run"), num_gpus=2, device="cpu", **settings)
        console = Console()
        console.rich.quiet = True
        with open_bench(validate(config), console, Signals()) as bench:
            return copies(bench.session, bench.graphs.train.train_op)

    return count


def test_copies_between_towers_are_counted(bench_copies):
    """Towers on CPU:0, with the variables, and CPU:1. lenet has 8 variables."""
    plain = bench_copies()
    back, there = plain["CPU:1 -> CPU:0"], plain["CPU:0 -> CPU:1"]
    # To tower 1: 8 variables, images, labels, the dropout's step, and whether the update was refused. Back: 8
    # gradients, the loss, and (dead, unless the update was refused) what of them is not finite.
    assert (there, back) == (12, 10)
    assert bench_copies(bucket_mb=100)["CPU:1 -> CPU:0"] == 3
    # Megabytes of the gradients: conv1 0.003, conv2 0.2, fc1 0.5, logits 0.02, and biases between them.
    assert bench_copies(bucket_mb=0.3)["CPU:1 -> CPU:0"] == 2 + 3


def gpu_graph(digits_dir, tmp_path, num_towers=2, **settings):
    """Builds the graph of a run on GPUs, which none has to be there for."""
    from contextlib import ExitStack

    console = Console()
    console.rich.quiet = True
    config = validate(
        Config(data_dir=str(digits_dir), logdir=str(tmp_path / "run"), num_gpus=num_towers, device="cpu", **settings)
    )
    with ExitStack() as stack:
        job = prepare(config, console, stack)
        devices = Devices([f"/gpu:{index}" for index in range(num_towers)], "/cpu:0")
        with tf.Graph().as_default() as graph:
            build_graphs(job._replace(devices=devices))
    return graph


def test_on_gpus_each_towers_work_is_on_its_gpu_and_its_batch_is_staged_there(digits_dir, tmp_path):
    graph = gpu_graph(digits_dir, tmp_path)
    ops = graph.get_operations()

    def devices(chosen):
        return {tf.DeviceSpec.from_string(op.device).to_string() for op in chosen}

    for index in range(2):
        mine = [op for op in ops if op.name.startswith(f"tower_{index}/")]
        mine = [
            op for op in mine if op.type not in ("VarHandleOp", "ReadVariableOp")
        ]  # Those are where the variable is.
        assert len(mine) > 100
        assert devices(mine) == {f"/device:GPU:{index}"}
        assert [op.type for op in mine if "tage" in op.type] == ["Stage", "Unstage"]
    assert devices(op for op in ops if op.type == "VarHandleOp") == {"/device:CPU:0"}
    updates = ("ResourceApply", "TowerUpdate")  # Without and with operations of the trainer's own.
    assert devices(op for op in ops if op.type.startswith(updates)) == {"/device:CPU:0"}
    assert devices(op for op in ops if "Queue" in op.type) == {"/device:CPU:0"}
    # Nothing of a step takes its images from the queue: they come from the area.
    unstaged = [op for op in ops if op.type == "Unstage"]
    for stage in (op for op in ops if op.type == "Stage"):
        assert not set(stage.inputs) & {tensor for op in unstaged for tensor in op.outputs}


def test_on_gpus_convolutions_have_their_channels_first(digits_dir, tmp_path):
    graph = gpu_graph(digits_dir, tmp_path)
    orders = {op.get_attr("data_format") for op in graph.get_operations() if op.type.startswith(("Conv2D", "MaxPool"))}
    assert orders == {b"NCHW"}
    graph = gpu_graph(digits_dir, tmp_path, data_format="channels_last", staging="no")
    kinds = {op.type for op in graph.get_operations()}
    orders = {op.get_attr("data_format") for op in graph.get_operations() if op.type.startswith(("Conv2D", "MaxPool"))}
    assert orders == {b"NHWC"} and "Stage" not in kinds


@pytest.mark.parametrize("model", ["lenet", "vgg11"])
def test_channels_first_and_last_share_their_weights(model):
    rng = np.random.default_rng(1)
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.constant(rng.integers(0, 256, (4, 36, 34, 3), np.uint8))
        logits = []
        for data_format in ("channels_last", "channels_first"):
            with tf.variable_scope("", reuse=tf.AUTO_REUSE):
                logits.append(logits_of(images, model, num_classes=5, data_format=data_format))
        assert len(tf.trainable_variables()) == {"lenet": 8, "vgg11": 22}[model]
        session.run(tf.global_variables_initializer())
        one, other = session.run(logits)
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
