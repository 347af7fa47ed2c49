"""Several labels a picture, and numbers: trained, judged, exported and predicted; own losses and metrics."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import read_metrics
from trainer import api
from trainer.data.spec import DataError
from trainer.errors import UsageError
from trainer.rundir import RunDir
from trainer.saving.best import load_best

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of 8x8 whose left and right halves are bright or not, with labels and with numbers."""
    from trainer.convert import main

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    rows = {"several": ["path,label,split"], "numbers": ["path,target:left,target:right,split"]}
    for number in range(400):
        left, right = rng.integers(0, 256, 2)
        pixels = np.zeros((8, 8), np.uint8)
        pixels[:, :4], pixels[:, 4:] = left, right
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = ("train", "train", "validation", "test")[number % 4]
        labels = ";".join(name for name, value in (("left", left), ("right", right)) if value > 127)
        rows["several"].append(f"{number}.png,{labels or ';'},{split}")
        rows["numbers"].append(f"{number}.png,{left / 255:.6f},{right / 255:.6f},{split}")
    for kind, lines in rows.items():
        (folder / f"{kind}.csv").write_text("\n".join(lines) + "\n")
        source = ["convert", f"--source={folder / kind}.csv", f"--data_dir={folder / kind}", "--store=decoded"]
        assert main(source) == 0
    return folder


def run(data, tmp_path, kind, **settings):
    return api.train(
        **{
            "data_dir": data / kind, "logdir": tmp_path / "run", "model": "mlp", "epochs": 60.0, "batch_size": 20,
            "model_args": ["hidden_sizes=16, dropout=0"], "learning_rate": 0.02, "quiet": True, **settings,
        }
    )  # fmt: skip


def test_several_labels_are_learned(data, tmp_path, run_here):
    result = run(data, tmp_path, "several", num_gpus=2)
    assert result.goal == "mean_average_precision" and result.test["mean_average_precision"] > 0.98
    assert result.test["precision"] > 0.9 and result.test["recall"] > 0.9
    evaluated = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}", "--json")
    found = json.loads(evaluated.out.splitlines()[-1])
    assert {name: found[name] for name in result.test} == pytest.approx(result.test)
    check_predictions(data, tmp_path, run_here, lambda row: [float(row["left"]) > 0.5, float(row["right"]) > 0.5])


def test_numbers_are_learned(data, tmp_path, run_here):
    result = run(data, tmp_path, "numbers", loss="huber", loss_args="delta=0.5")
    assert result.goal == "mean_absolute_error" and result.test["mean_absolute_error"] < 0.05
    assert result.test["r2"] > 0.95 and result.best_validation == min(
        read_metrics(tmp_path / "run", f"validation_{result.goal}").values()
    )
    shown = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}")
    assert "test mean_absolute_error 0.0" in shown.out and "r2 0.9" in shown.out, shown
    check_predictions(data, tmp_path, run_here, lambda row: [float(row["left"]), float(row["right"])])


def check_predictions(data, tmp_path, run_here, read):
    """By the run, a SavedModel and a frozen graph the same, and right."""
    values = {"left": 230, "right": 20}
    pixels = np.repeat(np.array([[values["left"]] * 4 + [values["right"]] * 4], np.uint8), 8, 0)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    rows = []
    for kind in ("", "saved_model", "frozen"):
        model = tmp_path / "run"
        if kind:
            model = tmp_path / f"exported_{kind}"
            done = run_here("trainer.export", f"--logdir={tmp_path / 'run'}", f"--format={kind}", f"--output={model}")
            assert done.code == 0, done
        found = run_here("trainer.predict", f"--model={model}", "--csv", str(tmp_path / "one.png"))
        (row,) = csv.DictReader(io.StringIO(found.out))
        rows.append(read(row))
    np.testing.assert_allclose(rows[0], [1, 0] if isinstance(rows[0][0], bool) else [0.9, 0.08], atol=0.1)
    np.testing.assert_allclose(rows[1:], [rows[0]] * 2, atol=1e-4)


OWN = """
import tensorflow.compat.v1 as tf

def loss(outputs, targets, under=4.0):
    cost = tf.where(tf.greater(outputs, targets), outputs - targets, under * (targets - outputs))
    return tf.reduce_mean(cost, 1)

def metrics(outputs, targets):
    return {"too_small": tf.reduce_mean(tf.cast(outputs < targets, tf.float32), 1)}

def wide(outputs, targets):
    return {"error": outputs - targets}

def squared(outputs, targets):
    return {"squared": 0.0 * outputs[:, 0], "count": 0.0 * outputs[:, 0] + 2}

def step(outputs, targets):
    return {"step": outputs[:, 0]}

def nan(outputs, targets):
    return {"odd": outputs[:, 0] / 0.0 * 0.0}

def labels_first(labels, logits):
    return tf.reduce_mean(logits - labels, 1)

def mean(outputs, targets):
    return tf.reduce_mean(tf.abs(outputs - targets))
"""


