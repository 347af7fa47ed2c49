"""What builds operations: the compiler, TensorFlow's flags, the CPU, and NVIDIA's compiler."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.errors import TrainerError
from trainer.tf1 import tf

COMPILERS = ("g++", "clang++", "c++")
# The same bits as TensorFlow's own kernels, which are built without fused products and sums.
OPTIMIZE = ("-O3", "-ffp-contract=off", "-fno-math-errno")
NATIVE = "native"
PORTABLE = "x86-64-v3"
# What a CPU of a level of x86-64 can do (System V ABI, micro-architecture levels), as /proc/cpuinfo names it.
LEVELS = {
    "x86-64-v2": {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"cx16", "popcnt", "sse4_2", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"},
}
VERSION_SECONDS = 30  # that a compiler may take to say its version


class Compiler(NamedTuple):
    """A compiler of this machine."""

    command: tuple[str, ...]
    version: str  # its own first line


class NoCompilerError(TrainerError):
    """There is nothing to build operations with."""


def find_compiler(environ: Mapping[str, str]) -> Compiler:
    """Finds the compiler of $CXX, or the first of COMPILERS.

    Raises:
      NoCompilerError: there is none, or it does not work.
    """
    try:
        wanted = shlex.split(environ.get("CXX", ""))
    except ValueError as error:
        raise NoCompilerError(f"$CXX={environ['CXX']} is no command: {error}") from error
    choices = [tuple(wanted)] if wanted else [(name,) for name in COMPILERS]
    path = environ.get("PATH", os.defpath)
    for command in choices:
        if found := shutil.which(command[0], path=path):
            return Compiler((found, *command[1:]), _version_of((found, *command[1:])))
    looked = f"$CXX={environ['CXX']}" if wanted else f"{', '.join(COMPILERS)} on $PATH"
    raise NoCompilerError(
        f"there is no C++ compiler (looked for {looked}): install one by `apt install g++` or `conda install gxx`, or "
        "build where there is one by `python -m trainer.ops build --output=DIR`, and name that directory in TOWER_OPS"
    )


@functools.cache
def _version_of(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_SECONDS,
            check=True,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoCompilerError(f"the C++ compiler {shlex.join(command)} does not work: {error}") from error
    return next(iter(done.stdout.splitlines()), "").strip() or "of no version"


class Nvcc(NamedTuple):
    """NVIDIA's compiler."""

    command: str
    home: str  # its toolkit


def find_nvcc(environ: Mapping[str, str]) -> Nvcc | None:
    """Finds NVIDIA's compiler, where TensorFlow can use GPUs; None where there is none with its libraries."""
    homes = [environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)] + ["/usr/local/cuda"]
    found = shutil.which("nvcc", path=environ.get("PATH", os.defpath))
    if found:
        homes.insert(0, str(Path(found).resolve().parents[1]))
    for home in homes if tf.test.is_built_with_cuda() else ():
        command = found or shutil.which("nvcc", path=f"{home}/bin")
        if command and (Path(home) / "lib64" / "libcudart_static.a").is_file():
            return Nvcc(command, home)
    return None


def tensorflow_version() -> str:
    """Names the TensorFlow whose classes a library uses."""
    return f"{tf.version.VERSION} ({tf.version.GIT_VERSION})"


def cpu_flags(target: str) -> tuple[str, ...]:
    """Returns the flags for a CPU.

    Args:
      target: NATIVE, or a name of LEVELS.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return ("-mcpu=native",) if target == NATIVE else ()
    return (f"-march={target}",)


@functools.cache
def cpu_features() -> frozenset[str]:
    """Lists what this CPU can do, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset({platform.machine(), platform.processor()})
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())


def missing_features(wanted: Iterable[str]) -> str:
    """Lists what a CPU has to be able to do and this one cannot, a few of it; empty where it can do all."""
    return ", ".join(sorted(set(wanted) - cpu_features())[:5])


def header_flags() -> tuple[str, ...]:
    """Returns what TensorFlow's headers need; their warnings are not the user's."""
    return tuple(flag.replace("-I", "-isystem", 1) for flag in tf.sysconfig.get_compile_flags())


def link_flags() -> tuple[str, ...]:
    return tuple(tf.sysconfig.get_link_flags())
