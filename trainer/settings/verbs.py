"""Programs of several verbs, each with flags and arguments of its own: `python -m trainer.checkpoint list DIR`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.errors import OK, UsageError, unknown_name
from trainer.settings import flags


class Verb(NamedTuple):
    """One of a program."""

    run: Callable[..., int]
    settings: type[Any]  # dataclass of its flags
    arguments: str  # as its usage shows them
    help: str


class Chosen(NamedTuple):
    """What the command line asks for."""

    verb: Verb
    settings: Any
    words: list[str]  # its arguments
    usage: str


def choose_verb(program: str, verbs: Mapping[str, Verb], argv: Sequence[str]) -> Chosen | int:
    """Parses a command line; where it asks for help, or for nothing, prints the verbs and returns the exit code.

    Raises:
      UsageError: there is no such verb, or flag of it.
    """
    if len(argv) < 2 or argv[1] in ("--help", "-h", "-help"):
        lines = [f"  {name} {verb.arguments}\n      {verb.help}" for name, verb in verbs.items()]
        print("\n".join([f"usage: {program} VERB ...", "", *lines, "", f"{program} VERB --help lists a verb's flags"]))
        return OK if len(argv) > 1 else UsageError.exit_code
    if argv[1] not in verbs:
        raise unknown_name("verb", argv[1], verbs)
    verb = verbs[argv[1]]
    usage = f"{program} {argv[1]} {verb.arguments}".rstrip()
    settings, words = flags.parse_command(verb.settings, [argv[0], *argv[2:]], usage)
    return Chosen(verb, settings, words, usage)
