"""Variables on parameter servers: the results of one process, stops, kills of every kind of task, and nothing left."""

from __future__ import annotations

import json
import re
import signal
import time

import numpy as np
import pytest

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
def test_two_workers_give_the_losses_of_one_process(run_job, run_program, digits_dir, tmp_path):
    done = run_program("trainer", *LOSSES, "--eval_every=0", f"--logdir={tmp_path / 'one'}", f"--data_dir={digits_dir}")
    assert done.code == 0, done
    same_losses(run_job(*LOSSES, towers=2, ps=1), tmp_path / "one")
    for job in ("ps-0", "worker-1"):
        assert (tmp_path / "job" / f"train-{job}.log").is_file()


SHAPES = [(1, 1, 2), (2, 2, 1), (1, 3, 1), (2, 3, 2)]  # servers, workers, towers
SOURCES = ["preloaded", "queue", "feed", "synthetic"]


@pairs(
    "source, shape",
    [("preloaded", SHAPES[0]), ("queue", SHAPES[1])],
    [(source, shape) for source in SOURCES for shape in SHAPES],
)
@pytest.mark.timeout(900)
def test_any_number_of_servers_workers_and_towers_gives_the_losses_of_one_process(
    source, shape, run_job, run_program, digits_dir, tmp_path
):
    flags = (*LOSSES, f"--input={source}", "--optimizer=momentum", "--clip=global_norm:1", "--weight_decay=1e-3")
    flags += ("--preprocess=translate(1)|rotate(10)|contrast(0.5..1.5)",)
    where = (f"--logdir={tmp_path / 'one'}", f"--data_dir={digits_dir}")
    assert run_program("trainer", *flags, "--eval_every=0", *where).code == 0
    servers, workers, towers = shape
    same_losses(run_job(*flags, ps=servers, workers=workers, towers=towers), tmp_path / "one")


@pairs("source", [("queue",)], [("queue",), ("preloaded",), ("feed",)])
def test_a_stopped_job_goes_on_bit_for_bit(source, launch, run_job, tmp_path):
    flags = ("--train_steps=300", "--checkpoint_every=0", "--log_every=20", "--deterministic", f"--input={source}")
    whole = run_job(*flags, name="whole", ps=2, workers=3, batch_size=48)
    process = launch(*flags, name="stopped", ps=2, workers=3, batch_size=48)
    wait_for_line(process, r"step \d{3,}/")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, out
    found = re.search(r"stopped by SIGTERM after step (\d+)", out)
    assert found and 100 <= int(found[1]) < 300, out
    assert out.count(f"stopped after step {found[1]}") == 2, "another worker stopped after another step"
    again = run_job(*flags, name="stopped", ps=2, workers=3, batch_size=48)
    expected, got = variables(whole, 300), variables(again, 300)
    assert sorted(expected) == sorted(got)
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)


@pytest.mark.slow
def test_workers_with_their_own_updates_reach_the_accuracy_and_tell_their_staleness(run_job):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logdir = run_job("--strategy=ps_async", "--summary_every=20", ps=2)
    result = json.loads((logdir / "result.json").read_text())
    assert 1179 <= result["step"] <= 1180 and result["test_accuracy"] > 0.965, result
    events = EventAccumulator(str(logdir)).Reload()
    staleness = [event.value for event in events.Scalars("staleness")]
    assert len(staleness) > 20 and min(staleness) >= 0 and 0 < np.mean(staleness) < 10, staleness


@pairs("source", [("feed",)], [("preloaded",), ("feed",)])
def test_own_updates_read_their_own_part_of_every_input(source, run_job):
    logdir = run_job("--strategy=ps_async", f"--input={source}", "--epochs=30", ps=1)
    assert json.loads((logdir / "result.json").read_text())["test_accuracy"] > 0.95


