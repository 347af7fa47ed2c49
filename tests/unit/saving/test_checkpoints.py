"""Checkpoints that are written durably, and damaged ones that are not trusted."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import TrainerError
from trainer.rundir import RunDir
from trainer.saving import checkpoints, progress
from trainer.tf1 import tf


def build():
    tf.train.get_or_create_global_step()
    for name in ("position", "skipped_steps"):
        tf.get_variable(name, [], tf.int64, tf.zeros_initializer(), trainable=False)
    tf.get_variable("stream", initializer=np.array([1, 64, 0, 0, 7]), trainable=False)
    tf.get_variable("weights", [1000])


def save_steps(folder, steps, keep=5):
    rundir = RunDir(folder)
    with tf.Graph().as_default(), tf.Session() as session:
        build()
        session.run(tf.global_variables_initializer())
        step, position = tf.train.get_global_step(), tf.global_variables()[1]
        ops = checkpoints.build_checkpoint_ops()
        for number in steps:
            session.run([step.assign(number), position.assign(number * 64)])
            checkpoints.save(ops, session, rundir, number, keep)
    return rundir


def load(rundir):
    lines = []
    return progress.load_progress(rundir, lines.append), lines


def test_the_newest_are_kept_and_named(tmp_path):
    rundir = save_steps(tmp_path, [10, 20, 30, 40], keep=2)
    assert {path.stem for path in tmp_path.glob("*.index")} == {"model.ckpt-30", "model.ckpt-40"}
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert state.model_checkpoint_path == str(tmp_path / "model.ckpt-40")
    assert list(state.all_model_checkpoint_paths) == [str(tmp_path / f"model.ckpt-{step}") for step in (30, 40)]
    assert load(rundir) == (progress.Progress(str(tmp_path / "model.ckpt-40"), 40, 2560, 0, 1, 64, 0, 0, 7), [])


def test_a_directory_can_be_moved(tmp_path):
    save_steps(tmp_path / "old", [10])
    (tmp_path / "old").rename(tmp_path / "new")
    assert tf.train.latest_checkpoint(str(tmp_path / "new")) == str(tmp_path / "new" / "model.ckpt-10")


def test_a_directory_may_have_a_relative_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/one").mkdir(parents=True)
    save_steps(Path("runs/one"), [10])
    assert tf.train.latest_checkpoint("runs/one") == "runs/one/model.ckpt-10"
    assert tf.train.latest_checkpoint(str(tmp_path / "runs/one")) == str(tmp_path / "runs/one/model.ckpt-10")


def test_plain_saver_restores_them(tmp_path):
    save_steps(tmp_path, [7])
    with tf.Graph().as_default(), tf.Session() as session:
        build()
        tf.train.Saver().restore(session, tf.train.latest_checkpoint(str(tmp_path)))
        assert session.run(tf.train.get_global_step()) == 7


def test_files_are_synced_before_they_are_named_and_old_ones_deleted_after(tmp_path, monkeypatch):
    """Records what each fsync syncs, and what the `checkpoint` file and the directory hold at that moment."""
    log = []
    fsync = os.fsync

    def record(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        state = tf.train.get_checkpoint_state(str(tmp_path))
        log.append((name, state and Path(state.model_checkpoint_path).name, (tmp_path / "model.ckpt-1.index").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    save_steps(tmp_path, [1], keep=1)
    log.clear()
    save_steps(tmp_path, [2], keep=1)
    before = [name for name, named, _ in log if named == "model.ckpt-1"]
    after = [name for name, named, _ in log if named == "model.ckpt-2"]
    files = ["data-00000-of-00001", "index", "meta"]
    assert before == [*(f"model.ckpt-2.{ending}" for ending in files), tmp_path.name]
    assert after == ["checkpoint", tmp_path.name]
    assert all(old_is_there for _, _, old_is_there in log)
    assert not (tmp_path / "model.ckpt-1.index").exists()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("ending", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        lambda path: path.unlink(),
    ],
    ids=["flip", "truncate", "empty", "zeros", "missing"],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, ending, damage):
    rundir = save_steps(tmp_path, [10, 20])
    damage(tmp_path / f"model.ckpt-20.{ending}")
    progress, lines = load(rundir)
    assert (progress.step, progress.position) == (10, 640)
    (line,) = lines
    assert line.startswith(f"checkpoint {tmp_path}/model.ckpt-20 is damaged or unfinished: ")
    assert line.endswith("; going back to step 10")
    # Put aside: a second start is not told again, and a later step 20 is not mixed up with it.
    assert load(rundir) == (progress, [])
    assert list(tmp_path.glob("damaged.model.ckpt-20.*"))


def test_every_byte_of_the_index_is_guarded(tmp_path):
    """A flip anywhere in the index is found, or leaves what is read as it was."""
    rundir = save_steps(tmp_path, [10])
    path = tmp_path / "model.ckpt-10.index"
    good = path.read_bytes()
    for offset in range(len(good)):
        data = bytearray(good)
        data[offset] ^= 0x81
        path.write_bytes(data)
        with contextlib.suppress(TrainerError):
            assert progress.read_progress(str(tmp_path / "model.ckpt-10"))[1:4] == (10, 640, 0), offset
    path.write_bytes(good)
    assert load(rundir)[0].step == 10


def test_without_any_whole_checkpoint_the_run_does_not_begin_at_zero(tmp_path):
    rundir = save_steps(tmp_path, [10, 20])
    for step in (10, 20):
        flip(tmp_path / f"model.ckpt-{step}.data-00000-of-00001")
    with pytest.raises(TrainerError, match=r"no checkpoint can be restored \(.*ckpt-20 .*ckpt-10 .*\); --resume=never"):
        load(rundir)


def test_a_lost_checkpoint_file_does_not_lose_the_run(tmp_path):
    rundir = save_steps(tmp_path, [10, 20])
    (tmp_path / "checkpoint").unlink()
    assert load(rundir)[0].step == 20
    (tmp_path / "checkpoint").write_text("garbage {")
    assert load(rundir)[0].step == 20


def test_no_files_mean_no_checkpoint(tmp_path):
    assert load(RunDir(tmp_path)) == (None, [])
