"""Every setting of a run: its name, default, help and legal values. No TensorFlow.

A field of `Config` is a flag of the same name (`flags.py` reads them from here), a key of `config.json`, and nothing
else has to be written down to add one.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UsageError, unknown_name
from trainer.grammars import (
    MAX_COUNT,
    MAX_RATE,
    MAX_STEPS,
    check_path,
    check_pattern,
    parse_clip,
    parse_decay,
    parse_period,
    parse_rename,
)

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
PRECISIONS = ("float32", "bfloat16", "float16")
MODELS = ("mlp", "lenet", "vgg11")
INPUTS = ("queue", "preloaded", "feed", "synthetic")
QUEUED_INPUTS = ("queue", "feed")  # A batch of theirs is another one whenever it is taken.
REDUCTIONS = ("copy", "tree", "collective", "nccl")
STRATEGIES = ("auto", "parameter_device", "replicated", "collective", "ps_sync", "ps_async")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
PERIODS = (*(f"{what}_every" for what in ("checkpoint", "summary", "histogram", "eval", "trace", "log")), "warmup")


def option(
    default: Any, text: str, choices: tuple[str, ...] = (), identity: bool = False, repeated: bool = False
) -> Any:
    """Declares a field; `identity` marks what a log directory cannot change between two runs.

    A flag that is `repeated` may be given several times; its default is the empty tuple.
    """
    kind: dict[str, Any] = {"help": text, "choices": choices, "identity": identity, "repeated": repeated}
    return dataclasses.field(default=default, metadata=kind)


@dataclass(frozen=True)
class Config:
    """One run of the trainer. The defaults train LeNet on the embedded digits."""

    logdir: str = option("", "run directory, also for `tensorboard --logdir` (default: runs/DATASET_MODEL)")
    dataset: str = option("digits", "data set", DATASETS, identity=True)
    data_dir: str = option("", "directory of its TFRecord shards (default: data/DATASET)")
    input: str = option("queue", "how batches reach the towers", INPUTS)
    queue_readers: int = option(1, "threads that read and parse shards; the order of the records stays the same")
    queue_capacity: int = option(64, "whole batches that the input queue holds")
    model: str = option("lenet", "model", MODELS, identity=True)
    hidden_sizes: tuple[int, ...] = option((500,), "mlp: units of each hidden layer, comma-separated", identity=True)
    input_dropout: float = option(0.0, "mlp: fraction of the input pixels dropped, 0 <= p < 1")
    dropout: float = option(0.5, "fraction of the hidden units dropped, 0 <= p < 1")
    batch_size: int = option(64, "images of one step, over all towers")
    train_steps: int = option(0, "last step (default: --epochs)")
    epochs: float = option(0.0, "passes over the training set, instead of --train_steps (default: 60)")
    optimizer: str = option("adam", "optimizer", OPTIMIZERS, identity=True)
    momentum: float = option(0.9, "momentum of `momentum` and `rmsprop`")
    rmsprop_decay: float = option(0.9, "discount of the squared gradients of `rmsprop`")
    learning_rate: float = option(0.001, "learning rate, before --decay and --warmup")
    decay: str = option(
        "cosine",
        "constant | exponential:RATE:PERIOD[:staircase] | piecewise:PERIOD=RATE,... | cosine "
        "(to zero at the last step)",
    )
    warmup: str = option("0", "period over which the rate rises linearly to its value")
    clip: str = option("none", "none | norm:MAX (each gradient) | global_norm:MAX | value:MAX")
    weight_decay: float = option(0.0, "L2 factor on weights, never on biases: loss += factor * sum(w^2) / 2")
    ema_decay: float = option(
        0.99, "decay of the weights' moving averages, with num_updates=step; 0: none", identity=True
    )
    precision: str = option(
        "float32",
        "type of the activations, and of what multiplies them; the rest stays float32; float16 scales the loss, and "
        "halves the scale where a gradient overflows",
        PRECISIONS,
    )
    num_gpus: int = option(1, "towers of this process, one for each GPU; without GPUs, virtual CPU devices")
    device: str = option("gpu", "cpu: hide the GPUs and use virtual CPU devices", ("gpu", "cpu"))
    virtual_gpus: bool = option(False, "split the GPUs that are there into --num_gpus virtual ones")
    parameter_device: str = option("cpu", "where the variables live: cpu, or the first tower's device", ("cpu", "gpu"))
    staging: str = option(
        "auto", "copy the next batch to the towers' devices while a step computes; auto: on GPUs", ("auto", "yes", "no")
    )
    data_format: str = option(
        "auto",
        "what convolutions compute in; auto: channels_first on GPUs, channels_last on CPU devices",
        ("auto", "channels_first", "channels_last"),
    )
    strategy: str = option(
        "auto",
        "parameter_device: one process, variables on one device; replicated: a copy of them on each tower's; "
        "collective: each worker of a cluster has its own, gradients are all-reduced; ps_sync: variables on parameter "
        "servers, one update of all workers' gradients; ps_async: each worker makes its own updates there; auto: "
        "ps_sync with --ps_hosts, else collective, alone parameter_device",
        STRATEGIES,
    )
    reduce: str = option(
        "copy",
        "how --strategy=replicated adds gradients: copy: on --parameter_device; tree: in pairs; collective: in a ring; "
        "nccl: by NVIDIA's library",
        REDUCTIONS,
    )
    job_name: str = option("", "of this process in its cluster, instead of TF_CONFIG: worker (0 is the chief), ps")
    task_index: int = option(0, "of this process in its job")
    worker_hosts: tuple[str, ...] = option((), "host:port of every worker, comma-separated")
    ps_hosts: tuple[str, ...] = option((), "host:port of every parameter server, comma-separated")
    network_is_isolated: bool = option(
        False, "let a worker listen on public addresses: nobody but the cluster's hosts reaches its port"
    )
    join_seconds: float = option(300.0, "a worker waits so long for the others to start")
    bucket_mb: float = option(
        -1.0,
        "megabytes of gradients that travel together, from each tower to the mean and from worker to worker; "
        "0: each by itself; -1: 32 between workers, 0 in one process",
    )
    steps_per_loop: int = option(
        1,
        "most steps that TensorFlow runs by itself, without Python between them; fewer where anything is due, and "
        "where they would take over a quarter of a second",
    )
    intra_op_threads: int = option(0, "threads that one operation may use; 0: as many as cores")
    inter_op_threads: int = option(
        0, "operations that may run at once; 0: chosen, see benchmarks/README.md; -1: a step's own thread runs them"
    )
    allow_soft_placement: bool = option(True, "let an operation without a kernel for its device run elsewhere")
    log_device_placement: bool = option(False, "print the device of every operation")
    seed: int = option(1, "seed of the weights, the order of the records and dropout")
    deterministic: bool = option(
        False,
        "only operations that give the same bits in every run, in threads that do; slower, see benchmarks/README.md",
    )
    nonfinite: str = option(
        "stop",
        "what a step with a loss or gradient that is NaN or infinite does, which is never applied: stop: ends the run "
        "with exit code 3; skip: is counted, and the run goes on",
        ("stop", "skip"),
    )
    max_skips: int = option(100, "steps that --nonfinite=skip skips before it stops too")
    skip_corrupt: int = option(0, "damaged records that are skipped; 0: the first one is an error")
    stall_seconds: float = option(60.0, "a step that takes longer is reported, with what it waits for; 0: never")
    stall_fatal: bool = option(False, "end the run at such a step, after a checkpoint")
    grace_seconds: float = option(25.0, "time to save and end after SIGTERM or Ctrl-C, before the process ends anyway")
    warm_start: str = option("", "checkpoint, or run directory, whose weights a new run begins with")
    warm_start_exclude: tuple[str, ...] = option(
        (), "variable or scope that keeps its initial values, a regular expression; may be repeated", repeated=True
    )
    warm_start_rename: tuple[str, ...] = option(
        (),
        "old=>new: a regular expression in the names of the checkpoint, and its replacement; may be repeated",
        repeated=True,
    )
    ignore_missing: bool = option(False, "let variables that the checkpoint lacks keep their initial values")
    trainable_scopes: tuple[str, ...] = option((), "train only the variables in these, comma-separated", identity=True)
    freeze_scopes: tuple[str, ...] = option((), "do not train the variables in these, comma-separated", identity=True)
    resume: str = option(
        "auto",
        "auto: go on from the newest checkpoint of --logdir; must: fail without one; "
        "never: move an earlier run aside and start at step 0",
        ("auto", "must", "never"),
    )
    checkpoint_every: str = option("60s", "period of checkpoints: 100 (steps), 2epochs, 60s or 0 (only at the end)")
    keep_checkpoints: int = option(5, "newest checkpoints that are kept")
    summary_every: str = option("100", "period of scalar summaries")
    histogram_every: str = option("5epochs", "period of weight and gradient histograms and of the image grid")
    eval_every: str = option("5epochs", "period of the evaluation on the validation set")
    trace_every: str = option("0", "period of RunMetadata traces")
    log_every: str = option("100", "period of progress lines where there is no terminal")


def validate(config: Config) -> Config:
    """Fills in the defaults that depend on other fields and checks every value.

    Raises:
      UsageError: a value is illegal, or two of them conflict.
    """
    _check_choices(config)
    _check_numbers(config)
    check_path("logdir", config.logdir)
    if config.train_steps and config.epochs:
        raise UsageError("--train_steps and --epochs conflict: give one of them")
    if config.staging == "yes" and config.input not in QUEUED_INPUTS:
        raise UsageError(f"--staging=yes needs an input that queues batches: --input={' or '.join(QUEUED_INPUTS)}")
    if config.batch_size % config.num_gpus:
        raise UsageError(uneven_split(config.batch_size, config.num_gpus))
    for name in PERIODS:
        period = parse_period(name, getattr(config, name))
        if name == "warmup" and period.unit == "seconds":
            raise UsageError(f"warmup={config.warmup}: the warm-up must be in steps or epochs")
    _check_warm_start(config)
    parse_clip(config.clip)
    parse_decay(config.decay)
    return dataclasses.replace(
        config,
        logdir=config.logdir or f"runs/{config.dataset}_{config.model}",
        data_dir=config.data_dir or f"data/{config.dataset}",
        epochs=config.epochs or (0.0 if config.train_steps else 60.0),
    )


def _check_warm_start(config: Config) -> None:
    for pattern in config.warm_start_exclude:
        check_pattern(f"warm_start_exclude={pattern}", pattern)
    for rule in config.warm_start_rename:
        parse_rename(f"warm_start_rename={rule}", rule)
    rules = config.warm_start_exclude or config.warm_start_rename or config.ignore_missing
    if rules and not config.warm_start:
        raise UsageError("--warm_start_exclude, --warm_start_rename and --ignore_missing need --warm_start=CHECKPOINT")


def uneven_split(batch_size: int, num_towers: int, over: str = "") -> str:
    """Says that a batch does not split evenly over so many towers, with the two nearest sizes that do."""
    lower = batch_size // num_towers * num_towers
    sizes = f"{lower} or {lower + num_towers}" if lower else f"{lower + num_towers}"
    return f"batch_size={batch_size} does not split over {over or f'{num_towers} towers'}; use {sizes}"


def _check_choices(config: Config) -> None:
    for field in dataclasses.fields(config):
        value, choices = getattr(config, field.name), field.metadata["choices"]
        if choices and value not in choices:
            raise unknown_name(field.name, value, choices)


def _check_numbers(config: Config) -> None:
    def require(name: str, legal: bool, wanted: str) -> None:
        if not legal:
            value = getattr(config, name)
            text = ",".join(str(item) for item in value) if isinstance(value, tuple) else value
            raise UsageError(f"{name}={text} is out of range: {wanted}")

    for name in ("batch_size", "num_gpus", "queue_readers", "queue_capacity", "keep_checkpoints", "steps_per_loop"):
        require(name, 1 <= getattr(config, name) <= MAX_COUNT, f"1 to {MAX_COUNT:,}")
    for name in ("train_steps", "epochs", "intra_op_threads"):
        require(name, 0 <= getattr(config, name) <= MAX_STEPS, f"0 to {MAX_STEPS:,}")
    for name in ("max_skips", "skip_corrupt", "stall_seconds"):
        require(name, 0 <= getattr(config, name) <= MAX_STEPS, f"0 to {MAX_STEPS:,}")
    require(
        "bucket_mb", config.bucket_mb in (-1.0, 0.0) or 0 < config.bucket_mb <= MAX_RATE, f"-1, or 0 to {MAX_RATE:g}"
    )
    require("join_seconds", 0 < config.join_seconds <= MAX_COUNT, f"above 0, to {MAX_COUNT:,}")
    require("grace_seconds", 0 < config.grace_seconds <= MAX_COUNT, f"above 0, to {MAX_COUNT:,}")
    require("weight_decay", 0 <= config.weight_decay <= MAX_RATE, f"0 to {MAX_RATE:g}")
    for name in ("input_dropout", "dropout", "momentum", "rmsprop_decay", "ema_decay"):
        require(name, 0 <= getattr(config, name) < 1, "0 <= value < 1")
    require("inter_op_threads", -1 <= config.inter_op_threads <= MAX_COUNT, f"-1 to {MAX_COUNT:,}")
    require("learning_rate", 0 < config.learning_rate <= MAX_RATE, f"above 0, to {MAX_RATE:g}")
    sizes = config.hidden_sizes
    require("hidden_sizes", bool(sizes) and min(sizes) >= 1 and max(sizes) <= MAX_COUNT, f"sizes of 1 to {MAX_COUNT:,}")
    require("seed", 0 <= config.seed < 2**31, "0 <= seed < 2^31")


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


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
    names = [field.name for field in dataclasses.fields(Config) if field.metadata["identity"]]
    if old.model == new.model != "mlp":
        names.remove("hidden_sizes")
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    pairs = [(name, bool(a), bool(b)) if name == "ema_decay" else (name, a, b) for name, a, b in pairs]
    if "float16" in (old.precision, new.precision):  # Its checkpoints hold the loss scale too.
        pairs.append(("precision", old.precision, new.precision))
    return [f"{name}: {a} -> {b}" for name, a, b in pairs if a != b]
