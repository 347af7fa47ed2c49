"""All settings of a run, checked together. No TensorFlow.

A field of `Config` is a flag of the same name (`flags.py` reads them from here), a key of `config.json`, and nothing
else has to be written down to add one.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UsageError
from trainer.grammars import check_path, check_pattern, parse_clip, parse_decay, parse_period, parse_rename
from trainer.rundir import RunDir
from trainer.settings.cluster import ClusterSettings
from trainer.settings.data import QUEUED_INPUTS, DataSettings, queues_batches
from trainer.settings.fields import IDENTITY, JOB, check_fields, differences, flag_text, is_reference
from trainer.settings.learning import MAX_SKIPS, LearningSettings
from trainer.settings.model import ModelSettings, model_name
from trainer.settings.placement import PlacementSettings
from trainer.settings.run import RunSettings


# The flags of the last base come first in --help.
@dataclass(frozen=True)
class Config(ClusterSettings, PlacementSettings, LearningSettings, ModelSettings, DataSettings, RunSettings):
    """One run of the trainer. The defaults train LeNet on the embedded digits."""

    @property
    def keeps_data(self) -> bool:
        """Does the run directory hold what is known of the data, which lie elsewhere?"""
        return bool(self.source) or is_reference(self.input)


_ONCE = {field.name for field in dataclasses.fields(Config) if field.metadata["once"]}


def validate(config: Config) -> Config:
    """Fills in the defaults that depend on other fields and checks every value.

    Raises:
      UsageError: a value is illegal, or two of them conflict.
    """
    check_fields(config)
    check_path("logdir", config.logdir)
    if config.train_steps and config.epochs:
        raise UsageError("--train_steps and --epochs conflict: give one of them")
    if config.staging == "yes" and not queues_batches(config.input):
        raise UsageError(f"--staging=yes needs an input that queues batches: --input={' or '.join(QUEUED_INPUTS)}")
    check_split(config, config.num_gpus, f"{config.num_gpus} towers")
    if parse_period("warmup", config.warmup).unit == "seconds":
        raise UsageError(f"warmup={config.warmup}: the warm-up must be in steps or epochs")
    _check_warm_start(config)
    clip, decay = parse_clip(config.clip), parse_decay(config.decay)
    if config.max_skips != MAX_SKIPS and config.nonfinite != "skip" and clip[0] != "clip_to_zero":
        raise UsageError(
            f"--max_skips={config.max_skips} is of --nonfinite=skip and --clip=clip_to_zero:MAX: leave it out, or undo "
            f"it with --max_skips={MAX_SKIPS}"
        )
    if decay.kind == "plateau" and not parse_period("eval_every", config.eval_every).amount:
        raise UsageError(f"--decay={config.decay} waits for evaluations, and --eval_every=0 makes none")
    if config.input == "files":
        config = _with_source(config)
    own = model_name(config.input) if is_reference(config.input) else ""
    if own and config.source:
        raise UsageError(f"--source and --input={config.input} conflict: give one of them")
    # Empty: what the manifest says.
    dataset = config.dataset or own or ("" if config.data_dir or config.source else "digits")
    logdir = (
        config.logdir or f"runs/{dataset or Path(config.source or config.data_dir).name}_{model_name(config.model)}"
    )
    kept = str(RunDir(logdir).files_data)
    if own and config.data_dir not in ("", kept):
        raise UsageError(f"--data_dir and --input={config.input} conflict: your function gives the data")
    return dataclasses.replace(
        config,
        dataset=dataset,
        logdir=logdir,
        data_dir=config.data_dir or (kept if config.keeps_data else f"data/{dataset}"),
        epochs=config.epochs or (0.0 if config.train_steps else 60.0),
    )


def _with_source(config: Config) -> Config:
    """Gives the source a path that is the same from anywhere.

    Raises:
      UsageError: there is none.
    """
    if not config.source:
        raise UsageError("--input=files reads pictures where they lie: name their folder by --source=DIR")
    if config.data_dir and config.data_dir != str(RunDir(config.logdir).files_data):
        raise UsageError("--source and --data_dir conflict: --input=files keeps its manifest in the run directory")
    source = Path(config.source).absolute()
    if not source.exists():
        raise UsageError(f"--source={source}: no such file or folder; wanted a folder of pictures, or a list")
    return dataclasses.replace(config, source=str(source))


def _check_warm_start(config: Config) -> None:
    for pattern in config.warm_start_exclude:
        check_pattern(f"warm_start_exclude={pattern}", pattern)
    for rule in config.warm_start_rename:
        parse_rename(f"warm_start_rename={rule}", rule)
    rules = config.warm_start_exclude or config.warm_start_rename or config.ignore_missing
    if rules and not config.warm_start:
        raise UsageError("--warm_start_exclude, --warm_start_rename and --ignore_missing need --warm_start=CHECKPOINT")


def check_split(config: Config, num_towers: int, over: str) -> None:
    """Checks that a batch splits evenly.

    Args:
      config: of the run.
      num_towers: of all workers.
      over: says them, for a message.

    Raises:
      UsageError: it does not; the message names the two nearest sizes that do.
    """
    pieces = num_towers * config.accumulate
    if config.batch_size % pieces == 0:
        return
    lower = config.batch_size // pieces * pieces
    sizes = f"{lower} or {lower + pieces}" if lower else f"{lower + pieces}"
    over += f" in {config.accumulate} pieces each" if config.accumulate > 1 else ""
    raise UsageError(f"batch_size={config.batch_size} does not split over {over}; use {sizes}")


def to_json(config: Config) -> str:
    """Writes a config as the text of `config.json`."""
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in _ONCE}
    return json.dumps(kept, indent=2) + "\n"


def load_config(path: Path) -> Config:
    """Reads a `config.json`, also one written with fewer fields.

    Raises:
      UsageError: the file is damaged, or holds fields that this version does not know.
    """
    try:
        values = json.loads(path.read_text())
        known = {field.name for field in dataclasses.fields(Config)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise ValueError("it is not a configuration of this version")
        parsed: dict[str, Any] = {key: tuple(got) if isinstance(got, list) else got for key, got in values.items()}
        return Config(**parsed)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; move the directory aside or use another --logdir") from error


def identity_differences(old: Config, new: Config) -> list[str]:
    """Lists what makes `new` another experiment than the one that `old` began, as `name: old -> new`."""
    pairs = differences(old, new, IDENTITY)
    # Whether there are averages is in the checkpoint; how slow they are may change.
    pairs = [(name, bool(a), bool(b)) if name == "ema_decay" else (name, a, b) for name, a, b in pairs]
    if "float16" in (old.precision, new.precision):  # Its checkpoints hold the loss scale too.
        pairs.append(("precision", old.precision, new.precision))
    kinds = [config.decay.partition(":")[0] for config in (old, new)]
    if "plateau" in kinds and kinds[0] != kinds[1]:  # Its checkpoints hold what has been seen of it.
        pairs.append(("decay", old.decay, new.decay))
    # A data set without a name is that of the directory, which is compared by its content.
    return [_change(*pair) for pair in pairs if pair[1] != pair[2] and not (pair[0] == "dataset" and "" in pair[1:])]


def job_differences(old: Config, new: Config) -> list[str]:
    """Lists what changes the course of a run that goes on, as `name: old -> new`."""
    addresses = {field.name for field in dataclasses.fields(ClusterSettings)}  # They may be others at each start.
    pairs = [pair for pair in differences(old, new, JOB) if pair[0] not in addresses]
    pairs += [pair for pair in differences(old, new, IDENTITY) if pair[0] == "ema_decay"]
    return [_change(*pair) for pair in pairs]


def _change(name: str, old: Any, new: Any) -> str:
    return f"{name}: {flag_text(old)} -> {flag_text(new)}"
