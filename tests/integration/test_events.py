"""Event files and traces, read with TensorBoard's own reader."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tests.conftest import read_metrics

pytestmark = pytest.mark.timeout(120)
EVERYTHING = {"tensors": 0, "images": 0, "scalars": 0, "histograms": 0, "compressedHistograms": 0}


def load(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance=EVERYTHING)
    found.Reload()
    return found


@pytest.fixture(scope="module")
def logdir(digits_dir, tmp_path_factory):
    """A run of 40 steps on two towers with everything that can be logged."""
    from trainer import timing
    from trainer.console import Console
    from trainer.settings.config import Config, validate
    from trainer.signals import Signals
    from trainer.training import run as training

    folder = tmp_path_factory.mktemp("run")
    config = Config(
        data_dir=str(digits_dir),
        logdir=str(folder),
        train_steps=40,
        num_gpus=2,
        summary_every="5",
        histogram_every="20",
        eval_every="10",
        trace_every="20",
        preprocess="pad(1)|scale(-1,1)",
        log_every="5",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "WARMUP_SECONDS", 1e9)  # Ten steps, also where they take longer than two seconds.
        assert training.train(validate(config), Console(), Signals()) == 0
    return folder


def test_scalars(logdir):
    events = load(logdir)
    steps = [1, *range(5, 41, 5)]  # The first one too, and the last one.
    for tag in ("loss", "learning_rate", "gradient_norm", "accuracy", "queue_fill"):
        assert [event.step for event in events.Scalars(tag)] == steps, tag
    # Before step 11 there is no steady speed to tell.
    assert [event.step for event in events.Scalars("images_per_second")] == steps[3:]
    assert [event.value for event in events.Scalars("loss")][1:] == pytest.approx(
        list(read_metrics(logdir, "loss").values())
    )
    assert all(0 <= event.value <= 1 for event in events.Scalars("queue_fill"))


def test_validation_has_its_own_curve(logdir):
    events = load(logdir / "eval")
    found = {event.step: event.value for event in events.Scalars("accuracy")}
    assert found == pytest.approx(read_metrics(logdir, "validation_accuracy"))
    assert list(found) == [10, 20, 30, 40]


def test_histograms_of_weights_and_gradients(logdir):
    events = load(logdir)
    layers = [f"{layer}/{kind}" for layer in ("conv1", "conv2", "fc1", "logits") for kind in ("weights", "biases")]
    assert set(events.Tags()["histograms"]) == {
        f"{what}/{name}" for what in ("weights", "gradients") for name in layers
    }
    histogram = events.Histograms("weights/conv1/weights")
    assert [event.step for event in histogram] == [20, 40]
    assert histogram[0].histogram_value.num == 5 * 5 * 32


def test_grids_of_images_as_they_come_and_as_the_model_sees_them(logdir):
    events = load(logdir)
    assert set(events.Tags()["images"]) == {"input/image", "preprocessed/image"}
    found = {}
    for tag, side in (("input", 32), ("preprocessed", 40)):  # 4 x 4 images of 8 x 8, and of 10 x 10
        image = events.Images(f"{tag}/image")[0]
        assert (image.width, image.height) == (side, side)
        pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        found[tag] = pixels.reshape(4, side // 4, 4, side // 4).astype(int)
    # The same images, with black around them; -1..1 is drawn over all 255 shades.
    inner = found["preprocessed"][:, 1:-1, :, 1:-1]
    assert np.ptp(found["preprocessed"][:, 0]) == 0 and np.corrcoef(inner.ravel(), found["input"].ravel())[0, 1] > 0.999


def test_the_graph_and_the_flags(logdir):
    events = load(logdir)
    graph = events.Graph()
    names = {node.name for node in graph.node}
    assert {"conv1/weights", "tower_0/conv1/Conv2D", "tower_1/conv1/Conv2D"} <= names
    assert {"update/TowerUpdate", "update/cond/Merge"} & names  # With and without operations of the trainer's own.
    devices = {node.device for node in graph.node if node.name == "tower_1/conv1/Conv2D"}
    assert devices == {"/cpu:1"}
    text = tensor_util.make_ndarray(events.Tensors("flags/text_summary")[0].tensor_proto)
    assert b"--num_gpus=2" in text.reshape(-1)[0]
    assert events.summary_metadata["flags/text_summary"].plugin_data.plugin_name == "text"


def test_traces_for_tensorboard_perfetto_and_people(logdir):
    events = load(logdir)
    assert events.Tags()["run_metadata"] == ["step020", "step040"]
    stats = events.RunMetadata("step040").step_stats
    assert {device.device.split("/")[-1] for device in stats.dev_stats} >= {"device:CPU:0", "device:CPU:1"}

    trace = json.loads((logdir / "traces" / "step_40.json").read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert any(event["name"] == "Conv2D" or "Conv2D" in json.dumps(event) for event in spans)
    assert all(event["dur"] >= 0 for event in spans)

    table = (logdir / "traces" / "step_40.top_ops.txt").read_text().splitlines()
    assert table[0].split() == ["us", "share", "calls", "type", "name", "(device)"]
    times = [int(line.split()[0]) for line in table[1:-1]]
    assert times == sorted(times, reverse=True) and 0 < len(times) <= 30
    total = sum(n.op_end_rel_micros - n.op_start_rel_micros for d in stats.dev_stats for n in d.node_stats)
    assert int(table[-1].split()[0]) == total
    assert any("Conv2D" in line for line in table)


def test_a_resumed_run_shows_one_line(digits_dir, tmp_path):
    """The first run goes on after its last checkpoint, as one that is killed does; TensorBoard drops those points."""
    from trainer.console import Console
    from trainer.settings.config import Config, validate
    from trainer.signals import Signals
    from trainer.training import run as training

    settings = {"data_dir": str(digits_dir), "logdir": str(tmp_path / "run"), "summary_every": "2", "eval_every": "0"}
    training.train(validate(Config(**settings, train_steps=20, checkpoint_every="8")), Console(), Signals())
    for path in (tmp_path / "run").glob("model.ckpt-20.*"):
        path.unlink()
    (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-16"\n')
    training.train(validate(Config(**settings, train_steps=30)), Console(), Signals())
    steps = [event.step for event in load(tmp_path / "run").Scalars("loss")]
    assert steps == [1, *range(2, 17, 2), 17, *range(18, 31, 2)]  # The first of each start too.


def test_event_files_are_tfrecords(logdir):
    """The frame of the first record, without TensorFlow: its length and the version event."""
    (path,) = logdir.glob("events.out.tfevents.*")
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert b"brain.Event:2" in data[12 : 12 + length]
