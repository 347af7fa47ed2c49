"""The launcher, with tasks that are small Python programs."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from launch import plan
from launch.plan import Task, find_cpus, find_gpus, free_ports, make_tasks
from launch.restarting import Restarts, Size
from launch.supervising import PEER_LOST, Ended, Stop, find_root_cause, run_once
from tests.conftest import environment

pytestmark = pytest.mark.timeout(60)


class Lines:
    """An output that keeps the lines."""

    def __init__(self):
        self.lines = []
        self.said = []

    def line(self, name, line):
        self.lines.append((name, line))

    def say(self, line):
        self.said.append(line)


def task(code, job="worker", index=0):
    return Task(job, index, (sys.executable, "-c", code), {})


def run(*codes, stop=None, grace_seconds=5.0, **options):
    output = Lines()
    tasks = [task(code, index=index) for index, code in enumerate(codes)]
    return run_once(tasks, output, stop or Stop(), grace_seconds, **options), output.lines


def test_lines_come_with_their_task():
    ended, lines = run("print('a'); import sys; print('b', file=sys.stderr); print('c', end='')", "print('d')")
    assert [each.code for each in ended] == [0, 0]
    assert sorted(lines) == [("worker 0", "a"), ("worker 0", "b"), ("worker 0", "c"), ("worker 1", "d")]
    assert find_root_cause(ended) is None


def test_the_first_failure_ends_the_others():
    begin = time.monotonic()
    ended, _ = run("import time; time.sleep(60)", "import sys; print('why'); sys.exit(7)")
    root = find_root_cause(ended)
    assert time.monotonic() - begin < 10
    assert (root.task.name, root.code, list(root.last_lines)) == ("worker 1", 7, ["why"])
    assert [each.code for each in ended] == [7, -signal.SIGTERM]


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({ready!r}).touch()
time.sleep(60)
"""


def test_a_task_that_does_not_end_is_killed_after_the_grace(tmp_path):
    ready = str(tmp_path / "ready")
    fails = f"import os, sys, time\nwhile not os.path.exists({ready!r}): time.sleep(0.01)\nsys.exit(3)"
    begin = time.monotonic()
    ended, _ = run(STUBBORN.format(ready=ready), fails, grace_seconds=1)
    assert time.monotonic() - begin < 15
    assert find_root_cause(ended).code == 3
    assert ended[1].code == -signal.SIGKILL and ended[1].forced


def test_signals_are_forwarded():
    stop = Stop()
    stop.number = signal.SIGINT  # As the handler notes it.
    ended, _ = run("import time; time.sleep(60)", stop=stop)
    assert [each.code for each in ended] == [-signal.SIGTERM]


def ended_with(code, index=0, forced=False):
    return Ended(task("", index=index), code, [], forced)


@pytest.mark.parametrize(
    ("ended", "index"),
    [
        ([ended_with(0), ended_with(1, 1)], 1),
        ([ended_with(PEER_LOST, 0), ended_with(-9, 1)], 1),
        ([ended_with(PEER_LOST, 0), ended_with(143, 1)], 0),
        ([ended_with(-9, 0, forced=True), ended_with(3, 1)], 1),
        ([ended_with(2, 0), ended_with(1, 1)], 0),
    ],
)
def test_the_root_cause_is_the_first_that_failed_by_itself(ended, index):
    assert find_root_cause(ended).task.index == index


@pytest.mark.parametrize(("code", "exit_code"), [(3, 3), (-9, 137), (-11, 139)])
def test_exit_codes_are_those_of_a_shell(code, exit_code):
    assert ended_with(code).exit_code == exit_code


def test_every_task_has_its_tf_config_and_its_gpus():
    tasks = make_tasks(
        workers=["127.0.0.1:1", "127.0.0.1:2"],
        evaluator=True,
        args=["--model=mlp"],
        gpus_per_worker=2,
        visible_gpus=["0", "2", "4", "6"],
    )
    assert [each.name for each in tasks] == ["worker 0", "worker 1", "evaluator 0"]
    assert [each.environment["CUDA_VISIBLE_DEVICES"] for each in tasks] == ["0,2", "4,6", ""]
    configs = [json.loads(each.environment["TF_CONFIG"]) for each in tasks]
    assert configs[2] == {
        "cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]},
        "task": {"type": "evaluator", "index": 0},
    }
    assert tasks[0].command[1:] == ("-m", "trainer", "--model=mlp")


def test_tf_config_is_what_the_trainer_reads():
    from trainer.cluster.spec import parse_tf_config

    tasks = make_tasks(workers=["a:1", "b:2"], evaluator=True, args=[])
    found = [parse_tf_config(each.environment["TF_CONFIG"]) for each in tasks]
    assert [cluster.task for cluster in found] == ["worker 0", "worker 1", "evaluator 0"]


