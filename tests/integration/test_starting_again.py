"""A run directory that is started in again: what changed is said, and what has been done stays."""

import itertools
import json
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import read_metrics
from tests.integration.test_resume import weights
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


def files_of(logdir):
    return {name: (logdir / name).read_text() for name in ("flags.txt", "config.json", "data.json", "result.json")}


def test_a_finished_run_stays_as_it_is(train, run_here, digits_dir, tmp_path):
    logdir = train(train_steps=20)
    before = files_of(logdir)
    other = shutil.copytree(digits_dir, tmp_path / "other")
    flags = [f"--data_dir={other}", f"--logdir={logdir}", "--train_steps=20", "--learning_rate=0.5"]
    done = run_here("trainer", *flags)
    assert "changed" not in done.out  # Nothing is trained with it, and nothing remembers it.
    assert done.code == 0 and "already trained to step 20" in done.out, done
    assert files_of(logdir) == before
    assert json.loads(before["result.json"])["images_per_second"]


def test_what_has_changed_is_said_a_line_each(train, run_here, digits_dir):
    logdir = train(train_steps=20)
    flags = [f"--data_dir={digits_dir}", f"--logdir={logdir}", "--train_steps=30", "--learning_rate=0.5", "--seed=3"]
    done = run_here("trainer", *flags, "--decay=constant", "--eval_every=0")
    changes = [line for line in done.out.splitlines() if line.startswith("changed since the last start: ")]
    assert [line.partition("start: ")[2] for line in changes] == [
        "train_steps: 20 -> 30", "learning_rate: 0.001 -> 0.5", "decay: cosine -> constant", "seed: 1 -> 3",
    ], done  # fmt: skip


def test_an_epoch_means_the_same_with_another_batch_size(train, tmp_path):
    """1,258 records: 20 steps of 64 are 1,280; to 3 epochs 2,494 are left, 78 steps of 32; then 13 of 8 are 104."""
    train(train_steps=20)
    result = json.loads((train(epochs=3, batch_size=32) / "result.json").read_text())
    assert result["step"] == 20 + 78 and result["epochs"] == pytest.approx(3, abs=0.02)
    # Started a third time, the history is in the checkpoint.
    result = json.loads((train(epochs=4, batch_size=32) / "result.json").read_text())
    assert result["step"] == 20 + round((4 * 1258 - 1280) / 32) and result["epochs"] == pytest.approx(4, abs=0.02)


def test_the_rate_goes_on_with_its_epochs_where_the_batch_size_changes(train):
    """1,258 records: 40 steps of 64 are 2.03 epochs; with 128 four are full after about step 59, not 39."""
    schedule = {"decay": "piecewise:4epochs=0.0001", "log_every": "1", "eval_every": "0"}
    train(**schedule, train_steps=40)
    rates = read_metrics(train(**schedule, train_steps=70, batch_size=128), "learning_rate")
    last = max(step for step, rate in rates.items() if rate > 0.0005)
    assert last == pytest.approx(40 + (4 * 1258 - 40 * 64) / 128, abs=1.5) and rates[70] == pytest.approx(1e-4)