@pytest.mark.slow
def test_a_run_goes_on_with_another_strategy(run_job, run_program, digits_dir, tmp_path):
    flags = ("--log_every=1", "--decay=constant", "--model_args=dropout=0", "--batch_size=48")
    run_job(*flags, "--train_steps=20", ps=2)
    run_job(*flags, "--train_steps=30")
    where = (f"--logdir={tmp_path / 'job'}", f"--data_dir={digits_dir}", "--eval_every=0")
    assert run_program("trainer", *flags, *where, "--train_steps=50", "--strategy=replicated", "--num_gpus=2").code == 0
    whole = (f"--logdir={tmp_path / 'one'}", f"--data_dir={digits_dir}", "--eval_every=0")
    assert run_program("trainer", *flags, *whole, "--train_steps=50").code == 0
    same_losses(tmp_path / "job", tmp_path / "one")


@pairs("strategy", [("ps_async",)], [("ps_sync",), ("ps_async",)])
def test_a_signal_to_one_worker_stops_all_and_the_servers_end(strategy, launch, tmp_path):
    process = launch("--train_steps=100000", "--checkpoint_every=0", f"--strategy={strategy}", ps=2)
    wait_for_line(process, r"step \d{3,}/")
    tasks = children(process)
    assert sorted(tasks) == ["ps 0", "ps 1", "worker 0", "worker 1"]
    tasks["worker 1"].send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, out
    assert re.search(r"\[worker 0\] stopped by SIGTERM after step \d+", out), out
    assert len(list((tmp_path / "job").glob("model.ckpt-*.index"))) == 1
    assert not [task for task in tasks.values() if task.is_running()]


@pairs("strategy", [("ps_sync",)], [("ps_sync",), ("ps_async",)])
def test_a_save_that_a_worker_is_asked_for_is_made_once(strategy, launch, tmp_path):
    process = launch("--train_steps=100000", "--checkpoint_every=0", f"--strategy={strategy}", ps=1)
    wait_for_line(process, r"step \d{3,}/")
    children(process)["worker 1"].send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "job").glob("model.ckpt-*.index")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, out
    assert len(list((tmp_path / "job").glob("model.ckpt-*.index"))) == 2


@pairs(
    "jobs, strategy",
    [(3, "ps_sync"), (2, "collective")],
    [(10, strategy) for strategy in ("ps_sync", "ps_async", "collective")],
)
@pytest.mark.timeout(600)
def test_a_task_that_is_killed_at_a_random_moment_is_the_root_cause_and_nothing_is_left(
    jobs, strategy, launch, tmp_path
):
    """Jobs without restarts, each kind of task in turn."""
    rng = np.random.default_rng(sum(strategy.encode()))
    victims = ["worker 0", "worker 1", *([] if strategy == "collective" else ["ps 0"])]
    for number in range(jobs):
        victim = victims[number % len(victims)]
        flags = ("--train_steps=100000", f"--strategy={strategy}", "--checkpoint_every=50")
        process = launch(*flags, ps=int("ps 0" in victims), name=f"job{number}")
        begun = "serves until" if victim == "ps 0" else "steps of 64"
        lines = wait_for_line(process, rf"\[{victim}\] .*{begun}")
        time.sleep(float(rng.uniform(0, 4)))
        tasks = children(process)
        tasks[victim].kill()
        out, _ = process.communicate(timeout=60)
        out = "".join(lines) + out
        assert process.returncode == 137, out
        assert re.search(victim + r" on \S+ was killed by SIGKILL; its last lines", out), out
        assert not [task for task in tasks.values() if task.is_running()], out


@pairs(
    "kills, strategy, victim",
    [(1, "ps_async", "worker 0")],
    [(10, strategy, victim) for strategy in ("ps_sync", "ps_async") for victim in ("worker 0", "worker 1", "ps 0")],
)
@pytest.mark.timeout(1200)
def test_kills_of_each_kind_of_task_at_random_moments(kills, strategy, victim, launch, tmp_path):
    """The job ends with its accuracy and nothing left running."""
    # So many that all kills come before the end; a chief that is not killed goes on meanwhile.
    epochs = 60 if strategy == "ps_sync" else 300 if victim == "worker 1" and kills > 1 else 120
    flags = (f"--epochs={epochs}", "--checkpoint_every=50", "--log_every=20", f"--strategy={strategy}")
    process = launch(*flags, ps=1, max_restarts=kills)
    out = kill_at_random(process, victim, kills)
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    last = round(epochs * 1258 / 64)
    assert result["step"] in (last, last + 1) and result["test_accuracy"] > 0.965, result
    assert out.count("all tasks start again") == (0 if victim == "worker 1" else kills), out


