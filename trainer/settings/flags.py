"""Command lines into settings: the only reader of absl flags, and no TensorFlow, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from trainer import __version__
from trainer.errors import UsageError
from trainer.grammars import local_path
from trainer.settings import config as config_lib
from trainer.settings.config import Config
from trainer.settings.fields import flag_text

# In a wheel the configs lie inside the package, in a checkout beside it.
CONFIG_DIRS = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
# What other trainers call these flags.
ALIASES = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "steps": "train_steps",
    "max_steps": "train_steps",
    "num_epochs": "epochs",
    "gpus": "num_gpus",
    "log_dir": "logdir",
    "train_dir": "logdir",
    "model_dir": "logdir",
    "output_dir": "logdir",
    "dataset_dir": "data_dir",
    "dataset_name": "dataset",
    "model_name": "model",
    "weight_decay_rate": "weight_decay",
    "num_clones": "num_gpus",
    "moving_average_decay": "ema_decay",
}

DEFINE_BY_TYPE: dict[type, Callable[..., Any]] = {
    bool: absl_flags.DEFINE_bool,
    int: absl_flags.DEFINE_integer,
    float: absl_flags.DEFINE_float,
    str: absl_flags.DEFINE_string,
    tuple: absl_flags.DEFINE_list,
}


def config_from_flags(argv: Sequence[str]) -> Config:
    """Parses a trainer's command line (`argv[0]` is the program) into a checked `Config`.

    Raises:
      UsageError: an unknown flag, a value of the wrong type or range, or a positional argument.
      SystemExit: `--help` was printed.
    """
    config: Config = parse_flags(Config, argv, "python -m trainer [--flagfile=configs/NAME.flags] [--flag=value ...]")
    if config.trust_code and not any(_names(arg, "trust_code") for arg in argv[1:]):
        raise UsageError("--trust_code is for one start: give it on the command line, not in a flag file")
    return config_lib.validate(choose_length(config, argv))


def choose_length(config: Any, argv: Sequence[str]) -> Any:
    """Lets a length on the command line win over the other kind of length in a flag file."""
    given = [name for name in ("train_steps", "epochs") if any(_names(arg, name) for arg in argv[1:])]
    if len(given) != 1:
        return config
    return dataclasses.replace(config, **({"epochs": 0.0} if given == ["train_steps"] else {"train_steps": 0}))


def _names(arg: str, name: str) -> bool:
    return arg.startswith("-") and arg.lstrip("-").partition("=")[0] == name


def parse_flags(settings: type[Any], argv: Sequence[str], usage: str) -> Any:
    """Parses a command line into a dataclass whose fields are declared by `fields.option`."""
    parsed, rest = parse_command(settings, argv, usage)
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}: write every flag as --name=value; --help lists the flags")
    return parsed


def parse_command(settings: type[Any], argv: Sequence[str], usage: str) -> tuple[Any, list[str]]:
    """Parses a command line of flags and arguments, as the names of files, into a dataclass and the arguments."""
    values = absl_flags.FlagValues()
    for field in dataclasses.fields(settings):
        _define(field, values)
    if {"--help", "-help", "-h", "--helpfull"} & set(argv[1:]):
        print(help_text(settings, usage))
        sys.exit(0)
    if "version" not in values and {"--version", "-version"} & set(argv[1:]):
        print(f"tower-trainer {__version__}")
        sys.exit(0)
    try:
        _, *rest = values([argv[0], *(find_flagfile(arg) for arg in _join_flagfile(argv[1:]))])
    except UnicodeDecodeError as error:
        raise UsageError(f"--flagfile: the file is no text ({error}); wanted a flag a line, as --name=value") from error
    except absl_flags.UnrecognizedFlagError as error:
        known = [field.name for field in dataclasses.fields(settings)]
        raise UsageError(
            f"--{error.flagname} is no flag{nearest(error.flagname, known)} (--help lists the flags)"
        ) from error
    except absl_flags.Error as error:
        raise UsageError(f"{error}; --help lists the flags") from error
    return settings(**{field.name: _value(field, values) for field in dataclasses.fields(settings)}), rest


def nearest(name: str, known: Sequence[str], dashes: str = "--") -> str:
    """Finds the setting that was meant, also by its name in other trainers: `; did you mean --batch_size?`."""
    alias = ALIASES.get(name.replace("-", "_"))
    close = [alias] if alias in known else difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    return f"; did you mean {dashes}{close[0]}?" if close else ""


def _define(field: dataclasses.Field[Any], values: absl_flags.FlagValues) -> None:
    define = DEFINE_BY_TYPE[type(field.default)]
    if field.metadata["repeated"]:
        absl_flags.DEFINE_multi_string(field.name, [], field.metadata["help"], flag_values=values)
        return
    default = flag_text(field.default) if isinstance(field.default, tuple) else field.default
    define(field.name, default, field.metadata["help"], flag_values=values)


def _value(field: dataclasses.Field[Any], values: absl_flags.FlagValues) -> Any:
    value = values[field.name].value
    if value is None:
        raise UsageError(f"--{field.name} needs a value")
    if field.metadata["path"]:
        return local_path(f"--{field.name}", value)
    return tuple(value) if isinstance(field.default, tuple) else value


def _join_flagfile(args: Sequence[str]) -> list[str]:
    """Writes `--flagfile NAME` as `--flagfile=NAME`."""
    joined: list[str] = []
    for arg in args:
        if joined and joined[-1] in ("--flagfile", "-flagfile"):
            joined[-1] = f"{joined[-1]}={arg}"
        else:
            joined.append(arg)
    return joined


def find_flagfile(arg: str) -> str:
    """Lets `--flagfile=configs/NAME.flags` work from any directory and from an installed wheel.

    Raises:
      UsageError: no such file here, nor among the configs that come with the trainer.
    """
    for dashes in ("--flagfile=", "-flagfile="):
        if arg.startswith(dashes):
            break
    else:
        return arg
    path = Path(local_path("--flagfile", arg.removeprefix(dashes)))
    if path.is_file():
        return f"--flagfile={path}"
    if path.is_dir():
        raise UsageError(f"--flagfile={path} is a directory; wanted a file with a flag a line")
    bundled = [folder / path.name for folder in CONFIG_DIRS if path.parent.name in ("", "configs")]
    for candidate in bundled:
        if candidate.is_file():
            return f"--flagfile={candidate}"
    names = sorted({file.name for folder in CONFIG_DIRS for file in folder.glob("*.flags")})
    raise UsageError(f"--flagfile={path}: no such file; configs that come with the trainer: {', '.join(names)}")


def help_text(settings: type[Any], usage: str) -> str:
    """Describes every flag, topic by topic."""
    lines = [f"usage: {usage}", ""]
    topics = {name: base for base in reversed(settings.__mro__) for name in inspect.get_annotations(base)}
    topic = None
    for field in dataclasses.fields(settings):
        if topics[field.name] is not topic and len(set(topics.values())) > 1:
            topic = topics[field.name]
            lines += [*([""] if lines[-1] else []), (topic.__doc__ or "").splitlines()[0]]
        choices = f" ({'|'.join(field.metadata['choices'])})" if field.metadata["choices"] else ""
        lines.append(f"  --{field.name}={flag_text(field.default)}")
        lines.append(f"      {field.metadata['help']}{choices}")
    lines += ["  --flagfile=FILE", "      reads flags from FILE, one a line; later flags win"]
    return "\n".join([*lines, "  --version", "      prints the version"])


def to_flagfile(config: Config) -> str:
    """Writes a config as a flag file that gives it again."""
    lines = []
    for field in dataclasses.fields(config):
        if field.metadata["once"] or (field.name == "data_dir" and config.keeps_data):  # That follows from the logdir.
            continue
        value = getattr(config, field.name)
        values = value if field.metadata["repeated"] else (value,)
        lines += [f"--{field.name}={flag_text(item)}" for item in values]
    if config.train_steps:
        lines.remove(f"--epochs={flag_text(config.epochs)}")
    return "\n".join(lines) + "\n"