def test_too_few_gpus_are_refused():
    with pytest.raises(ValueError, match="2 workers with --gpus_per_worker=2 need 4 GPUs, and 1 are visible"):
        make_tasks(workers=["a", "b"], evaluator=False, args=[], gpus_per_worker=2, visible_gpus=["0"])


@pytest.mark.parametrize(
    ("workers", "wanted", "cpus"),
    [
        (2, None, [(0, 2), (4, 6)]),
        (3, None, [()] * 3),
        (4, None, [(0,), (2,), (4,), (6,)]),
        (3, 1, [(0,), (2,), (4,)]),
        (1, None, [()]),
        (5, None, [()] * 5),
        (2, 1, [(0,), (2,)]),
        (2, 0, [(), ()]),
    ],
)
def test_cores_are_shared_out_among_the_workers(workers, wanted, cpus):
    tasks = make_tasks(
        workers=["a:1"] * workers,
        servers=["b:1"],
        evaluator=True,
        args=[],
        cpus_per_worker=wanted,
        usable_cpus=[0, 2, 4, 6],
    )
    assert [each.cpus for each in tasks] == [*cpus, (), ()]


def test_threads_of_one_core_are_neighbours(monkeypatch, tmp_path):
    """Two sockets with two cores of two threads each, numbered as usual: threads last."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{cpu % 2}\n")
        (folder / "core_id").write_text(f"{cpu // 2 % 2}\n")
    monkeypatch.setattr(plan, "CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7}, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert find_cpus() == [0, 4, 2, 6, 1, 5, 3, 7]


def test_too_few_cores_are_refused():
    with pytest.raises(ValueError, match="2 workers with --cpus_per_worker=2 need 4 cores, and 3 are usable"):
        make_tasks(workers=["a", "b"], evaluator=False, args=[], cpus_per_worker=2, usable_cpus=[0, 1, 5])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are bound to cores on Linux")
def test_a_task_is_bound_to_its_cores():
    core = find_cpus()[-1]
    printed = "import os; print(sorted(os.sched_getaffinity(0)))"
    tasks = [dataclasses.replace(task(printed), cpus=(core,)), task(printed, index=1)]
    output = Lines()
    run_once(tasks, output, Stop(), 5.0)
    assert sorted(output.lines) == [("worker 0", f"[{core}]"), ("worker 1", str(find_cpus()))]


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("3, 1", ["3", "1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", ["0"]),
        ("2,none,1", ["2"]),
        ("2,,1", ["2"]),
        ("GPU-8932f937,MIG-1a2b,0", ["GPU-8932f937", "MIG-1a2b", "0"]),
        ("0,1,0", []),
        ("0,1,-1,0", ["0", "1"]),
    ],
)
def test_gpus_are_counted_as_cuda_counts_them(visible, gpus):
    assert find_gpus({"CUDA_VISIBLE_DEVICES": visible}, ["a", "b", "c"]) == gpus


def test_without_the_variable_all_gpus_are_visible():
    assert find_gpus({}, ["a", "b"]) == ["0", "1"]


def test_ports_are_free_and_differ():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


LISTEN = """
import socket, sys
from launch.network import enter_private_network, open_interfaces
reason = enter_private_network()
if reason:
    sys.exit(reason)
server = socket.create_server(("", 0))
port = server.getsockname()[1]
socket.create_connection(("127.0.0.1", port)).close()
print(port, open_interfaces(), flush=True)
sys.stdin.read()
"""


def test_a_private_network_cannot_be_reached_from_any_address_of_the_machine():
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        line = process.stdout.readline()
        if not line:
            pytest.skip("this system allows no network namespace")
        port, interfaces = line.split(" ", 1)
        assert interfaces.strip() == "[]"
        for address in own_addresses():
            with pytest.raises(OSError):
                socket.create_connection((address, int(port)), timeout=2).close()
    finally:
        process.communicate()


REFUSED = """
from launch import network
def refuse(path, text):
    raise PermissionError(1, "no use of it")
