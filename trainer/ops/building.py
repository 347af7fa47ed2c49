"""Sources into a library: the compiler's command, its limit of time, and what of its errors is shown."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.errors import TrainerError, UsageError
from trainer.ops import toolchain
from trainer.ops.sources import Sources
from trainer.ops.toolchain import Compiler, Nvcc
from trainer.signals import check_installed

LIMIT_SECONDS = 600.0  # that a compiler may take
POLL_SECONDS = 0.05
LOG = "build.log"
LIBRARY = "library.so"
ERROR_LINE = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$", re.MULTILINE)
LINKER_LINES = re.compile(r"^.*(undefined reference to|cannot find|No space left).*$", re.MULTILINE)


class Recipe(NamedTuple):
    """How a library is built."""

    compiler: Compiler
    nvcc: Nvcc | None  # for the .cu files among the sources; None: they are left out
    flags: tuple[str, ...]  # of the user's
    target: str  # the CPU, see `toolchain.cpu_flags`


def make_recipe(sources: Sources, environ: Mapping[str, str], flags: Sequence[str], target: str) -> Recipe:
    """Finds what a library is built with.

    Raises:
      NoCompilerError: there is none.
    """
    nvcc = toolchain.find_nvcc(environ) if sources.cuda else None
    return Recipe(toolchain.find_compiler(environ), nvcc, tuple(flags), target)


def compile_library(sources: Sources, recipe: Recipe, folder: Path, limit_seconds: float = LIMIT_SECONDS) -> None:
    """Compiles a library in an empty folder, which then holds LIBRARY, LOG and the sources.

    Raises:
      UsageError: the compiler refuses a source.
      TrainerError: it does not end, or fails otherwise.
    """
    for file, content in sources.contents.items():
        path = folder / "sources" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for command in _commands(sources, recipe, folder):
        _run(command, sources, folder, limit_seconds)
    if not (folder / LIBRARY).is_file():
        raise TrainerError(f"{shlex.join(recipe.compiler.command)} has ended well, and has written no library")


def _commands(sources: Sources, recipe: Recipe, folder: Path) -> list[list[str]]:
    paths = [str(folder / "sources" / file) for file in sources.compiled if file not in sources.cuda]
    commands, more, objects = [], [], []
    if recipe.nvcc:
        for number, file in enumerate(sources.cuda):
            objects.append(str(folder / f"{number}.o"))
            source = str(folder / "sources" / file)
            commands.append(
                [recipe.nvcc.command, "-c", "-O3", "-std=c++17", "-Xcompiler=-fPIC", source, "-o", objects[-1]]
            )
        home = recipe.nvcc.home
        more = ["-DGOOGLE_CUDA=1", f"-isystem{home}/include", f"-L{home}/lib64"]
        more += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]  # So that it loads where there is no GPU, too.
    compiler = [*recipe.compiler.command, "-shared", "-fPIC", *toolchain.OPTIMIZE]
    compiler += [*toolchain.header_flags(), *toolchain.cpu_flags(recipe.target), *recipe.flags]
    # A symbol that is missing is told now, and not by the first session.
    output = ["-o", str(folder / LIBRARY), *toolchain.link_flags(), *more, "-Wl,--no-undefined"]
    return [*commands, [*compiler, *paths, *objects, *output]]


def _run(command: Sequence[str], sources: Sources, folder: Path, limit_seconds: float) -> None:
    environ = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    with (folder / LOG).open("ab") as log:
        log.write(f"{shlex.join(command)}\n".encode(errors="surrogateescape"))
        log.flush()
        # A group of its own, because compilers start others.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
        )
        try:
            code = _wait(process, limit_seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code is None:
        raise TrainerError(
            f"the compiler {command[0]} has not ended within {limit_seconds:g} s, and was stopped: see whether it "
            "works on any file, or name another one in $CXX"
        )
    if code:
        text = (folder / LOG).read_text(errors="replace")
        raise _failure(text, code, command[0], sources, folder)


def _wait(process: subprocess.Popen[bytes], limit_seconds: float) -> int | None:
    """Waits for the compiler, or for a signal that ends the program; returns None where it takes too long."""
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_SECONDS)
        check_installed()
    return None


def _failure(log: str, code: int, command: str, sources: Sources, folder: Path) -> TrainerError:
    """Makes the error of a compiler that failed: its first, in the user's file."""
    inside = f"{folder / 'sources'}/"
    first = ERROR_LINE.search(log)
    if first and first["file"].startswith(inside):
        return UsageError(f"{sources.root / first['file'].removeprefix(inside)}:{first['line']}: {first['text']}")
    if first:
        return UsageError(f"{sources.shown}: {first['file']}:{first['line']}: {first['text']}")
    if linker := LINKER_LINES.search(log):
        kind = TrainerError if "No space left" in linker[0] else UsageError
        return kind(f"{sources.shown}: {linker[0].replace(inside, '').strip()}")
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "it has said nothing")
    ended = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return TrainerError(f"{sources.shown}: the compiler {command} {ended}: {last.replace(inside, '').strip()}")
