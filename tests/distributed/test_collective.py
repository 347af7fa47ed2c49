"""Workers that all-reduce their gradients: the results of one process, stops that all agree on, and losses of tasks."""

from __future__ import annotations

import json
import re
import signal
import time

import numpy as np
import pytest

from launch.plan import free_ports
from tests.distributed.jobs import (
    LOSSES,
    children,
    kill_at_random,
    same_losses,
    variables,
    wait_for_line,
)
from tests.soak import pairs

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_two_workers_with_two_towers_give_the_losses_of_one_process(run_job, run_program, digits_dir, tmp_path):
    done = run_program("trainer", *LOSSES, "--eval_every=0", f"--logdir={tmp_path / 'one'}", f"--data_dir={digits_dir}")
    assert done.code == 0, done
    same_losses(run_job(*LOSSES, "--bucket_mb=0", towers=2), tmp_path / "one")


SHAPES = [(2, 1, 0), (2, 2, 0.1), (3, 1, 32), (3, 2, 0)]  # workers, towers, megabytes of a bucket
SOURCES = ["queue", "preloaded", "feed", "synthetic"]


@pairs(
    "source, shape",
    [("feed", SHAPES[2]), ("synthetic", SHAPES[3])],
    [(source, shape) for source in SOURCES for shape in SHAPES],
)
@pytest.mark.timeout(600)
def test_any_number_of_workers_and_towers_gives_the_losses_of_one_process(
    source, shape, run_job, run_program, digits_dir, tmp_path
):
    flags = (*LOSSES, f"--input={source}", "--optimizer=momentum", "--clip=global_norm:1", "--weight_decay=1e-3")
    flags += ("--preprocess=translate(1)|rotate(10)|contrast(0.5..1.5)",)
    where = (f"--logdir={tmp_path / 'one'}", f"--data_dir={digits_dir}")
    assert run_program("trainer", *flags, "--eval_every=0", *where).code == 0
    workers, towers, bucket_mb = shape
    logdir = run_job(*flags, f"--bucket_mb={bucket_mb}", workers=workers, towers=towers)
    same_losses(logdir, tmp_path / "one")


@pairs("source", [("queue",)], [("queue",), ("preloaded",), ("feed",)])
def test_a_stopped_job_goes_on_bit_for_bit(source, launch, run_job, tmp_path):
    flags = ("--train_steps=500", "--checkpoint_every=0", "--log_every=20", "--deterministic", f"--input={source}")
    whole = run_job(*flags, name="whole")
    process = launch(*flags, name="stopped")
    wait_for_line(process, r"step 100/")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, out
    found = re.search(r"stopped by SIGTERM after step (\d+)", out)
    assert found and 100 <= int(found[1]) < 500, out
    assert f"stopped after step {found[1]}" in out, "the other worker stopped after another step"
    expected, got = variables(whole, 500), variables(run_job(*flags, name="stopped"), 500)
    assert sorted(expected) == sorted(got)
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)


@pytest.mark.slow
def test_a_save_that_any_worker_is_asked_for_is_made(launch, tmp_path):
    process = launch("--train_steps=100000", "--checkpoint_every=0")
    wait_for_line(process, r"step 100/")
    tasks = children(process)
    tasks["worker 1"].send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "job").glob("model.ckpt-*.index")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, out
    assert len(list((tmp_path / "job").glob("model.ckpt-*.index"))) == 2
    assert (tmp_path / "job" / "train-worker-1.log").is_file()
    assert not [child for child in tasks.values() if child.is_running()]


def test_workers_with_other_settings_are_refused_by_name(program, digits_dir, tmp_path):
    from launch.plan import free_ports

    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    done = []
    processes = [
        program(
            "trainer",
            "--job_name=worker",
            f"--task_index={index}",
            f"--worker_hosts={hosts}",
            f"--logdir={tmp_path / 'run'}",
            f"--data_dir={digits_dir}",
            f"--learning_rate={rate}",
        )
        for index, rate in enumerate([0.1, 0.2])
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        done.append((process.returncode, err))
    for code, err in done:
        assert code == 2 and "worker 1 differs from worker 0 in --learning_rate" in err, done


def test_missing_workers_are_named(run_program, digits_dir, tmp_path):
    from launch.plan import free_ports

    mine, missing = free_ports(2)
    cluster = (f"--worker_hosts=127.0.0.1:{mine},127.0.0.1:{missing}", "--job_name=worker", "--join_seconds=1")
    done = run_program("trainer", *cluster, f"--logdir={tmp_path / 'run'}", f"--data_dir={digits_dir}")
    assert done.code == 1, done
    assert f"worker 1 (127.0.0.1:{missing}) did not answer for --join_seconds=1" in done.err


def test_a_port_in_use_is_named(run_program, digits_dir, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        cluster = (f"--worker_hosts={address},127.0.0.1:9", "--job_name=worker")
        done = run_program("trainer", *cluster, f"--logdir={tmp_path / 'run'}", f"--data_dir={digits_dir}")
    assert done.code == 1, done
    assert f"worker 0 cannot open its port, {address}: Address already in use" in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategy=collective"], "--strategy=collective needs a cluster"),
        (["--worker_hosts=a:1,b:1", "--job_name=worker", "--batch_size=63"], "over 2 towers (2 workers with 1 each)"),
        (["--worker_hosts=a:1,b:1", "--job_name=worker", "--steps_per_loop=5"], "--steps_per_loop is of one process"),
        (["--worker_hosts=a:1,b:1", "--job_name=worker", "--strategy=parameter_device"], "names 2 workers"),
    ],
)
def test_settings_that_do_not_fit_a_cluster_are_refused(run_here, args, message):
    done = run_here("trainer", *args)
    assert done.code == 2 and message in done.err, done