network._write = refuse
network._raise_loopback = lambda: refuse(None, None)
before = network.open_interfaces()
print(network.enter_private_network(), network.open_interfaces() == before)
"""


def test_a_namespace_that_cannot_be_used_is_not_entered():
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], capture_output=True, text=True, env=environment(), timeout=30
    )
    if "no use of it" not in done.stdout:
        assert "this system allows no network namespace" in done.stdout, done
        pytest.skip("this system allows no network namespace")
    assert done.stdout.strip() == "this system allows no network namespace: no use of it True"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to the files of others")
def test_root_keeps_its_rights_to_the_files_of_others(tmp_path):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=30).returncode:
        pytest.skip("this system allows root no network namespace")
    folder = tmp_path / "of_another"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    code = f"from launch.network import *; r = enter_private_network(); open({str(folder / 'file')!r}, 'w'); print(r)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=30)
    assert done.returncode == 0, done


def own_addresses():
    found = psutil.net_if_addrs().values()
    return [address.address for each in found for address in each if address.family == socket.AF_INET]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "the following arguments are required: COMMAND"),
        (["local", "--workers=0"], 2, "0 is out of range"),
        (["local", "--nodes=2"], 2, "--nodes=2 is no option of launch local"),
        (["local", "--gpus_per_worker=1000"], 2, "need 1000 GPUs"),
        (["local", "--cpus_per_worker=10000"], 2, "need 10000 cores"),
        (["local", "--elastic"], 2, "--elastic needs --max_restarts"),
        (["hosts", "--hosts=a;b", "--dry_run"], 2, "--hosts=a;b: a;b is no name of a host"),
        (["kubernetes", "--image=i", "--", "--resume", "never"], 2, "--resume=never would move the run aside"),
        (["local", "--", "--flagfile=none.flags"], 2, "--flagfile=none.flags: no such file"),
    ],
)
def test_mistakes_have_one_line_and_exit_code_2(run_program, args, code, message):
    done = run_program("launch", *args)
    assert done.code == code and message in done.out + done.err, done
    assert "usage:" not in done.err and "Traceback" not in done.out + done.err, done


def test_help_answers_at_once(run_program):
    def seconds():
        begin = time.monotonic()
        assert "launch local" in run_program("launch", "local", "--help").out
        return time.monotonic() - begin

    assert min(seconds() for _ in range(3)) < 1  # 0.05 s on a quiet machine


def test_nothing_is_left_when_the_launcher_is_killed(program, tmp_path, monkeypatch):
    """Its tasks end with it, and their ports with them; its temporary directory alone stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = program("launch", "local", "--workers=2", "--", f"--logdir={tmp_path}", "--train_steps=1000000")
    deadline = time.monotonic() + 30
    while len(tasks := psutil.Process(process.pid).children()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(tasks, timeout=10)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def restarts(largest=10, **options):
    said = []
    return Restarts(largest, said.append, **{"may_be_alone": True, **options}), said


def test_a_worker_that_is_killed_starts_again_beside_the_others():
    """The others end when it has come back: they wait for a file that only its second life writes."""
    deciding, said = restarts()
    code = """
import os, pathlib, signal, sys, time
here, index = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(here / f"began-{index}-{time.monotonic_ns()}").touch()
if index == 1 and len(list(here.glob("began-1-*"))) == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if index == 1:
    (here / "back").touch()
while not (here / "back").exists():
    time.sleep(0.05)
"""
    with tempfile.TemporaryDirectory() as folder:
        tasks = [Task("worker", index, (sys.executable, "-c", code, folder, str(index)), {}) for index in (0, 1)]
        ended = run_once(tasks, Lines(), Stop(), 5.0, deciding.alone)
        assert [each.code for each in ended] == [0, 0]
        assert len(list(Path(folder).iterdir())) == 4
    assert said == ["worker 1 was killed by SIGKILL: it starts again in 1 s (restart 1 of --max_restarts=10)"]


@pytest.mark.slow
def test_a_worker_that_starts_again_after_the_work_is_done_is_ended():
    deciding, _ = restarts()
    code = """
import pathlib, sys, time
flag = pathlib.Path(sys.argv[1])
if flag.exists():
    time.sleep(60)
flag.touch()
sys.exit(9)
"""
    with tempfile.TemporaryDirectory() as folder:
        late = Task("worker", 1, (sys.executable, "-c", code, f"{folder}/flag"), {})
        begin = time.monotonic()
        ended = run_once([task("import time; time.sleep(3)"), late], Lines(), Stop(), 5.0, deciding.alone)
    assert time.monotonic() - begin < 30
    assert find_root_cause(ended) is None


@pytest.mark.parametrize(
    ("ended", "options"),
    [
        (Ended(task("", index=0), -9, [], False), {}),  # the chief
        (Ended(task("", job="ps"), -9, [], False), {}),
        (Ended(task("", index=1), 2, [], False), {}),  # wrong flags
        (Ended(task("", index=1), 143, [], False), {}),
        (Ended(task("", index=1), -9, [], False), {"may_be_alone": False}),
        (Ended(task("", job="evaluator"), 2, [], False), {}),
        (Ended(task("", index=1), -9, [], False), {"largest": 0}),
    ],
)
def test_what_does_not_start_again_alone(ended, options):
    assert restarts(**options)[0].alone(ended) is None


def test_an_evaluator_starts_again_alone_in_every_job():
    assert restarts(may_be_alone=False)[0].alone(Ended(task("", job="evaluator"), -9, [], False)) == 1.0


def test_a_worker_that_fails_at_once_every_time_ends_the_job():
    deciding, _ = restarts()
    failed = Ended(task("", index=1), 1, [], False, seconds=0.5)
    assert [deciding.alone(failed) for _ in range(3)] == [1.0, 2.0, None]


def test_failures_of_tasks_that_lived_long_do_not_add_up():
    deciding, _ = restarts()
    long = [deciding.all(ended_with(1)._replace(seconds=3600.0), progress=False) for _ in range(5)]
    assert long == [1.0] * 5
    assert [deciding.all(ended_with(1), progress=False) for _ in range(2)] == [2.0, None]


def test_kills_start_again_as_often_as_is_allowed():
    deciding, _ = restarts(4)
    killed = Ended(task("", index=1), -9, [], False, seconds=0.5)
    assert [deciding.alone(killed) for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, None]


def test_an_elastic_job_goes_on_with_fewer_workers_and_takes_them_back():
    now, said = [0.0], []
    size = Size(3, said.append, elastic=True, clock=lambda: now[0])
    size.lose(ended_with(-9, index=2))
    assert size.now == 2 and not size.may_grow()
    # 2 workers cannot share this batch.
    assert size.change(ended_with(2), progress=False) and size.now == 1
    now[0] = 11.0
    assert size.may_grow()
    assert size.change(ended_with(143), progress=True) and size.now == 3
    assert not size.may_grow()
    size.lose(ended_with(-9, index=0))
    assert size.now == 3, "the chief is needed"
    assert not size.change(ended_with(2), progress=False), "wrong flags are wrong with all workers too"
    assert said[0] == "the job goes on with 2 of 3 workers" and said[-1] == "all 3 workers go on"


def test_servers_are_tasks_without_gpus():
    tasks = make_tasks(
        workers=["a:1", "b:2"], servers=["c:3"], evaluator=True, args=[], gpus_per_worker=1, visible_gpus=["0", "1"]
    )
    assert [each.name for each in tasks] == ["worker 0", "worker 1", "ps 0", "evaluator 0"]
    assert [each.environment["CUDA_VISIBLE_DEVICES"] for each in tasks] == ["0", "1", "", ""]
    config = json.loads(tasks[2].environment["TF_CONFIG"])
    assert config == {"cluster": {"worker": ["a:1", "b:2"], "ps": ["c:3"]}, "task": {"type": "ps", "index": 0}}


@pytest.mark.slow
def test_a_worker_that_stays_after_the_work_is_done_is_ended_and_does_not_count():
    begin = time.monotonic()
    ended, _ = run("print('done')", "import time; time.sleep(60)", grace_seconds=1)
    assert time.monotonic() - begin < 20
    assert [each.code for each in ended] == [0, -signal.SIGKILL] and find_root_cause(ended) is None
    ended, _ = run("print('done')", f"import sys, time; time.sleep(3); sys.exit({PEER_LOST})")
    assert [each.code for each in ended] == [0, PEER_LOST] and find_root_cause(ended) is None


def test_a_job_whose_work_is_done_does_not_grow():
    """The chief has ended: what still ends is not ended for a worker that could be taken back."""
    others = len(psutil.Process().children())
    over = lambda: len(psutil.Process().children()) < others + 2  # noqa: E731
    ended, _ = run("pass", "import time; time.sleep(3)", is_over=over)
    assert [each.code for each in ended] == [0, 0]


def test_the_last_line_counts_also_without_an_end():
    code = "import os; os.write(1, b'first\\n'); import time; time.sleep(0.3); os.write(1, b'why'); os._exit(1)"
    ended, lines = run(code)
    assert [line for _, line in lines] == ["first", "why"] and list(ended[0].last_lines) == ["first", "why"]


def test_a_task_that_closes_its_output_goes_on():
    ended, _ = run("import os, time; os.close(1); os.close(2); time.sleep(1); os._exit(4)")
    assert [each.code for each in ended] == [4]


def test_workers_that_have_to_be_killed_for_a_growth_are_no_end_of_the_job(tmp_path):
    ready = tmp_path / "ready"
    now = [0.0]
    size = Size(2, lambda line: None, elastic=True, clock=lambda: now[0])
    size.lose(ended_with(-9, index=1))
    now[0] = 20.0
    ended, _ = run(
        STUBBORN.format(ready=str(ready)), grace_seconds=1, is_over=lambda: ready.exists() and size.may_grow()
    )
    assert find_root_cause(ended) is None and ended[0].forced
    assert size.change(None, progress=True) and size.now == 2