@pytest.mark.parametrize("how", ["--resume=20", pytest.param("the file", marks=pytest.mark.slow)])
def test_going_back_to_an_earlier_checkpoint(train, run_here, digits_dir, tmp_path, how):
    logdir = train(train_steps=60, checkpoint_every="20")
    flags = [f"--data_dir={digits_dir}", f"--logdir={logdir}", "--train_steps=60", "--eval_every=0"]
    if how == "the file":
        (logdir / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-20"\n')
    done = run_here("trainer", *flags, *([how] if how.startswith("--") else []))
    assert done.code == 0 and "resuming from step 20 (" in done.out, done
    names = "abandoned.model.ckpt-40, abandoned.model.ckpt-60"
    assert f"going back to step 20; the newer checkpoints are kept as {names}" in done.out, done
    first = (logdir / "abandoned.model.ckpt-60.index").read_bytes()
    # What follows is what followed before, and the next start goes on from its end.
    done = run_here("trainer", *flags)
    assert "already trained to step 60" in done.out, done
    # What was put aside before stays when one goes back again.
    done = run_here("trainer", *flags, "--resume=20", "--learning_rate=0.1")
    assert done.code == 0 and "abandoned2.model.ckpt-60" in done.out, done
    assert (logdir / "abandoned2.model.ckpt-60.index").is_file()
    assert (logdir / "abandoned.model.ckpt-60.index").read_bytes() == first


def test_going_back_to_what_is_not_there_is_refused(train, run_here, digits_dir):
    logdir = train(train_steps=20)
    done = run_here("trainer", f"--data_dir={digits_dir}", f"--logdir={logdir}", "--resume=7")
    assert done.code == 2 and "holds no checkpoint of step 7; there are: 20" in done.err, done
    done = run_here("trainer", f"--data_dir={digits_dir}", f"--logdir={logdir}", "--resume=sometimes")
    assert done.code == 2 and "resume=sometimes is out of range: auto, must, never, or a step" in done.err, done


def test_the_best_of_what_was_abandoned_is_put_aside(run_here, digits_dir, tmp_path):
    logdir = tmp_path / "run"
    flags = [f"--data_dir={digits_dir}", f"--logdir={logdir}", "--checkpoint_every=20", "--eval_every=20"]
    assert run_here("trainer", *flags, "--train_steps=60", "--keep_best").code == 0
    step = json.loads((logdir / "best" / "best.json").read_text())["step"]
    assert step > 20
    done = run_here("trainer", *flags, "--train_steps=40", "--keep_best", "--resume=20")
    assert done.code == 0 and f"is kept in {logdir / 'abandoned1.best'}" in done.out, done
    assert json.loads((logdir / "abandoned1.best" / "best.json").read_text())["step"] == step
    assert json.loads((logdir / "best" / "best.json").read_text())["step"] == 40


def test_a_directory_that_cannot_hold_the_run_is_refused_before_anything_is_written(run_here, own_digits_dir, tmp_path):
    done = run_here("trainer", "--resume=must", "--logdir=run", cwd=tmp_path / "own_digits")
    assert done.code == 2 and "holds no checkpoint" in done.err, done
    done = run_here("trainer", f"--logdir={own_digits_dir}", cwd=own_digits_dir)
    assert done.code == 2 and "holds a data set" in done.err, done
    assert all(path.is_file() for path in own_digits_dir.iterdir())


def test_a_checkpoint_of_another_program_is_named_and_left_alone(train, run_here, digits_dir):
    logdir = train(train_steps=20, checkpoint_every="10", keep_checkpoints=1)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("w", [2], initializer=tf.zeros_initializer())
        session.run(tf.global_variables_initializer())
        for step in (5, 500):
            tf.train.Saver().save(session, str(logdir / "model.ckpt"), global_step=step, write_state=False)
    before = {path: path.read_bytes() for path in logdir.glob("model.ckpt-5*")}
    flags = [f"--data_dir={digits_dir}", f"--logdir={logdir}", "--train_steps=30", "--keep_checkpoints=1"]
    done = run_here("trainer", *flags, "--eval_every=0")
    assert done.code == 0 and "resuming from step 20 (" in done.out, done
    for step in (5, 500):
        assert f"model.ckpt-{step} was written by another program" in done.out, done
    assert {path: path.read_bytes() for path in logdir.glob("model.ckpt-5*")} == before


def test_other_shards_of_as_many_records_are_said(train, own_digits_dir, run_here):
    logdir = train(train_steps=10, data_dir=own_digits_dir)
    manifest = json.loads((own_digits_dir / "manifest.json").read_text())
    shards = manifest["splits"]["train"]
    shards[0], shards[1] = shards[1], shards[0]
    (own_digits_dir / "manifest.json").write_text(json.dumps(manifest))
    done = run_here("trainer", f"--data_dir={own_digits_dir}", f"--logdir={logdir}", "--train_steps=12")
    assert "lies in other shards than before, though of as many records" in done.out, done


def test_another_order_of_the_records_is_said(train, digits_dir, run_here, monkeypatch):
    from trainer.inputs import order

    logdir = train(train_steps=10)
    version = order.VERSION
    monkeypatch.setattr(order, "VERSION", version + 1)
    done = run_here("trainer", f"--data_dir={digits_dir}", f"--logdir={logdir}", "--train_steps=12")
    wanted = f"its checkpoint counts records in order {version}, and this version of the trainer reads them in order "
    assert f"{wanted}{version + 1}" in done.out


@pytest.mark.parametrize("averages", ["--ema_decay=0.99", "--ema_decay=0"])
def test_the_best_checkpoint_is_kept_by_the_training_itself(run_here, digits_dir, tmp_path, averages):
    flags = [f"--data_dir={digits_dir}", f"--logdir={tmp_path}", "--train_steps=60", "--eval_every=10", averages]
    done = run_here("trainer", *flags, "--keep_best", "--keep_checkpoints=1", "--checkpoint_every=0")
    assert done.code == 0, done
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["validation_accuracy"] for row in rows if "validation_accuracy" in row}
    assert best["metric"] == "accuracy" and best["value"] == max(scores.values()) == scores[best["step"]]
    assert best["weights"] == ("raw" if averages.endswith("=0") else "ema")
    done = run_here("trainer.evaluate", f"--logdir={tmp_path}", "--checkpoint=best", "--split=validation")
    assert f"step {best['step']}  validation accuracy {best['value']:.2%}" in done.out, done


def test_a_clock_that_was_set_back_does_not_cut_the_curve(train, monkeypatch):
    """Two days back between two starts, read by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logdir = train(train_steps=20, summary_every="2")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 2 * 86400)
    train(train_steps=40, summary_every="2")
    monkeypatch.undo()
    events = EventAccumulator(str(logdir)).Reload().Scalars("loss")
    assert [event.step for event in events] == [1, *range(2, 21, 2), 21, *range(22, 41, 2)]
    assert all(a.wall_time <= b.wall_time for a, b in itertools.pairwise(events))


def test_a_short_run_has_scalars(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logdir = train(train_steps=60)
    assert [event.step for event in EventAccumulator(str(logdir)).Reload().Scalars("loss")] == [1, 60]


@pytest.mark.slow
def test_weights_after_going_back_are_those_of_a_run_that_never_went_on(train, tmp_path):
    once = train(train_steps=30, logdir=tmp_path / "once", checkpoint_every="10", deterministic=True, decay="constant")
    wanted = weights(once)
    twice = train(
        train_steps=20, logdir=tmp_path / "twice", checkpoint_every="10", deterministic=True, decay="constant"
    )
    train(train_steps=30, logdir=twice, resume="10", deterministic=True, decay="constant")
    found = weights(Path(twice))
    assert all((found[name] == value).all() for name, value in wanted.items())
