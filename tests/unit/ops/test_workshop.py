"""The cache of built libraries: once for all processes, whole or not at all, and errors that say what to do."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.soak import amounts
from trainer.errors import Stopped, TrainerError, UsageError
from trainer.ops import cache, loading, toolchain
from trainer.ops.sources import read_sources
from trainer.ops.toolchain import NoCompilerError

BUILD = "import os, sys, pathlib; from trainer.ops import loading, sources\n"
BUILD += "loading.find_library(sources.read_sources([pathlib.Path(sys.argv[1])]), (), os.environ)"


def find(source, environ, **more):
    return loading.find_library(read_sources([source]), (), environ, **more)


def start(source, environ):
    command = [sys.executable, "-c", BUILD, str(source)]
    return subprocess.Popen(command, cwd=REPO, env=environ, stderr=subprocess.PIPE, text=True)


def libraries(environ):
    folder = cache.cache_dir(environ)
    return sorted(path.name for path in folder.glob("*") if not path.name.endswith(".lock"))


def test_it_is_built_once_and_one_line_says_how_long_it_took(source, fake, capsys):
    environ = fake()
    first, second = find(source, environ), find(source, environ)
    assert fake.calls() == 1 and first.path == second.path and first.seconds > 0 == second.seconds
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "building the operations of twice.cc, once, by fake compiler 1"
    assert lines[1].startswith("built the operations of twice.cc in 0.") and len(lines) == 2


@pytest.mark.parametrize("change", ["source", "header", "flags", "compiler"])
def test_what_it_follows_from_makes_another_library(source, fake, change):
    environ = fake()
    sources, flags = read_sources([source]), ()
    before = loading.find_library(sources, flags, environ)
    if change == "compiler":
        environ = fake("echo other >&2; true", CXX=environ["CXX"] + " -O1")
    if change in ("source", "header"):
        path = source if change == "source" else source.with_name("twice.h")
        path.write_text(path.read_text() + "\n")
        sources = read_sources([source])
    after = loading.find_library(sources, ("-DMORE",) if change == "flags" else flags, environ)
    assert after.path != before.path and fake.calls() == 2


def test_what_is_compiled_is_what_was_read(source, fake, tmp_path):
    sources = read_sources([source])
    source.write_text("something else")
    built = loading.find_library(sources, (), fake())
    assert (built.path.parent / "sources" / "twice.cc").read_bytes() == sources.contents["twice.cc"]


def test_two_processes_at_once_build_it_once(source, fake):
    environ = fake("sleep 1")
    processes = [start(source, environ) for _ in range(3)]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert fake.calls() == 1 and sum("waiting for another process" in lines for lines in said) == 2


@amounts("times", 20, 50)
def test_killed_at_any_moment_it_leaves_nothing_half(source, fake, times):
    environ = fake("sleep 0.3")
    for number in range(times):
        source.write_text(f"// {number}\n")
        process = start(source, environ)
        begin = time.monotonic()
        while not (cache.cache_dir(environ)).exists() or not any("part" in name for name in libraries(environ)):
            assert time.monotonic() - begin < 60 and process.poll() is None
            time.sleep(0.01)
        time.sleep(random.Random(number).uniform(0, 0.4))
        process.kill()
        process.communicate(timeout=60)
        built = find(source, environ)
        assert built.path.is_file() and not [
            name for name in libraries(environ) if built.path.parent.name + "." in name
        ]


def test_a_signal_ends_the_build_and_the_compiler(source, fake, tmp_path):
    environ = fake(f"echo $$ > {tmp_path}/pid; exec sleep 60") | {"PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "trainer.ops", "build", str(source)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begin = time.monotonic()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() - begin < 60 and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 143 and time.monotonic() - begin < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not [name for name in libraries(environ) if "part" in name]


def test_a_signal_while_another_builds_ends_the_waiting(source, fake, monkeypatch):
    environ = fake()
    sources = read_sources([source])
    path = cache.cache_dir(environ)
    path.mkdir(parents=True)
    from trainer.ops.building import make_recipe

    recipe = make_recipe(sources, environ, (), "native")
    lock = path / (cache.key_of(sources, recipe) + cache.LOCK)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainerError, match=r"another process has held .* for 0.2 s, and has built nothing"):
            find(source, environ, limit_seconds=0.1)

        def stop():
            raise Stopped(signal.SIGTERM)

        monkeypatch.setattr(cache, "check_installed", stop)
        with pytest.raises(Stopped):
            find(source, environ)


def test_a_compiler_that_hangs_is_stopped(source, fake):
    with pytest.raises(TrainerError, match=r"has not ended within 0.5 s, and was stopped"):
        find(source, fake("sleep 60"), limit_seconds=0.5)


def test_a_compiler_that_dies_is_told_with_its_last_words(source, fake):
    with pytest.raises(TrainerError, match=r"was ended by signal 9: no memory \(all of it: .*\.failed\.log\)"):
        find(source, fake("echo no memory; kill -9 $$"))


def test_the_first_error_is_in_the_users_file(source, fake, tmp_path):
    what = 'for a in "$@"; do case "$a" in */twice.cc) echo "$a:3:1: error: no such thing";; esac; done; exit 1'
    with pytest.raises(UsageError, match=rf"^{source}:3: no such thing \(all of it: ") as caught:
        find(source, fake(what))
    log = Path(str(caught.value).rpartition("all of it: ")[2].rstrip(")"))
    assert "no such thing" in log.read_text()


def test_a_symbol_that_is_missing_is_named(source, fake):
    with pytest.raises(UsageError, match="undefined reference to `f"):
        find(source, fake("echo 'x.o: undefined reference to `f()'; exit 1"))


def test_a_cache_that_cannot_be_written_is_done_without(source, fake, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = (find(source, fake(XDG_CACHE_HOME="/proc/nowhere")) for _ in range(2))
    assert first.path == second.path and first.path.is_relative_to(tmp_path) and fake.calls() == 1
    assert "cannot be written: the operations of twice.cc are kept among the temporary files" in capsys.readouterr().err


def test_a_temporary_cache_of_somebody_else_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = cache.temporary_cache()
    assert first == cache.temporary_cache()
    first.chmod(0o777)
    assert cache.temporary_cache() != first


def test_a_library_in_the_cache_outlives_its_compiler(source, fake):
    built = find(source, fake())
    assert find(source, fake(CXX="no-such")).path == built.path and fake.calls() == 1


def test_a_compiler_that_is_no_command_is_none(source, fake):
    with pytest.raises(NoCompilerError, match="is no command: No closing quotation"):
        find(source, fake(CXX='g++ "'))


def test_what_is_being_built_is_not_cleaned(source, fake):
    environ = fake()
    built, other = find(source, environ), find(source, fake(CXX=environ["CXX"] + " -O1"))
    with (cache.cache_dir(environ) / f"{built.path.parent.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cache.remove_all(cache.cache_dir(environ)) == 1
    assert built.path.is_file() and not other.path.exists()


def test_a_cache_that_cannot_be_written_any_more_still_serves(source, fake, monkeypatch):
    environ = fake()
    built = find(source, environ)
    monkeypatch.setattr(loading, "_can_write", lambda folder: False)
    assert find(source, environ).path == built.path and fake.calls() == 1


def test_a_full_disk_is_told(source, fake, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "compile_library", full)
    with pytest.raises(TrainerError, match=r"cannot be kept in .*: No space left on device; make room there"):
        find(source, fake())
    monkeypatch.undo()
    with pytest.raises(TrainerError, match="No space left on device"):
        find(source, fake("echo 'fatal error: error writing to x.s: No space left on device'; exit 1"))


def test_a_damaged_library_is_built_again(source, fake):
    environ = fake()
    built = find(source, environ)
    built.path.write_bytes(b"half")
    again = find(source, environ)
    assert again.path == built.path and again.seconds and fake.calls() == 2


def test_without_a_compiler_it_says_what_it_looked_for(source, fake, tmp_path):
    for more, looked in ({"CXX": ""}, r"g\+\+, clang\+\+, c\+\+ on \$PATH"), ({"CXX": "no-such"}, r"\$CXX=no-such"):
        with pytest.raises(NoCompilerError, match=f"looked for {looked}") as caught:
            find(source, fake(**more, PATH=str(tmp_path)))
        assert caught.value.exit_code == 1
        for way in ("apt install g++", "conda install gxx", "python -m trainer.ops build --output=DIR", "TOWER_OPS"):
            assert way in str(caught.value)


def built_elsewhere(source, fake, tmp_path, **changes):
    """Builds a library for another machine, and changes what it says of itself."""
    environ = fake()
    sources = read_sources([source])
    from trainer.ops.building import make_recipe

    folder = tmp_path / "elsewhere"
    recipe = make_recipe(sources, environ, (), "x86-64-v2")
    built = cache.find_or_build(folder, sources, recipe, say=lambda line: None, limit_seconds=10)
    about = built.path.parent / cache.ABOUT
    about.write_text(json.dumps({**json.loads(about.read_text()), **changes}))
    return folder


def test_what_was_built_elsewhere_needs_no_compiler(source, fake, tmp_path):
    folder = built_elsewhere(source, fake, tmp_path)
    built = find(source, fake(CXX="no-such", TOWER_OPS=str(folder)))
    assert built.path.is_relative_to(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tensorflow": "2.20.0 (v2.20)"}, r"built for TensorFlow 2\.20\.0 \(v2\.20\), and this is 2\.21"),
        ({"sources": "others"}, "built from other sources"),
        ({"cpu": ["such_a_feature"]}, "built for a CPU with such_a_feature, which this one has not"),
        ({"library": "0"}, "is damaged"),
        ({"cpu": 5}, "is damaged"),
    ],
)
def test_a_wrong_library_is_built_again_once_or_named(source, fake, tmp_path, capsys, changes, why):
    folder = built_elsewhere(source, fake, tmp_path, **changes)
    with pytest.raises(NoCompilerError, match=why):
        find(source, fake(CXX="no-such", TOWER_OPS=str(folder)))
    built = find(source, fake(TOWER_OPS=str(folder)))
    assert built.seconds and "; built anew\n" in capsys.readouterr().err


def test_a_file_that_is_no_library_is_told(source, fake, monkeypatch):
    monkeypatch.setattr(loading, "LOADED", {})
    with pytest.raises(TrainerError, match=r"library\.so cannot be loaded: .*"):
        loading.find_loaded([source], environ=fake())


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([], "no C\\+\\+ file is named"),
        (["twice.txt"], "wanted a C\\+\\+ file that ends in .cc"),
        (["other.cc"], "there is no file .*other.cc; beside it lie twice.cc"),
    ],
)
def test_what_is_no_source_is_named(source, names, error):
    with pytest.raises(UsageError, match=error):
        read_sources([source.with_name(name) for name in names])


def test_a_file_for_gpus_is_left_out_without_nvcc_and_said(source, fake, monkeypatch, capsys):
    source.with_suffix(".cu").write_text("// kernel\n")
    monkeypatch.setattr(toolchain, "find_nvcc", lambda environ: None)
    find(source, fake())
    assert "twice.cu: there is no nvcc on $PATH: these operations run on CPUs alone\n" in capsys.readouterr().err


def test_a_file_for_gpus_goes_through_nvcc(source, fake, monkeypatch, tmp_path):
    source.with_suffix(".cu").write_text("// kernel\n")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho object > "$2"\n')
    nvcc.chmod(0o755)
    monkeypatch.setattr(toolchain, "find_nvcc", lambda environ: toolchain.Nvcc(str(nvcc), "/cuda"))
    built = find(source, fake())
    log = (built.path.parent / "build.log").read_text().splitlines()
    assert log[0].startswith(f"{nvcc} -c") and "twice.cu" in log[0]
    assert (
        "-DGOOGLE_CUDA=1" in log[1]
        and "-L/cuda/lib64" in log[1]
        and "0.o" in log[1]
        and "twice.cu" not in log[1]
        and built.about.cuda
    )