def test_own_losses_and_metrics_decide_what_is_best(data, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    own = {"loss": "own.py", "metrics": "own.py", "best": "too_small:min", "keep_best": True}
    costly = run(data, tmp_path, "numbers", **own, loss_args="under=9.0")
    even = run(data, tmp_path, "numbers", **own, loss_args="under=1.0", logdir=tmp_path / "even")
    assert costly.goal == "too_small" and costly.test["too_small"] < even.test["too_small"]
    assert load_best(RunDir(tmp_path / "run")).value == costly.best_validation
    with pytest.raises(UsageError, match=r"wide: error has shape \(3, 2\); wanted a value of each example"):
        run(data, tmp_path, "numbers", metrics="own.py:wide", logdir=tmp_path / "other")
    with pytest.raises(UsageError, match=r"best=to_small is unknown.*did you mean too_small"):
        run(data, tmp_path, "numbers", **own | {"best": "to_small:min"}, logdir=tmp_path / "other")
    for name, message in (
        ("step", "reports have something else|stands for something else"),
        ("nan", "the metric odd is nan"),
    ):
        with pytest.raises(UsageError, match=message):
            run(data, tmp_path, "numbers", metrics=f"own.py:{name}", logdir=tmp_path / "other", resume="never")
    with pytest.raises(UsageError, match="labels first; wanted logits, labels"):
        run(data, tmp_path, "numbers", loss="own.py:labels_first", logdir=tmp_path / "other")
    with pytest.raises(UsageError, match="returned a mean"):
        run(
            data,
            tmp_path,
            "numbers",
            loss="own.py:mean",
            preprocess="float|mixup(0.4)",
            logdir=tmp_path / "other",
            resume="never",
        )
    # Names of its own do not touch what is summed for others.
    named = run(data, tmp_path, "numbers", metrics="own.py:squared", logdir=tmp_path / "named", epochs=5.0)
    plain = run(data, tmp_path, "numbers", logdir=tmp_path / "plain", epochs=5.0)
    assert named.test["count"] == 2 and {name: named.test[name] for name in plain.test} == pytest.approx(plain.test)
    with pytest.raises(UsageError, match="best=r2 is no goal; write METRIC:max or METRIC:min"):
        run(data, tmp_path, "numbers", best="r2", logdir=tmp_path / "other")


def test_a_training_ends_where_nothing_gets_better(data, tmp_path):
    """The rate is nearly nothing: the first evaluation stays the best."""
    settings = {"learning_rate": 1e-20, "eval_every": "10", "ema_decay": 0.0, "stop_after": 3, "epochs": 100.0}
    result = run(data, tmp_path, "numbers", **settings)
    assert result.step == 40 and result.best_step == 10 and result.status == "done"
    assert (
        "3 evaluations without a better mean_absolute_error than that of step 10"
        in (tmp_path / "run/train.log").read_text()
    )


def test_a_loss_for_other_labels_is_refused_at_the_start(data, tmp_path):
    with pytest.raises(UsageError, match="--loss=softmax is for labels of kind class, and these are of kind several"):
        run(data, tmp_path, "several", loss="softmax")
    assert not (tmp_path / "run").exists()


def test_labels_may_count_a_class_that_is_none(train, run_here, tmp_path):
    """A class `background` more, as weights of 1,001 classes have it, and one less again."""
    settings = {"epochs": 5.0, "model": "mlp", "labels_offset": -1, "quiet": True}
    logdir = train(**settings)
    evaluated = run_here("trainer.evaluate", f"--logdir={logdir}", "--json")
    found = json.loads(evaluated.out.splitlines()[-1])
    assert (
        found["accuracy"] > 0.8
        and found["accuracy"] == json.loads((logdir / "result.json").read_text())["test_accuracy"]
    )
    names = json.loads((logdir / "data.json").read_text())["class_names"]
    assert names == ["background", *map(str, range(10))]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    predicted = run_here("trainer.predict", f"--model={logdir}", "--csv", str(tmp_path / "one.png"))
    assert "background" in predicted.out.splitlines()[0]


def test_labels_may_begin_at_one(tmp_path):
    from trainer.convert import main

    rng = np.random.default_rng(1)
    labels = rng.integers(1, 3, 200)
    images = (labels * 100)[:, None, None].astype(np.uint8) + rng.integers(0, 9, (200, 8, 8), np.uint8)
    np.savez(tmp_path / "one.npz", x_train=images, y_train=labels)
    assert main(["convert", f"--source={tmp_path / 'one.npz'}", f"--data_dir={tmp_path / 'data'}"]) == 0
    result = api.train(
        data_dir=tmp_path / "data", logdir=tmp_path / "run", model="mlp", labels_offset=1, epochs=20, quiet=True,
        batch_size=20,
        learning_rate=0.02,
        model_args=["hidden_sizes=16, dropout=0"],
    )  # fmt: skip
    assert result.test["accuracy"] == 1
    spec = json.loads((tmp_path / "run" / "data.json").read_text())
    assert spec["class_names"] == ["1", "2"] and spec["fields"]["label_offset"] == 1


def test_a_class_that_is_left_out_and_has_pictures_is_an_error(train):
    with pytest.raises(DataError, match=r"label -1 is out of range 0\.\.8"):
        train(epochs=1.0, labels_offset=1)


def test_numbers_have_no_offset(data, tmp_path):
    with pytest.raises(DataError, match="is for data with one class a picture"):
        run(data, tmp_path, "numbers", labels_offset=1)
