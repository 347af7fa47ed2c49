"""The command line of `python -m launch`."""

from __future__ import annotations

import difflib
import shlex
import signal
import sys
from collections.abc import Iterable, Sequence

from launch.options import Command, Run, make_parser


def main(argv: Sequence[str]) -> int:
    """Runs a subcommand; returns the exit code."""
    argv = list(argv)
    split = argv.index("--") if "--" in argv else len(argv)
    own, args = argv[:split], argv[split + 1 :]
    parser, commands = make_parser()
    try:
        if own and own[0] not in ("-h", "--help"):
            _check_command(commands, own)
            check_options(commands[own[0]], own[1:], args)
        options = parser.parse_args(own)
        return _find_run(options.command)(options, args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT


def _find_run(command: str) -> Run:
    """Returns what runs a subcommand; its imports take longer than `--help` may."""
    if command == "local":
        from launch import local

        return local.run
    if command == "slurm":
        from launch import slurm

        return slurm.run
    if command == "kubernetes":
        from launch import kubernetes

        return kubernetes.run
    from launch import hosts

    return hosts.run


def _check_command(commands: Iterable[str], own: Sequence[str]) -> None:
    if own[0] in commands:
        return
    names = list(commands)
    if own[0].startswith("-"):
        command = next((word for word in own if word in names), "COMMAND")
        rest = [word for word in own if word != command]
        better = shlex.join(["python", "-m", "launch", command, *rest])
        raise ValueError(f"{own[0]} stands before the command, one of {', '.join(names)}; wanted: {better}")
    nearest = difflib.get_close_matches(own[0], names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"{own[0]} is no command: choose one of {', '.join(names)}{hint}")


def check_options(command: Command, own: Sequence[str], args: Sequence[str]) -> None:
    """Checks that a subcommand has all options that stand before `--`.

    Args:
      command: the subcommand.
      own: what stands between its name and `--`.
      args: what stands behind `--`.

    Raises:
      ValueError: it lacks one; the message names the nearest option, or the command that gives it to the trainer.
    """
    known, unknown = _split(command, own)
    if not unknown:
        return
    what = f"{unknown[0]} is no option of launch {command.name}"
    name, equals, value = unknown[0].partition("=")
    nearest = _find_nearest(name, command.takes_value)
    if nearest:
        raise ValueError(f"{what}; did you mean {nearest}{equals}{value}? Flags of the trainer go behind --")
    better = ["python", "-m", "launch", command.name, *known, "--", *unknown, *args]
    raise ValueError(f"{what}: flags of the trainer go behind --, as in: {shlex.join(better)}")


def _split(command: Command, own: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the options of a subcommand with their values, and all else."""
    known: list[str] = []
    unknown: list[str] = []
    rest = list(own)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name not in command.takes_value:
            unknown.append(word)
            continue
        known.append(word)
        if command.takes_value[name] and not equals and rest:
            known.append(rest.pop(0))
    return known, unknown


def _find_nearest(name: str, options: Iterable[str]) -> str:
    """Returns the option that was meant, "" where none is near."""
    if not name.startswith("-"):
        return ""
    word = name.strip("-").replace("-", "_").lower()
    by_word = {option.strip("-"): option for option in options}
    near = difflib.get_close_matches(word, by_word, n=1, cutoff=0.8)
    near += [each for each in by_word if len(word) > 2 and each.startswith(word)]
    return by_word[near[0]] if near else ""
