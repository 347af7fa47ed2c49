"""The programs as a user runs them: processes, exit codes, and the one line of an error."""

import json
import os
import shutil
import signal
import time

import pytest

from tests.conftest import read_metrics

pytestmark = pytest.mark.timeout(120)


def one_error_line(finished):
    """Checks that a failed program wrote one line and no traceback to standard error; returns it."""
    lines = finished.err.strip().splitlines()
    assert lines and lines[0].startswith("error: ") and "Traceback" not in finished.err, finished
    return finished.err


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_first_command_of_the_readme(run_program, tmp_path):
    """From an empty directory: two towers on the embedded digits to 97.5%, in under 60 s with start-up and all."""
    start = time.monotonic()
    done = run_program("trainer", "--num_gpus", "2", cwd=tmp_path)
    seconds = time.monotonic() - start
    assert done.code == 0, done
    logdir = tmp_path / "runs" / "digits_lenet"
    result = json.loads((logdir / "result.json").read_text())
    assert result["test_accuracy"] >= 0.975 and result["status"] == "done" and len(result["devices"]) == 2
    assert seconds < 60
    assert "training on 2 virtual CPU devices" in done.out or "/gpu:1" in result["devices"]
    assert "compute-bound: the input queue was" in done.out or "input-bound: the input queue was" in done.out
    assert "step 100/1179  loss " in done.out and "images/s" in done.out
    assert done.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "runs"]

    again = run_program("trainer", "--num_gpus", "2", cwd=tmp_path)
    assert again.code == 0 and "already trained to step 1179" in again.out


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_is_interrupted_saves_and_goes_on(program, run_here, digits_dir, tmp_path, number):
    name = number.name
    logdir = tmp_path / "run"
    args = [
        f"--data_dir={digits_dir}",
        f"--logdir={logdir}",
        "--train_steps=1000000",
        "--log_every=10",
        "--decay=constant",
        "--eval_every=0",
    ]
    process = program("trainer", *args)
    for line in process.stdout:
        if line.startswith("step 50/"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    result = json.loads((logdir / "result.json").read_text())
    step = result["step"]
    assert step >= 50 and result["status"] == f"stopped by {name}"
    assert f"stopped by {name} after step {step}; the same command goes on from there" in out
    assert (logdir / f"model.ckpt-{step}.index").exists()

    again = run_here("trainer", *args, f"--train_steps={step + 7}", "--log_every=1")
    assert again.code == 0 and f"resuming from step {step}" in again.out
    assert list(read_metrics(logdir, "loss"))[-7:] == list(range(step + 1, step + 8))


def test_sigusr1_saves_and_goes_on(program, digits_dir, tmp_path):
    args = [f"--data_dir={digits_dir}", f"--logdir={tmp_path}", "--train_steps=1000000", "--eval_every=0"]
    process = program("trainer", *args, "--log_every=10")
    saved = []
    for line in process.stdout:
        if line.startswith("step 50/"):
            process.send_signal(signal.SIGUSR1)
        saved = [path.stem for path in tmp_path.glob("*.index")]
        if saved and (tmp_path / "checkpoint").exists():
            break
    assert process.poll() is None
    steps = [line for line, _ in zip(process.stdout, range(3), strict=False)]
    assert len(steps) == 3 and int(saved[0].removeprefix("model.ckpt-")) >= 50
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(program, mnist_dir, tmp_path):
    """In a step of 20 seconds and more (4 TFLOP), while --grace_seconds=25 would let it go on.

    The bound tells the two apart on a loaded machine too, where the system alone takes seconds to end a process.
    """
    args = [f"--data_dir={mnist_dir}", f"--logdir={tmp_path}", "--dataset=mnist", "--eval_every=0", "--log_every=0"]
    large = ["--model=mlp", "--model_args=hidden_sizes=(4096, 4096, 4096)", "--batch_size=20000", "--queue_capacity=2"]
    process = program("trainer", *args, *large)
    while not (tmp_path / "config.json").exists():  # It is written when the first step is about to begin.
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_a_second_run_in_one_directory_is_refused(program, run_here, digits_dir, tmp_path):
    args = [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}", "--train_steps=1000000", "--eval_every=0"]
    process = program("trainer", *args)
    for line in process.stdout:
        if line.startswith("step 100/"):
            break
    for more in ([], ["--resume=never"]):
        done = run_here("trainer", *args, *more)
        assert done.code == 1 and f"is in use by process {process.pid} on " in one_error_line(done)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # The lock has gone with the process.
    assert run_here("trainer", *args, "--train_steps=3").code == 0


def test_weights_that_are_not_finite_are_never_saved(run_here, digits_dir, tmp_path):
    """The loss of the first step is still finite; its update is not."""
    args = [f"--data_dir={digits_dir}", "--optimizer=sgd", "--learning_rate=1e30", "--train_steps=1"]
    done = run_here("trainer", *args, f"--logdir={tmp_path / 'run'}", "--weight_decay=1e30")
    assert done.code == 3 and "step 1: a weight is NaN or infinite" in one_error_line(done)
    assert not list((tmp_path / "run").glob("model.ckpt*"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "not finite"


def test_a_reader_that_goes_away_does_not_end_the_run(digits_dir, tmp_path):
    """`python -m trainer | head -2`: the log has what the pipe has not."""
    import subprocess
    import sys

    from tests.conftest import environment

    command = (
        f"{sys.executable} -m trainer --data_dir={digits_dir} --logdir={tmp_path} --train_steps=300 --log_every=10"
    )
    shell = f"set -o pipefail; {command} | head -2"
    done = subprocess.run(["bash", "-c", shell], env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout.splitlines()) == 2, done
    assert "step 300/300" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epochs=1e300"], "epochs=1e+300 is out of range"),
        (["--train_steps=99999999999999999999999"], "is out of range"),
        (["--queue_capacity=1000000000000"], "queue_capacity=1000000000000 is out of range: 1 to 1,000,000"),
        (["--eval_every=" + "9" * 400], "is out of range"),
        (["--learning_rate=1e300"], "learning_rate=1e+300 is out of range"),
        (["--modle=mlp"], "--modle is no flag; did you mean --model?"),
        (["--batch_size=100", "--num_gpus=3"], "batch_size=100 does not split over 3 towers; use 99 or 102"),
        (["--train_steps=5", "--epochs=2"], "--train_steps and --epochs conflict"),
        (["train"], "unexpected argument 'train'"),
        (["--task_index=1"], "--task_index=1 is of a cluster: give --job_name and --worker_hosts too"),
        (["--flagfile=/proc/self/exe"], "--flagfile: the file is no text"),
        (["--flagfile=/proc"], "--flagfile=/proc is a directory"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(run_here, tmp_path, args, message):
    done = run_here("trainer", *args, cwd=tmp_path)
    assert done.code == 2 and message in one_error_line(done)
    assert list(tmp_path.iterdir()) == []


def test_missing_data_names_the_command_that_makes_it(run_here, tmp_path):
    done = run_here("trainer", "--dataset=mnist", cwd=tmp_path)
    assert done.code == 1
    assert "python -m trainer.convert --dataset=mnist --data_dir=data/mnist" in one_error_line(done)
    assert not (tmp_path / "runs").exists()


def test_a_batch_larger_than_the_set_is_refused(run_here, digits_dir, tmp_path):
    done = run_here("trainer", f"--data_dir={digits_dir}", "--batch_size=2000", cwd=tmp_path)
    assert done.code == 2
    assert "batch_size=2000 is larger than the training set of 1,258 examples" in one_error_line(done)
    assert list(tmp_path.iterdir()) == []


def test_data_of_another_set_is_refused(run_here, digits_dir, tmp_path):
    done = run_here("trainer", "--dataset=mnist", f"--data_dir={digits_dir}", cwd=tmp_path)
    assert done.code == 2 and "holds digits, not --dataset=mnist" in one_error_line(done)


def test_a_corrupt_record_is_named_by_shard_and_record(run_here, own_digits_dir, tmp_path):
    shard = own_digits_dir / "train-00003-of-00010.tfrecords"
    data = bytearray(shard.read_bytes())
    data[167 * 11 + 50] ^= 1
    shard.write_bytes(data)
    done = run_here("trainer", f"--data_dir={own_digits_dir}", cwd=tmp_path)
    assert done.code == 1
    assert f"{shard}: record 11 at byte {167 * 11} is damaged" in one_error_line(done)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("source", ["queue", "preloaded", "feed"])
def test_a_record_that_breaks_during_the_run_is_named_too(run_here, own_digits_dir, tmp_path, monkeypatch, source):
    """The checksums of the manifest are made to agree: only the reader can see the damage."""
    from trainer.data.manifest import load_manifest, sha256_of

    shard = own_digits_dir / "train-00003-of-00010.tfrecords"
    data = bytearray(shard.read_bytes())
    data[167 * 11 + 50] ^= 1
    shard.write_bytes(data)
    found = load_manifest(own_digits_dir)
    path = own_digits_dir / "manifest.json"
    path.write_text(path.read_text().replace(found.splits["train"][3].sha256, sha256_of(shard)))
    done = run_here("trainer", f"--data_dir={own_digits_dir}", f"--input={source}", cwd=tmp_path)
    assert done.code == 1
    assert f"{shard}: record 11 at byte {167 * 11} is damaged" in one_error_line(done)


def test_corrupt_records_are_skipped_where_that_is_allowed(run_here, own_digits_dir, tmp_path):
    from trainer.data.manifest import load_manifest

    manifest = load_manifest(own_digits_dir)
    for split, record in (("train", 3), ("train", 7), ("test", 1)):
        shard = own_digits_dir / manifest.splits[split][0].file
        data = bytearray(shard.read_bytes())
        data[167 * record + 50] ^= 1
        shard.write_bytes(data)
    args = [f"--data_dir={own_digits_dir}", f"--logdir={tmp_path / 'run'}", "--train_steps=30"]
    done = run_here("trainer", *args, "--skip_corrupt=2")
    assert done.code == 1 and " records or more are damaged, more than --skip_corrupt=2; the first: " in one_error_line(
        done
    )
    done = run_here("trainer", *args, "--skip_corrupt=3")
    assert done.code == 0, done
    assert "skipping 2 of 126 records: " in done.out and "record 3 at byte 501 is damaged" in done.out
    assert "lenet on digits: 1,256 images" in done.out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["skipped_records"] == 3
    assert round(result["test_accuracy"] * 358, 6) % 1 == 0  # Of 359 images, one is left out.
    again = run_here("trainer", *args, "--skip_corrupt=3", "--train_steps=40")
    assert again.code == 0 and "resuming from step 30" in again.out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "has 0 bytes, its manifest says 21,042"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "has 21,037 bytes, its manifest says 21,042"),
    ],
)
def test_missing_empty_and_truncated_shards_are_named(run_here, own_digits_dir, tmp_path, damage, message):
    shard = own_digits_dir / "train-00003-of-00010.tfrecords"
    damage(shard)
    done = run_here("trainer", f"--data_dir={own_digits_dir}", cwd=tmp_path)
    assert done.code == 1 and f"{shard} {message}" in one_error_line(done)
    assert not (tmp_path / "runs").exists()


def test_a_full_log_directory_is_an_error_of_one_line(run_program, digits_dir, tmpfs):
    small_tmpfs = tmpfs("1m")
    (small_tmpfs / "ballast").write_bytes(b"x" * 900_000)
    done = run_program("trainer", f"--data_dir={digits_dir}", f"--logdir={small_tmpfs / 'run'}", "--train_steps=30")
    assert done.code == 1
    message = one_error_line(done)
    assert "No space left on device" in message and str(small_tmpfs) in message


def test_a_read_only_log_directory_is_an_error_of_one_line(run_program, digits_dir, tmpfs):
    small_tmpfs = tmpfs("1m")
    import subprocess

    subprocess.run(["mount", "-o", "remount,ro", str(small_tmpfs)], check=True)
    done = run_program("trainer", f"--data_dir={digits_dir}", f"--logdir={small_tmpfs / 'run'}")
    assert done.code == 1 and "Read-only file system" in one_error_line(done)


def test_a_log_directory_that_is_a_file_is_an_error_of_one_line(run_program, digits_dir, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_program("trainer", f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'file'}")
    assert done.code in (1, 2) and str(tmp_path / "file") in one_error_line(done)


def test_a_checkpoint_of_another_model_is_refused(run_here, digits_dir, tmp_path):
    args = [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}", "--train_steps=3"]
    assert run_here("trainer", *args).code == 0
    done = run_here("trainer", *args, "--model=mlp")
    assert done.code == 2 and "model: lenet -> mlp" in one_error_line(done)
    # Without config.json the variables themselves tell, and the refused run leaves nothing behind.
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "run" / "result.json").unlink()
    done = run_here("trainer", *args, "--model=mlp", "--train_steps=4")
    assert not (tmp_path / "run" / "config.json").exists()
    assert done.code == 1
    message = one_error_line(done)
    assert "is of another model" in message and "hidden1/weights [64, 500] is not in it" in message
    assert "conv1/weights [5, 5, 1, 32] is not in the model" in message


def test_convert_refuses_what_it_cannot_do(run_here, tmp_path):
    done = run_here("trainer.convert", "--dataset=mnist", f"--source_dir={tmp_path}", cwd=tmp_path)
    assert done.code == 1 and "train-images-idx3-ubyte: no such file" in one_error_line(done)
    done = run_here("trainer.convert", "--dataset=mnist", "--source_dir=absent", cwd=tmp_path)
    assert done.code == 2 and "--source_dir=absent: no such directory" in one_error_line(done)
    done = run_here("trainer.convert", "--dataset=mnits", cwd=tmp_path)
    assert done.code == 2 and "did you mean mnist?" in one_error_line(done)
    assert list(tmp_path.rglob("*")) == [tmp_path / "data"] or list(tmp_path.iterdir()) == []


def test_convert_finds_a_damaged_shard_where_it_has_nothing_to_do(run_here, own_digits_dir, tmp_path):
    shard = own_digits_dir / "train-00003-of-00010.tfrecords"
    data = bytearray(shard.read_bytes())
    data[167 * 11 + 50] ^= 1
    shard.write_bytes(data)
    done = run_here("trainer.convert", "--dataset=digits", f"--data_dir={own_digits_dir}")
    assert done.code == 1 and f"{shard}: record 11 at byte {167 * 11} is damaged" in one_error_line(done)


def test_a_full_disk_during_conversion_is_an_error_of_one_line(run_program, mnist_files, tmpfs):
    small_tmpfs = tmpfs("1m")
    done = run_program("trainer.convert", f"--source_dir={mnist_files}", f"--data_dir={small_tmpfs / 'mnist'}")
    assert done.code == 1 and "No space left on device" in one_error_line(done)
    assert list(small_tmpfs.iterdir()) == []


def test_wrong_counts_in_a_manifest_are_found_before_anything_is_written(run_program, own_digits_dir, tmp_path):
    path = own_digits_dir / "manifest.json"
    path.write_text(path.read_text().replace('"num_examples": 90', '"num_examples": 91'))
    done = run_program("trainer", f"--data_dir={own_digits_dir}", cwd=tmp_path)
    assert done.code == 1 and "holds 90 records, its manifest says 91" in one_error_line(done)
    assert not (tmp_path / "runs").exists()


def test_mnist_is_converted_in_under_15_seconds(run_program, mnist_files, tmp_path):
    start = time.monotonic()
    done = run_program("trainer.convert", "--dataset=mnist", f"--source_dir={mnist_files}", cwd=tmp_path)
    assert done.code == 0 and time.monotonic() - start < 15, done
    assert (tmp_path / "data" / "mnist" / "test-00001-of-00002.tfrecords").exists()


def test_placement_can_be_printed(run_program, digits_dir, tmp_path):
    done = run_program(
        "trainer",
        f"--data_dir={digits_dir}",
        f"--logdir={tmp_path}",
        "--train_steps=2",
        "--num_gpus=2",
        "--log_device_placement",
    )
    assert done.code == 0
    assert "tower_1/conv1/Conv2D" in done.err and "device:CPU:1" in done.err


def test_a_one_process_run_opens_no_port(program, digits_dir, tmp_path):
    import psutil

    process = program("trainer", f"--data_dir={digits_dir}", f"--logdir={tmp_path}", "--train_steps=1000000")
    for line in process.stdout:
        if line.startswith("step 100/"):
            break
    assert psutil.Process(process.pid).net_connections() == []
    os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("python3") is None, reason="no python3")
def test_the_wheel_holds_configs_and_data(tmp_path):
    """Built and unpacked: the package finds its configs and digits without the checkout."""
    import subprocess
    import sys
    import zipfile

    from tests.conftest import REPO

    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(REPO)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("tower_trainer-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainer",
            "--flagfile=configs/mnist_lenet.flags",
            "--dataset=digits",
            "--train_steps=2",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "launch").is_dir()
