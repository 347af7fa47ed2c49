"""Settings of the learning: how long, by which optimizer, at which rate."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.grammars import MAX_COUNT, MAX_RATE, MAX_STEPS
from trainer.settings.fields import FRACTION, IDENTITY, REFERENCE, WITHIN, Use, above, between, option

LOSSES = ("", "softmax", "sigmoid", "mse", "huber", "hinge")
MAX_SKIPS = 100
OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw")


@dataclass(frozen=True)
class LearningSettings:
    """How long, by which optimizer, at which rate."""

    batch_size: int = option(64, "images of one step, over all towers", legal=between(1, MAX_COUNT))
    accumulate: int = option(
        1,
        "pieces into which each tower splits its images, computed one after the other within a step, so that large "
        "batches fit into memory",
        legal=between(1, MAX_COUNT),
    )
    train_steps: int = option(0, "last step (default: --epochs)", legal=between(0, MAX_STEPS))
    epochs: float = option(
        0.0, "passes over the training set, instead of --train_steps (default: 60)", legal=between(0, MAX_STEPS)
    )
    loss: str = option(
        "",
        "loss: a name, or your function loss(logits, labels), as my_loss.py or package.module:function (default: "
        "softmax, of several labels sigmoid, of numbers mse)",
        LOSSES,
        code=REFERENCE,
    )
    loss_args: tuple[str, ...] = option(
        (),
        "options of the loss, as 'label_smoothing=0.1', 'class_weights=(1, 2.5)' or 'delta=0.5'; may be repeated",
        repeated=True,
    )
    metrics: str = option(
        "",
        "your function metrics(logits, labels) -> {name: [batch]}, beside the metrics of the kind of label",
        code=WITHIN,
    )
    best: str = option(
        "",
        "metric by which one checkpoint is better than another, as my_metric:max or loss:min (default: accuracy, "
        "mean_average_precision or mean_absolute_error)",
    )
    stop_after: int = option(
        0, "end after so many evaluations in a row without a better one; 0: never", legal=between(0, MAX_COUNT)
    )
    optimizer: str = option(
        "adam",
        "optimizer: a name, or your function optimizer(learning_rate) that returns a tf.train.Optimizer",
        OPTIMIZERS,
        scope=IDENTITY,
        code=REFERENCE,
    )
    momentum: float = option(
        0.9,
        "momentum of `momentum`, `nesterov` and `rmsprop`",
        legal=FRACTION,
        used_by=Use("optimizer", ("momentum", "nesterov", "rmsprop")),
    )
    rmsprop_decay: float = option(
        0.9, "discount of the squared gradients of `rmsprop`", legal=FRACTION, used_by=Use("optimizer", ("rmsprop",))
    )
    learning_rate: float = option(0.001, "learning rate, before --decay and --warmup", legal=above(0, MAX_RATE))
    decay: str = option(
        "cosine",
        "constant | exponential:RATE:PERIOD[:staircase] | piecewise:PERIOD=RATE,... | cosine "
        "(to zero at the last step) | plateau:RATE[:N] (times RATE after each N evaluations without a better one)",
    )
    warmup: str = option("0", "period over which the rate rises linearly to its value", period=True)
    clip: str = option(
        "none",
        "none | norm:MAX (each gradient) | global_norm:MAX | value:MAX | clip_to_zero:MAX (a step whose gradients have "
        "a larger norm, all together, is not applied, and counted)",
    )
    weight_decay: float = option(
        0.0,
        "L2 factor on weights, never on biases: loss += factor * sum(w^2) / 2; of adamw, decoupled from the loss",
        legal=between(0, MAX_RATE),
    )
    ema_decay: float = option(
        0.99,
        "decay of the weights' moving averages, with num_updates=step; 0: none",
        scope=IDENTITY,
        legal=FRACTION,
    )
    nonfinite: str = option(
        "stop",
        "what a step with a loss or gradient that is NaN or infinite does, which is never applied: stop: ends the run "
        "with exit code 3; skip: is counted, and the run goes on",
        ("stop", "skip"),
    )
    max_skips: int = option(
        MAX_SKIPS,
        "steps that --nonfinite=skip and --clip=clip_to_zero:MAX skip before the run stops",
        legal=between(0, MAX_STEPS),
    )
    seed: int = option(1, "seed of the weights, the order of the records and dropout", legal=between(0, 2**31 - 1))
    deterministic: bool = option(
        False,
        "only operations that give the same bits in every run, in threads that do; slower, see docs/performance.md",
    )
