"""Builds operations ahead of their use, and says where they are: `python -m trainer.ops build`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from trainer.console import Console, exit_program, run_program
from trainer.errors import ERROR, OK, TrainerError, UsageError, unknown_name
from trainer.grammars import local_path
from trainer.settings.fields import option
from trainer.settings.verbs import Verb, choose_verb
from trainer.signals import Signals

PROGRAM = "python -m trainer.ops"


@dataclass(frozen=True)
class BuildSettings:
    output: str = option("", "directory for TOWER_OPS, of machines without a compiler (default: the cache)", path=True)
    target: str = option(
        "", "CPU, as x86-64-v3 (default: this machine's; with --output: x86-64-v3, which has AVX2 and FMA)"
    )


@dataclass(frozen=True)
class NoSettings:
    """No flags."""


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_ops, argv)


def _ops(argv: Sequence[str], console: Console, signals: Signals) -> int:
    chosen = choose_verb(PROGRAM, VERBS, argv)
    if isinstance(chosen, int):
        return chosen
    verb, settings, files, usage = chosen
    if files and not verb.arguments:
        raise UsageError(f"{argv[1]} takes no arguments, got {files[0]!r}; usage: {usage}")
    signals.shield()  # Before TensorFlow's first thread.
    signals.defer()  # The compiler is stopped, and what is half built removed.
    return verb.run(settings, [local_path("source", file) for file in files], console)


def _build(settings: BuildSettings, files: list[str], console: Console) -> int:
    from trainer.ops import cache, own, sources, toolchain
    from trainer.ops.building import LIMIT_SECONDS, make_recipe

    target = settings.target or (toolchain.PORTABLE if settings.output else toolchain.NATIVE)
    if target not in (toolchain.NATIVE, *toolchain.LEVELS):
        raise unknown_name("target", target, (toolchain.NATIVE, *toolchain.LEVELS))
    folder = Path(settings.output) if settings.output else cache.cache_dir(os.environ)
    # Those that are named are one library, as `load` takes them.
    wanted = [[Path(file) for file in files]] if files else [own.paths_of(name) for name in own.OPERATIONS]
    for paths in wanted:
        found = sources.read_sources(paths)
        recipe = make_recipe(found, os.environ, (), target)
        more = {"advice": "give another --output"} if settings.output else {}
        built = cache.find_or_build(folder, found, recipe, say=console.say, limit_seconds=LIMIT_SECONDS, **more)
        took = f"in {built.seconds:.1f} s" if built.seconds else "earlier"
        console.say(f"{found.shown}: built {took}, {built.path.stat().st_size:,} bytes, {built.path.parent}")
    if settings.output:
        console.say(f"where there is no compiler: TOWER_OPS={folder.absolute()} python -m trainer ...")
    return OK


def _check(_: NoSettings, __: list[str], console: Console) -> int:
    from trainer.ops import own, trying

    failed: list[str] = []
    table = Table("operation", "state", "library")
    for name in own.OPERATIONS:
        try:
            loaded = own.find_own(name)
            state, where = trying.TRIALS[name](loaded.module), str(loaded.built.path.parent)
        except TrainerError as error:
            state, where = "failed", ""
            failed.append(f"{name}: {error}")
        table.add_row(name, state, where)
    console.table(table)
    for line in failed:
        console.error(line)
    return ERROR if failed else OK


def _where(_: NoSettings, __: list[str], console: Console) -> int:
    from trainer.ops import cache, loading, toolchain

    folder = cache.cache_dir(os.environ)
    console.say(f"cache: {folder}")
    console.say(f"{loading.ELSEWHERE}: {os.environ.get(loading.ELSEWHERE) or 'not set'}")
    try:
        compiler = toolchain.find_compiler(os.environ)
        console.say(f"compiler: {compiler.command[0]}: {compiler.version}")
    except TrainerError as error:
        console.say(f"compiler: {error}")
    console.say(f"TensorFlow: {toolchain.tensorflow_version()}")
    table = Table("library", "built for", "by")
    for path in sorted(folder.glob("*")):
        if path.is_dir():
            about = cache.read_about(path)
            what = (f"TensorFlow {about.tensorflow}, {about.target}", about.compiler) if about else ("damaged", "")
            table.add_row(path.name, *what)
    console.table(table)
    return OK


def _clean(_: NoSettings, __: list[str], console: Console) -> int:
    from trainer.ops import cache

    folder = cache.cache_dir(os.environ)
    count = cache.remove_all(folder)
    console.say(f"removed {count} librar{'y' if count == 1 else 'ies'} from {folder}")
    return OK


VERBS = {
    "build": Verb(_build, BuildSettings, "[FILE.cc ...]", "build the trainer's own operations, or those of files"),
    "check": Verb(_check, NoSettings, "", "load the trainer's own operations, and compare each with its twin"),
    "where": Verb(_where, NoSettings, "", "the cache, the compiler, and what is built"),
    "clean": Verb(_clean, NoSettings, "", "empty the cache"),
}


if __name__ == "__main__":
    exit_program(main())
