"""Paths as users write them, file systems as they find them."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def short(digits_dir):
    return [f"--data_dir={digits_dir}", "--train_steps=3", "--eval_every=0"]


@pytest.mark.parametrize(
    ("program", "flag"),
    [
        ("trainer", "--logdir=gs://bucket/run"),
        ("trainer", "--logdir=hdfs://host/run"),
        ("trainer", "--data_dir=s3://bucket/data"),
        ("trainer", "--warm_start=gs://bucket/model.ckpt-1"),
        ("trainer.convert", "--source_dir=https://host/data"),
        ("trainer.evaluate", "--logdir=gs://bucket/run"),
        ("trainer.export", "--output=gs://bucket/model"),
        ("trainer.predict", "--model=gs://bucket/model"),
        ("trainer.benchmark", "--json=gs://bucket/figures.json"),
    ],
)
def test_addresses_are_refused_before_anything_is_written(run_here, tmp_path, program, flag):
    done = run_here(program, flag, cwd=tmp_path)
    assert done.code == 2 and "is no path of this machine" in done.err and "mount" in done.err, done
    assert list(tmp_path.iterdir()) == []


def test_the_home_directory_is_where_a_tilde_says(run_here, tmp_path, monkeypatch, short):
    """A shell does not expand it behind `--logdir=`, nor does a flag file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.flags").write_text("--logdir=~/from_file\n")
    assert run_here("trainer", *short, "--logdir=~/run", cwd=tmp_path).code == 0
    assert run_here("trainer", *short, "--flagfile=~/my.flags", cwd=tmp_path).code == 0
    assert (tmp_path / "run" / "result.json").is_file() and (tmp_path / "from_file" / "result.json").is_file()
    assert not (tmp_path / "~").exists()
    assert run_here("trainer.evaluate", "--logdir=~/run", cwd=tmp_path).code == 0


