"""Command lines of the launcher that hold what it does not know, and flags that the trainer does not know."""

from __future__ import annotations

import sys

import pytest

from launch import checking
from launch.checking import check_flags, flag_value
from launch.command import main

HINT = "--no_check goes on without this check, as for files that are only where the job runs\n"
BEHIND = "flags of the trainer go behind --, as in: python -m launch"


@pytest.mark.parametrize(
    ("args", "better"),
    [
        (["local", "--workers=2", "--epochs=3"], "local --workers=2 -- --epochs=3"),
        (["local", "--epochs", "3", "--workers", "2"], "local --workers 2 -- --epochs 3"),
        (["local", "--epochs=3", "--", "--model=mlp"], "local -- --epochs=3 --model=mlp"),
        (["slurm", "--submit", "--logdir=my run"], "slurm --submit -- '--logdir=my run'"),
        (["kubernetes", "--image=i", "--epochs=3"], "kubernetes --image=i -- --epochs=3"),
        (["hosts", "--hosts=a", "--epochs=3"], "hosts --hosts=a -- --epochs=3"),
        (["local", "lenet"], "local -- lenet"),
    ],
)
def test_a_flag_of_the_trainer_before_the_dashes_is_put_behind_them(args, better, capsys):
    assert main(args) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and printed.err.startswith("error: ") and not printed.out
    assert printed.err.endswith(f"{BEHIND} {better}\n")


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["local", "--worker=2"], "--workers=2"),
        (["local", "--gpus-per-worker=2"], "--gpus_per_worker=2"),
        (["local", "-workers", "2"], "--workers"),
        (["slurm", "--part=gpu"], "--partition=gpu"),
        (["slurm", "--no-requeue"], "--no_requeue"),
        (["kubernetes", "--imge=registry/trainer:1"], "--image=registry/trainer:1"),
        (["hosts", "--host=a,b"], "--hosts=a,b"),
    ],
)
def test_a_misspelt_option_names_the_nearest_one(args, meant, capsys):
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: {args[1]} is no option of launch {args[0]}; did you mean {meant}? Flags of the trainer go behind --\n"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["locl", "--workers=2"],
            "locl is no command: choose one of local, slurm, kubernetes, hosts; did you mean local?",
        ),
        (["ray"], "ray is no command: choose one of local, slurm, kubernetes, hosts"),
        (
            ["--workers=2", "local"],
            "--workers=2 stands before the command, one of local, slurm, kubernetes, hosts; "
            "wanted: python -m launch local --workers=2",
        ),
        (
            ["--epochs=3"],
            "--epochs=3 stands before the command, one of local, slurm, kubernetes, hosts; "
            "wanted: python -m launch COMMAND --epochs=3",
        ),
    ],
)
def test_the_command_comes_first(args, message, capsys):
    assert main(args) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


