"""Shared fixtures: converted data sets, and the trainer run in this process or in one of its own."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.soak"]
REPO = Path(__file__).parents[1]
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
MNIST_FILES = Path(os.environ.get("MNIST_DIR", REPO.parent / "shared" / "data" / "mnist"))
PICTURES = Path(os.environ.get("PICTURES_DIR", REPO.parent / "shared" / "data" / "pictures"))
CIFAR10 = Path(os.environ.get("CIFAR10_DIR", REPO.parent / "shared" / "data" / "cifar10"))
MOBILENET = Path(os.environ.get("MOBILENET_DIR", REPO.parent / "shared" / "data" / "mobilenet"))
RECORDS = Path(os.environ.get("RECORDS_DIR", REPO.parent / "shared" / "data" / "records"))


def pytest_configure() -> None:
    """Lets signals do what they do in a terminal, also where the tests run under nohup or in the background."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps notes of which code this user has run out of the home directory."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips what builds operations of its own where there is nothing to build them with."""
    from trainer.ops import toolchain

    try:
        toolchain.find_compiler(os.environ)
    except toolchain.NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mnist_files() -> Path:
    if not (MNIST_FILES / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"the MNIST files are not in {MNIST_FILES} (MNIST_DIR names their folder)")
    return MNIST_FILES


def _convert(dataset: str, source_dir: Path, data_dir: Path, num_shards: int = 10) -> Path:
    from trainer.console import Console
    from trainer.data import conversion
    from trainer.data.sources import named

    conversion.convert(
        dataset,
        named.SOURCES[dataset],
        source_dir=source_dir,
        data_dir=data_dir,
        num_shards=num_shards,
        console=Console(),
    )
    return data_dir


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded digits as shards; tests only read them."""
    folder = tmp_path_factory.mktemp("data")
    return _convert("digits", folder, folder / "digits")


@pytest.fixture
def own_digits_dir(tmp_path: Path) -> Path:
    """The same, for a test that damages them."""
    return _convert("digits", tmp_path, tmp_path / "own_digits")


@pytest.fixture(scope="session")
def mnist_dir(mnist_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _convert("mnist", mnist_files, tmp_path_factory.mktemp("data") / "mnist")


@pytest.fixture
def train(digits_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains on the digits in this process; returns the run directory."""
    from trainer import api

    def run(**settings: Any) -> Path:
        settings = {"data_dir": digits_dir, "logdir": tmp_path / "run", "eval_every": "0", **settings}
        assert api.train(**settings).status == "done"
        return Path(settings["logdir"])

    return run


@pytest.fixture(scope="session")
def _trained() -> dict[str, Path]:
    return {}


@pytest.fixture
def train_once(
    _trained: dict[str, Path], digits_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Trains on the digits in this process, once for the same settings; returns a run directory of the test's own."""
    from trainer import api

    def run(**settings: Any) -> Path:
        key = repr(sorted(settings.items()))
        if key not in _trained:
            folder = tmp_path_factory.mktemp("trained") / "run"
            api.train(**{"data_dir": digits_dir, "logdir": folder, "eval_every": "0", **settings})
            _trained[key] = folder
        return Path(shutil.copytree(_trained[key], tmp_path / "run"))

    return run


class Finished:
    """A program that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


def _die_with_the_tests() -> None:
    """Lets the system kill a program whose test was ended by its timeout, which ends the tests at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m MODULE ARGS` and ends it with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        module: str, *args: str, cwd: Path | None = None, environ: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            cwd=cwd,
            env=environment() | (environ or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_the_tests,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run_program(program: Callable[..., subprocess.Popen[str]]) -> Callable[..., Finished]:
    """Runs `python -m MODULE ARGS` to its end."""

    def run(
        module: str,
        *args: str,
        cwd: Path | None = None,
        timeout: float = 120,
        environ: dict[str, str] | None = None,
    ) -> Finished:
        process = program(module, *args, cwd=cwd, environ=environ)
        out, err = process.communicate(timeout=timeout)
        return Finished(process.returncode, out, err)

    return run


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a size, as `1m`, where the tests may mount one."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"tmpfs{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def read_metrics(logdir: Path, name: str) -> dict[int, float]:
    """Reads one value of metrics.jsonl by step."""
    rows = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if name in row}


@pytest.fixture
def run_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Runs `python -m MODULE ARGS` in this process, which has TensorFlow loaded already."""

    def run(module: str, *args: str, cwd: Path | None = None) -> Finished:
        import importlib

        from trainer.console import Console
        from trainer.errors import TrainerError
        from trainer.signals import Signals

        module = "trainer.train" if module == "trainer" else module
        loaded = importlib.import_module(module)
        main = getattr(loaded, "run", None) or getattr(loaded, f"_{module.rpartition('.')[2]}", None) or loaded._program
        if module == "trainer.train":
            main = functools.partial(main, follow=importlib.import_module("trainer.evaluate").run)
        if cwd:
            monkeypatch.chdir(cwd)
        console = Console()
        capfd.readouterr()
        try:
            code = main([module, *args], console, Signals())
        except TrainerError as error:
            console.error(str(error))
            code = error.exit_code
        finally:
            console.close()
        return Finished(code, *capfd.readouterr())

    return run