def test_a_name_that_is_too_long_is_one_line(run_here, tmp_path, short):
    done = run_here("trainer", *short, f"--logdir={'a' * 300}", cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1 and "too long for a file system" in done.err, done
    done = run_here("trainer", *short, f"--logdir={'/'.join(['a' * 100] * 50)}", cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1 and "too long for a file system" in done.err, done


@pytest.mark.slow
def test_a_name_that_is_no_utf8_works(tmp_path):
    def run_program(module, *args):
        command = [sys.executable, "-m", module, *args]
        return subprocess.run(command, env=environment(), capture_output=True, timeout=100)

    folder = tmp_path / os.fsdecode(b"caf\xe9")
    flags = [f"--logdir={folder / 'run'}", f"--data_dir={folder / 'data'}", "--dataset=digits", "--eval_every=0"]
    for steps in (5, 10):
        done = run_program("trainer", *flags, f"--train_steps={steps}")
        assert done.returncode == 0, done
    assert os.fsencode(folder) in (folder / "run" / "flags.txt").read_bytes()
    assert json.loads((folder / "run" / "result.json").read_text())["step"] == 10
    done = run_program("trainer.evaluate", f"--logdir={folder / 'run'}")
    assert done.returncode == 0 and b"step 10  test accuracy" in done.stdout, done
    done = run_program("trainer.export", f"--logdir={folder / 'run'}", "--format=frozen")
    assert done.returncode == 0 and (folder / "run" / "export" / "frozen.pb").is_file(), done


def test_names_of_files_are_printed_as_they_are(train, run_here, tmp_path):
    """`:dog:` is no picture of a dog."""
    from PIL import Image

    logdir = train(train_steps=3)
    picture = tmp_path / "a:dog:.png"
    Image.new("L", (8, 8)).save(picture)
    done = run_here("trainer.predict", f"--model={logdir}", str(picture))
    assert done.code == 0 and done.out.startswith(f"{picture}  "), done
    # The directory stands for all that is in it.
    done = run_here("trainer.predict", f"--model={logdir}", str(tmp_path))
    assert f"{picture}  " in done.out, done


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_and_the_run_goes_on(run_here, tmp_path, short, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    done = run_here("trainer", *short, f"--logdir={tmp_path / 'run'}")
    assert done.code == 0 and done.out.count("this file system has no locks") == 1, done


@pytest.mark.slow
def test_a_file_system_that_cannot_sync_directories_is_said_once_and_keeps_all_checkpoints(
    run_program, tmp_path, digits_dir
):
    script = tmp_path / "planted.py"
    script.write_text(
        "import errno, os, stat\n"
        "real = os.fsync\n"
        "def fsync(descriptor):\n"
        "    if stat.S_ISDIR(os.fstat(descriptor).st_mode):\n"
        "        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))\n"
        "    return real(descriptor)\n"
        "os.fsync = fsync\n"
        "from trainer import evaluate, train\n"
        "raise SystemExit(train.main(follow=evaluate.run))\n"
    )
    flags = [f"--data_dir={digits_dir}", "--train_steps=9", "--checkpoint_every=3", "--eval_every=0"]
    command = [sys.executable, script, f"--logdir={tmp_path / 'run'}", *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done
    assert done.stdout.count("this file system cannot sync a directory") == 1, done
    assert sorted(path.stem for path in (tmp_path / "run").glob("*.index")) == [f"model.ckpt-{n}" for n in (3, 6, 9)]


@pytest.mark.slow
def test_no_temporary_directory_is_needed_and_a_place_that_cannot_be_written_is_named(digits_dir, tmp_path):
    code = "import tempfile, sys\ntempfile._candidate_tempdir_list = lambda: []\n"
    code += "from trainer import evaluate, train\nsys.exit(train.main(follow=evaluate.run))\n"
    flags = [f"--data_dir={digits_dir}", "--train_steps=3", "--eval_every=0"]
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(
        [*command, f"--logdir={tmp_path / 'run'}"], env=environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done
    if Path("/proc").is_dir():  # Nothing can be made there, whoever one is.
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100, cwd="/proc")
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done


@pytest.mark.slow
def test_the_umask_decides_who_reads_data_and_exports_and_runs_are_the_owners(run_program, tmp_path):
    old = os.umask(0o022)
    try:
        for group, mode in (("", 0o600), ("--group_readable", 0o640)):
            data, logdir = tmp_path / f"data{group}", tmp_path / f"run{group}"
            flags = [f"--logdir={logdir}", f"--data_dir={data}", "--dataset=digits", *([group] if group else [])]
            assert run_program("trainer", *flags, "--train_steps=3", "--eval_every=0", "--trace_every=2").code == 0
            modes = {stat.S_IMODE(path.stat().st_mode) for path in logdir.rglob("*") if path.is_file()}
            assert modes == {mode}, group
            folders = [logdir, *(path for path in logdir.rglob("*") if path.is_dir())]
            assert logdir / "traces" in folders
            assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o750 if group else 0o700}
            assert {stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()} == {0o644}
            assert stat.S_IMODE(data.stat().st_mode) == 0o755
        output = tmp_path / "export"
        assert run_program("trainer.export", f"--logdir={logdir}", f"--output={output}").code == 0
        assert {stat.S_IMODE(path.stat().st_mode) & 0o444 for path in output.rglob("*")} == {0o444}
    finally:
        os.umask(old)


def test_gzip_is_named_where_it_is_not_expected(run_here, own_digits_dir, tmp_path):
    import gzip

    shard = next(own_digits_dir.glob("train-*"))
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    done = run_here("trainer", f"--data_dir={own_digits_dir}", f"--logdir={tmp_path / 'run'}", "--train_steps=3")
    assert done.code == 1 and "is compressed by gzip: unpack it" in done.err, done


def test_a_refused_start_leaves_no_directory(run_here, tmp_path, short):
    done = run_here("trainer", *short, f"--logdir={tmp_path / 'run'}", "--trainable_scopes=conv9")
    assert done.code == 2 and "conv9 holds no variable" in done.err, done
    assert not (tmp_path / "run").exists()


def test_the_hint_for_tensorboard_can_be_typed(run_here, tmp_path, short):
    done = run_here("trainer", *short, f"--logdir={tmp_path / 'my run'}")
    assert f"tensorboard --logdir='{tmp_path / 'my run'}'" in done.out, done


def test_convert_says_that_a_source_was_not_looked_at(run_here, digits_dir):
    done = run_here("trainer.convert", "--dataset=digits", f"--data_dir={digits_dir}", "--source_dir=elsewhere")
    assert done.code == 0 and "nothing to do; --source_dir=elsewhere was not looked at" in done.out, done


def test_a_float16_checkpoint_is_cast_and_said(train, run_here, tmp_path, digits_dir):
    import numpy as np

    from trainer.saving.tensors import load_tensors, save_tensors

    logdir = train(train_steps=20, model="mlp", model_args=("hidden_sizes=8",))
    half = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value
        for name, value in load_tensors(tf.train.latest_checkpoint(str(logdir))).items()
    }
    save_tensors(half, str(tmp_path / "half" / "model.ckpt-20"))
    flags = [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'warm'}", "--model=mlp", "--model_args=hidden_sizes=8"]
    flags += ["--train_steps=1", "--learning_rate=1e-30", f"--warm_start={tmp_path / 'half'}"]
    done = run_here("trainer", *flags)
    assert done.code == 0 and "cast      hidden1/weights from hidden1/weights, which has another type" in done.out, done
    found = load_tensors(str(tmp_path / "warm" / "model.ckpt-1"))
    np.testing.assert_array_equal(found["hidden1/weights"], half["hidden1/weights"].astype(np.float32))


@pytest.mark.parametrize("kind", ["moved", "state file", "one .ckpt", "h5", "text", "empty"])
def test_a_checkpoint_is_found_by_what_names_it_or_what_lies_there_is_named(run_here, tmp_path, kind):
    folder = tmp_path / "old"
    folder.mkdir()
    wanted = folder
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("w", [2], initializer=tf.ones_initializer())
        session.run(tf.global_variables_initializer())
        if kind in ("moved", "state file"):
            tf.train.Saver().save(session, str(folder / "other.ckpt"), global_step=7)
        elif kind == "one .ckpt":
            tf.train.Saver(write_version=tf.train.SaverDef.V1).save(
                session, str(folder / "net.ckpt"), write_state=False
            )
    if kind == "moved":
        wanted = folder.rename(tmp_path / "new")
    elif kind == "state file":
        wanted = folder / "checkpoint"
    elif kind == "h5":
        wanted = folder / "weights.h5"
        wanted.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    elif kind == "text":
        wanted = folder / "notes.txt"
        wanted.write_text("no checkpoint\n")
    done = run_here("trainer.checkpoint", "show", str(wanted))
    if kind == "text":
        assert done.code == 2 and "notes.txt is no checkpoint; wanted a checkpoint of TensorFlow" in done.err, done
    elif kind == "h5":
        assert done.code == 2 and "is an HDF5 file, as Keras writes it; wanted a checkpoint" in done.err, done
        done = run_here("trainer.checkpoint", "show", str(folder))
        assert done.code == 2 and f"in {folder} there are weights.h5" in done.err, done
    elif kind == "empty":
        assert done.code == 2 and f"holds no checkpoint; {folder} is empty" in done.err, done
    else:
        assert done.code == 0 and "w" in done.out, done