@pytest.mark.slow
def test_a_worker_that_hangs_while_the_others_end_is_ended_too(launch):
    """It goes on after the servers have gone, finds that, and its loss is not the job's."""
    process = launch("--train_steps=400", "--strategy=ps_async", "--log_every=20", ps=1)
    lines = wait_for_line(process, r"step \d{3,}/")
    frozen = children(process)["worker 1"]
    frozen.send_signal(signal.SIGSTOP)
    lines += wait_for_line(process, r"test accuracy")
    time.sleep(2)
    frozen.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(lines) + out + err
    assert "[worker 1] error: ps 0" in out and not frozen.is_running()


@pytest.mark.slow
def test_a_worker_comes_back_while_the_others_wait_and_no_step_is_lost(launch, run_job, tmp_path):
    flags = ("--train_steps=400", "--log_every=20", "--deterministic", "--checkpoint_every=0")
    whole = run_job(*flags, name="whole", ps=1)
    process = launch(*flags, name="killed", ps=1, max_restarts=1)
    lines = wait_for_line(process, r"step \d{3,}/")
    children(process)["worker 1"].kill()
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, "".join(lines) + out
    assert "worker 1 was killed by SIGKILL: it starts again" in out
    expected, got = variables(whole, 400), variables(tmp_path / "killed", 400)
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)


@pytest.mark.slow
def test_a_worker_with_other_settings_is_refused_by_name(program, digits_dir, tmp_path):
    from launch.plan import free_ports

    worker0, worker1, server = (f"127.0.0.1:{port}" for port in free_ports(3))
    cluster = (f"--worker_hosts={worker0},{worker1}", f"--ps_hosts={server}", f"--data_dir={digits_dir}")
    tasks = [("ps", 0, 0.1), ("worker", 0, 0.1), ("worker", 1, 0.2)]
    processes = [
        program(
            "trainer",
            *cluster,
            f"--logdir={tmp_path / 'run'}",
            f"--job_name={job}",
            f"--task_index={index}",
            f"--learning_rate={rate}",
        )
        for job, index, rate in tasks
    ]
    endings = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert endings[2][1] == 2 and "worker 1 differs from worker 0 in --learning_rate (0.2, there 0.1)" in endings[2][0]
    assert endings[1][1] == 1 and "did not begin: see its log" in endings[1][0], endings
    assert endings[0][1] == 0, endings


def test_missing_servers_are_named(run_program, digits_dir, tmp_path):
    from launch.plan import free_ports

    mine, missing = free_ports(2)
    cluster = (f"--worker_hosts=127.0.0.1:{mine}", f"--ps_hosts=127.0.0.1:{missing}", "--job_name=worker")
    where = (f"--logdir={tmp_path / 'run'}", f"--data_dir={digits_dir}")
    done = run_program("trainer", *cluster, "--join_seconds=1", *where)
    assert done.code == 1 and f"ps 0 (127.0.0.1:{missing}) did not answer for --join_seconds=1" in done.err, done


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategy=ps_sync"], "--strategy=ps_sync needs a cluster"),
        (
            ["--worker_hosts=a:1,b:1", "--strategy=ps_async"],
            "names no parameter server: name some (launch local: --ps), or use collective",
        ),
        (["--worker_hosts=a:1", "--ps_hosts=b:1", "--strategy=collective"], "names 1 parameter servers: leave them"),
        (["--worker_hosts=a:1", "--ps_hosts=b:1", "--strategy=ps_async", "--precision=float16"], "one loss scale"),
        (["--reduce=tree"], "--reduce=tree is of --strategy=replicated"),
        (["--worker_hosts=a:1,b:1", "--ps_hosts=c:1", "--batch_size=63"], "over 2 towers (2 workers with 1 each)"),
    ],
)
def test_settings_that_do_not_fit_a_cluster_are_refused(run_here, args, message):
    done = run_here("trainer", "--job_name=worker", *args) if len(args) > 1 else run_here("trainer", *args)
    assert done.code == 2 and message in done.err, done