TRAINER = """
import sys
print("args", sys.argv[1:], flush=True)
if "--nope=1" in sys.argv:
    print("a warning of a library", file=sys.stderr)
    print("error: Unknown command line flag 'nope'; --help lists the flags", file=sys.stderr)
    sys.exit(2)
if "--model=lacks:it" in sys.argv:
    print("error: --model=lacks:it: No module named 'lacks'", file=sys.stderr)
    sys.exit(1)
if "--data_dir=none" in sys.argv and sys.argv[-1] == "--dry_run=data":
    print("error: none: no data", file=sys.stderr)
    sys.exit(1)
if "--crash" in sys.argv:
    raise RuntimeError("why")
if "--slow" in sys.argv:
    import time
    time.sleep(60)
"""
KINDS = {
    "slurm": ["slurm", f"--python={sys.executable}"],
    "kubernetes": ["kubernetes", "--image=i", "--volume=c"],
    "hosts": ["hosts", "--hosts=127.0.0.1", "--dry_run"],
}


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Makes a small program the trainer of what is started in the current directory."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_flags_of_the_trainer_print_no_script(kind, trainer, capsys):
    assert main([*KINDS[kind], "--", "--logdir=/data/run", "--nope=1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: Unknown command line flag 'nope'; --help lists the flags\n" + HINT


@pytest.mark.parametrize("kind", KINDS)
def test_flags_that_are_right_print_it(kind, trainer, capsys):
    assert main([*KINDS[kind], "--", "--logdir=/data/run"]) == 0
    printed = capsys.readouterr()
    assert "--logdir=/data/run" in printed.out and printed.err == ""
    assert "dry_run" not in printed.out


@pytest.mark.parametrize(
    "args",
    [
        ["slurm", "--nodes=3", f"--python={sys.executable}"],
        ["kubernetes", "--image=i", "--volume=c", "--workers=3"],
        ["hosts", "--hosts=127.0.0.1,127.0.0.2,127.0.0.3", "--dry_run"],
    ],
    ids=lambda args: args[0],
)
def test_flags_that_do_not_fit_the_number_of_workers_print_no_script(args, capsys):
    assert main([*args, "--", "--logdir=/data/run", "--data_dir=/data/digits", "--batch_size=64"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "batch_size=64 does not split over 3 towers (3 workers with 1 each)" in printed.err


@pytest.mark.parametrize("flag", ["--worker_hosts=a:1", "--ps_hosts=a:1", "--job_name=ps", "--task_index=1"])
def test_what_is_written_for_each_host_is_no_flag_of_the_trainer(flag, capsys):
    assert main(["hosts", "--hosts=127.0.0.1", "--dry_run", "--", flag]) == 2
    assert "is written by launch hosts itself" in capsys.readouterr().err


def test_only_where_the_file_system_is_shared_the_data_must_be_there(trainer, capsys):
    args = ["--", "--logdir=/data/run", "--data_dir=none"]
    assert main([*KINDS["slurm"], *args]) == 1
    assert capsys.readouterr().err == "error: none: no data\n" + HINT
    assert main([*KINDS["hosts"], *args]) == 0
    assert main([*KINDS["kubernetes"], *args]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_check_skips_the_check(kind, trainer, capsys):
    assert main([*KINDS[kind], "--no_check", "--", "--logdir=/data/run", "--nope=1"]) == 0
    printed = capsys.readouterr()
    assert "--nope=1" in printed.out and printed.err == ""


def test_nothing_is_submitted_with_wrong_flags(trainer, tmp_path, monkeypatch, capsys):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/sh\ncat > {tmp_path}/submitted\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")
    assert main([*KINDS["slurm"], "--submit", "--", "--nope=1"]) == 2
    assert not (tmp_path / "submitted").exists()
    assert main([*KINDS["slurm"], "--submit"]) == 0
    assert (tmp_path / "submitted").read_text().startswith("#!/bin/bash\n")


def test_an_interpreter_without_a_trainer_goes_on_and_says_so(tmp_path, capsys):
    python = tmp_path / "python"
    # Without the current directory, and without what is installed.
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    assert main(["slurm", f"--python={python}"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("the trainer's flags were not checked: ") and printed.err.count("\n") == 1
    assert "No module named trainer" in printed.err and printed.out.startswith("#!/bin/bash\n")


def test_an_interpreter_that_is_only_on_the_nodes_goes_on_and_says_so(capsys):
    assert main(["slurm", "--python=/nowhere/python"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "the trainer's flags were not checked: /nowhere/python: No such file or directory\n"
    assert printed.out.startswith("#!/bin/bash\n")


def test_a_trainer_that_lacks_a_library_here_is_not_checked(tmp_path, monkeypatch, capsys):
    (tmp_path / "trainer.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    assert check_flags(sys.executable, [], with_data=False) == 0
    assert capsys.readouterr().err == (
        "the trainer's flags were not checked: ModuleNotFoundError: No module named 'a_library_that_is_not_there'\n"
    )


def test_a_module_that_a_flag_names_is_no_missing_trainer(trainer, capsys):
    assert check_flags(sys.executable, ["--model=lacks:it"], with_data=False) == 1
    assert capsys.readouterr().err == "error: --model=lacks:it: No module named 'lacks'\n" + HINT


def test_a_trainer_that_crashes_shows_how(trainer, capsys):
    assert check_flags(sys.executable, ["--crash"], with_data=False) == 1
    assert capsys.readouterr().err.endswith("RuntimeError: why\n" + HINT)


def test_a_check_that_takes_too_long_is_given_up(trainer, capsys):
    assert checking.SECONDS == 60.0
    assert check_flags(sys.executable, ["--slow"], with_data=True, seconds=0.5) == 0
    said = f"the trainer's flags were not checked: {sys.executable} -m trainer did not answer within 0.5 s\n"
    assert capsys.readouterr().err == said


def test_the_trainer_itself_checks_its_flags(run_program):
    done = run_program("launch", "hosts", "--hosts=127.0.0.1", "--dry_run", "--", "--nope=1")
    assert done.code == 2 and done.out == "" and done.err.startswith("error: ") and "nope" in done.err, done
    done = run_program("launch", "hosts", "--hosts=127.0.0.1", "--dry_run", "--", "--model=lenet", "--dataset=digits")
    assert done.code == 0 and "--model=lenet" in done.out and done.err == "", done


def test_the_last_of_a_flags_values_counts():
    args = ["--logdir=a", "-logdir", "b", "--resume=never", "--nologdir=c"]
    assert flag_value(args, "logdir") == "b"
    assert flag_value(args, "resume") == "never"
    assert flag_value(args, "data_dir") is None
    assert flag_value(["--logdir"], "logdir") == ""