def test_a_lost_worker_is_named_and_what_was_trained_is_saved(launch, tmp_path):
    process = launch("--train_steps=100000", "--checkpoint_every=0")
    wait_for_line(process, r"step 100/")
    children(process)["worker 1"].kill()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 137, out
    assert re.search(r"worker 1 on \S+ was killed by SIGKILL; its last lines", out), out
    assert re.search(r"error: worker 1 \(127\.0\.0\.1:\d+\) of the cluster is lost", out), out
    assert len(list((tmp_path / "job").glob("model.ckpt-*.index"))) == 1
    assert json.loads((tmp_path / "job" / "result.json").read_text())["status"] == "error"


@pytest.mark.slow
def test_an_evaluator_scores_every_checkpoint_and_ends_with_the_job(launch, tmp_path):
    process = launch("--train_steps=600", "--checkpoint_every=200", flags=["--evaluator"])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    rows = [json.loads(line) for line in (tmp_path / "job" / "eval" / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [200, 400, 600]
    assert (tmp_path / "job" / "train-evaluator-0.log").is_file()
    assert (tmp_path / "job" / "best").is_dir()


@pairs("ps", [(1,)], [(0,), (1,)])
def test_a_finished_job_that_is_started_again_changes_nothing(ps, run_job):
    def contents(logdir):
        files = [path for path in logdir.rglob("*") if path.is_file() and path.suffix != ".log" and path.name != "lock"]
        return {path.relative_to(logdir): path.read_bytes() for path in files}

    before = contents(run_job("--train_steps=20", ps=ps))
    assert {"result.json", "flags.txt", "metrics.jsonl"} <= {path.name for path in before}
    assert contents(run_job("--train_steps=20", "--learning_rate=0.5", ps=ps)) == before


# For what is not the test's doing: TensorFlow itself may end a step, as once seen with "The same RunGraph (Worker)
# request was received twice".
SPARE_RESTARTS = 2


@pairs("kills, victim", [(1, 1)], [(kills, victim) for kills in (1, 10) for victim in (0, 1)])
@pytest.mark.timeout(1200)
def test_kills_of_a_worker_at_random_moments(kills, victim, launch, tmp_path):
    """The job starts again each time, and ends with its accuracy and nothing left running."""
    process = launch("--epochs=120", "--checkpoint_every=50", "--log_every=20", max_restarts=kills + SPARE_RESTARTS)
    kill_at_random(process, f"worker {victim}", kills)
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert result["step"] == 2359 and result["test_accuracy"] > 0.965, result


@pytest.mark.slow
def test_a_worker_that_is_lost_before_the_first_step_is_named(by_hand):
    chief, other = by_hand("--train_steps=3000")
    wait_for_line(other, "lenet on digits")
    other.kill()
    _, err = chief.communicate(timeout=30)
    assert chief.returncode == 200 and "of the cluster is lost" in err, err


@pytest.mark.slow
def test_a_step_that_cannot_be_woken_is_ended_after_a_save(program, digits_dir, tmp_path, monkeypatch):
    """A stopped worker whose port is silent, in place of the kill after which TensorFlow lets a step wait."""
    monkeypatch.setenv("UNANSWERED", str(tmp_path / "unanswered"))
    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    flags = (f"--worker_hosts={hosts}", f"--logdir={tmp_path / 'run'}", f"--data_dir={digits_dir}", "--eval_every=0")
    flags += ("--train_steps=100000", "--checkpoint_every=0", "--job_name=worker")
    chief, other = (program("tests.unanswered", *flags, f"--task_index={index}") for index in (0, 1))
    wait_for_line(chief, "step 200/")
    other.send_signal(signal.SIGSTOP)
    (tmp_path / "unanswered").touch()
    _, err = chief.communicate(timeout=60)
    assert chief.returncode == 200 and "worker 1 (127.0.0.1:" in err, err
    assert len(list((tmp_path / "run").glob("model.ckpt-2??.index"))) == 1, err


@pytest.mark.soak
@pytest.mark.parametrize("kills", [20])
@pytest.mark.timeout(1200)
def test_the_worker_that_is_left_ends_and_a_chief_saves(kills, by_hand, tmp_path):
    """Also where TensorFlow lets its step wait without end, as after 2 of 68 kills (measured)."""
    step = 0
    for number in range(kills):
        tasks = by_hand("--train_steps=1000000", "--checkpoint_every=0", "--eval_every=0", "--log_every=20")
        wait_for_line(tasks[0], rf"step {step + 100}/")
        time.sleep(number % 7 / 20)
        left, victim = tasks[number % 2], tasks[1 - number % 2]
        victim.kill()
        out, err = left.communicate(timeout=100)
        assert left.returncode == 200 and "of the cluster is lost" in err, out + err
        victim.communicate(timeout=10)
        if left is tasks[0]:
            names = [path.stem for path in (tmp_path / "run").glob("model.ckpt-*.index")]
            saved = max(int(name.removeprefix("model.ckpt-")) for name in names)
            assert saved > step, out + err
            step = saved - saved % 20


@pytest.mark.slow
def test_a_signal_in_an_evaluation_of_the_chief_stops_all_after_the_same_step(by_hand):
    chief, other = by_hand("--train_steps=100000", "--eval_every=1", "--log_every=1")
    wait_for_line(chief, "step 5/")
    chief.send_signal(signal.SIGTERM)
    outs = [process.communicate(timeout=60)[0] for process in (chief, other)]
    assert [chief.returncode, other.returncode] == [143, 143], outs
    steps = [re.search(r"stopped (?:by SIGTERM )?after step (\d+)", out)[1] for out in outs]
    assert steps[0] == steps[1]


@pytest.mark.slow
def test_a_restart_does_not_begin_anew(launch, tmp_path):
    flags = ("--train_steps=800", "--checkpoint_every=50", "--log_every=20", "--resume=never")
    process = launch(*flags, max_restarts=1 + SPARE_RESTARTS)
    lines = wait_for_line(process, r"step 200/")
    children(process)["worker 1"].kill()
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, "".join(lines) + out
    assert re.search(r"resuming from step (\d+)", out), out
    assert not (tmp_path / "job.1").exists()


FLAGS = ["--precision=bfloat16", "--precision=float16", "--staging=yes"]


@pairs("flag, ps", [*zip(FLAGS, [0, 1, 0], strict=True)], [(flag, ps) for flag in FLAGS for ps in (0, 1)])
def test_workers_train_in_lower_precision_and_with_staged_batches(flag, ps, run_job):
    logdir = run_job("--train_steps=20", flag, ps=ps)
    assert json.loads((logdir / "result.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_workers_whose_damaged_records_differ_are_refused(program, digits_dir, tmp_path):
    import shutil

    from launch.plan import free_ports

    damaged = tmp_path / "damaged"
    shutil.copytree(digits_dir, damaged)
    shard = next(damaged.glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(bytes(content))
    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    shared = ("--job_name=worker", f"--worker_hosts={hosts}", f"--logdir={tmp_path / 'run'}", "--skip_corrupt=9")
    processes = [
        program("trainer", *shared, f"--task_index={index}", f"--data_dir={folder}")
        for index, folder in enumerate([digits_dir, damaged])
    ]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2 and "worker 1 differs from worker 0 in the data" in err, err


@pytest.mark.slow
def test_an_elastic_job_goes_on_without_a_lost_worker_and_takes_it_back(launch, tmp_path):
    flags = ("--train_steps=8000", "--checkpoint_every=0", "--log_every=50", "--strategy=collective")
    process = launch(*flags, flags=["--elastic"], max_restarts=1 + SPARE_RESTARTS)
    lines = wait_for_line(process, r"step \d{3,}/")
    children(process)["worker 1"].kill()
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, "".join(lines) + out
    assert "the job goes on with 1 of 2 workers" in out and "all 2 workers go on" in out
    last = re.findall(r"step (\d+)/", out.partition("[launch]")[0])[-1:] or ["100"]
    resumed = [int(step) for step in re.findall(r"resuming from step (\d+) \(/", out)]
    assert len(resumed) >= 2 and int(last[0]) <= resumed[0], out
    assert resumed == sorted(set(resumed)) and resumed[-1] < 8000, out
    assert json.loads((tmp_path / "job" / "result.json").read_text())["step"] == 8000


@pairs("ps", [(1,)], [(0,), (1,)])
def test_a_frozen_worker_is_named_by_the_others(ps, launch):
    flags = ("--train_steps=100000", "--stall_seconds=2", "--log_every=20")
    process = launch(*flags, ps=ps)
    lines = wait_for_line(process, r"step \d{3,}/")
    frozen = children(process)["worker 1"]
    frozen.send_signal(signal.SIGSTOP)
    lines += wait_for_line(process, r"worker 1 \(127\.0\.0\.1:\d+\) does not respond: its process is stopped")
    frozen.send_signal(signal.SIGCONT)
    woken = r"\[worker 0\] it goes on, after|\[worker 1\] this process was stopped for"
    told = [wait_for_line(process, woken)[-1] for _ in range(2)]
    assert {line.split("]")[0] for line in told} == {"[worker 0", "[worker 1"}, told
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, "".join(lines) + out + err


@pytest.mark.slow
def test_a_web_proxy_is_not_asked_for_the_other_workers(run_job, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    logdir = run_job("--train_steps=20")
    assert json.loads((logdir / "result.json").read_text())["status"] == "done"
