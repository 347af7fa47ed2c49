"""k steps + stop + resume = an uninterrupted run: the same losses and the same weights, bit for bit."""

import collections
import json

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.fuzz import EXAMPLES, write_small_set
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(300)


def weights(logdir):
    reader = tf.train.NewCheckpointReader(tf.train.latest_checkpoint(str(logdir)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


SOURCES = ["queue", *(pytest.param(name, marks=pytest.mark.slow) for name in ("preloaded", "feed"))]
SLOW = [("queue", 4), ("feed", 4)]


@pytest.mark.parametrize(
    ("source", "towers"),
    [
        ("queue", 1),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW),
        *(
            pytest.param(source, towers, marks=pytest.mark.soak)
            for source in ("queue", "preloaded", "feed")
            for towers in (1, 2, 4)
            if (source, towers) not in [("queue", 1), *SLOW]
        ),
    ],
)
def test_stopped_and_resumed_runs_end_as_one_that_was_never_stopped(train, tmp_path, source, towers):
    """With dropout, augmentation, averages, a moving rate; stops within an epoch and around its edge, 19.66 steps."""
    settings = {
        "input": source, "num_gpus": towers, **READERS[source], "log_every": "1", "optimizer": "adam",
        "decay": "exponential:0.9:7", "warmup": "5", "clip": "global_norm:1", "weight_decay": 1e-4,
        "preprocess": "translate(1)|rotate(10)|contrast(0.5..1.5)|mixup(0.4)",
    }  # fmt: skip
    whole = train(**settings, train_steps=45, logdir=str(tmp_path / "whole"))
    parts = tmp_path / "parts"
    for last in (7, 19, 20, 45):
        train(**settings, train_steps=last, logdir=str(parts))
    for name in ("loss", "learning_rate"):
        assert read_metrics(parts, name) == read_metrics(whole, name)
    found, wanted = weights(parts), weights(whole)
    assert found.keys() == wanted.keys() and wanted["position"] == 45 * 64
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


READERS = {"queue": {"queue_readers": 3}, "preloaded": {}, "feed": {}}


class CrashError(Exception):
    pass


@pytest.fixture
def census(monkeypatch):
    """Records the images of each step, by the step, and crashes after those that it is told."""
    from trainer.training import chief, graphs

    seen, crashes, sources = {}, set(), []
    build_input, run_steps = graphs.build_input, chief.run_steps

    def remember_input(*args):
        sources.append(build_input(*args))
        return sources[-1]

    class Census(tf.train.SessionRunHook):
        def __init__(self, step):
            self.step = step

        def before_run(self, run_context):
            return tf.train.SessionRunArgs(sources[-1].batch["image"])

        def after_run(self, run_context, run_values):
            self.step += 1
            seen[self.step] = run_values.results[:, 0, 0, 0].tolist()
            if self.step in crashes:
                crashes.discard(self.step)
                raise CrashError

    def run_with_census(session, graph, hooks, state, limits, **rest):
        run_steps(session, graph, [*hooks, Census(state.step)], state, limits, **rest)

    monkeypatch.setattr(graphs, "build_input", remember_input)
    monkeypatch.setattr(chief, "run_steps", run_with_census)
    return seen, crashes


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("towers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_each_epoch_reads_each_record_once_over_stops_and_crashes(train, tmp_path, census, monkeypatch, source, towers):
    """Without --deterministic; 36 records that hold their number, batches of 8: an epoch has 4.5 steps."""
    from trainer.training import chief

    seen, crashes = census
    # A crash leaves no time to save: only the checkpoints of every third step are there.
    monkeypatch.setattr(chief, "_save_before_error", lambda *_: None)
    crashes |= {5, 11, 13}
    settings = {
        "data_dir": str(write_small_set(tmp_path / "small")), "model": "mlp", "batch_size": 8, "num_gpus": towers,
        "input": source, **READERS[source], "checkpoint_every": "3",
    }  # fmt: skip
    for last in (4, 27, 27, 27, 27):
        try:
            train(**settings, train_steps=last)
        except CrashError:
            continue
    assert not crashes and sorted(seen) == list(range(1, 28))
    stream = [number for step in sorted(seen) for number in seen[step]]
    assert len(stream) == 6 * EXAMPLES
    for epoch in range(6):
        counts = collections.Counter(stream[epoch * EXAMPLES : (epoch + 1) * EXAMPLES])
        assert counts == dict.fromkeys(range(EXAMPLES), 1)


def test_the_best_validation_accuracy_comes_back(train, tmp_path):
    settings = {"eval_every": "10", "learning_rate": 0.003}
    whole = json.loads((train(**settings, train_steps=60, logdir=str(tmp_path / "whole")) / "result.json").read_text())
    for last in (20, 35, 60):
        parts = train(**settings, train_steps=last)
    found = json.loads((parts / "result.json").read_text())
    accuracies = read_metrics(parts, "validation_accuracy")
    best = max(accuracies.values())
    assert found["best_validation_accuracy"] == best and accuracies[found["best_step"]] == best
    assert whole["best_step"] in read_metrics(tmp_path / "whole", "validation_accuracy")
    # A run that goes on and only gets worse keeps the best of before.
    train(**{**settings, "learning_rate": 1.0}, decay="constant", optimizer="adam", train_steps=80)
    worse = json.loads((parts / "result.json").read_text())
    assert worse["best_validation_accuracy"] == best and worse["validation_accuracy"] < best


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_lenet_on_mnist_stopped_twice_ends_with_the_same_weights(program, run_program, mnist_dir, tmp_path):
    """The recipe with --deterministic, shortened to two epochs; stopped by SIGTERM wherever it then is."""
    import signal
    import time

    args = ["--flagfile=configs/mnist_lenet.flags", "--deterministic", f"--data_dir={mnist_dir}", "--epochs=2"]
    assert run_program("trainer", *args, f"--logdir={tmp_path / 'whole'}", timeout=1800).code == 0
    stops = []
    for seconds in (9, 14):
        process = program("trainer", *args, f"--logdir={tmp_path / 'parts'}", "--log_every=1")
        for line in process.stdout:
            if line.startswith("step "):
                break
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        stops.append(json.loads((tmp_path / "parts" / "result.json").read_text())["step"])
    assert run_program("trainer", *args, f"--logdir={tmp_path / 'parts'}", timeout=1800).code == 0
    found, wanted = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert 0 < stops[0] < stops[1] < wanted["global_step"]
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    print(f"stopped after steps {stops} of {wanted['global_step']}: {len(wanted)} tensors equal, bit for bit")
