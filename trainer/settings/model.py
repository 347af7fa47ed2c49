"""Settings of the model, and of the weights that it begins with."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.grammars import MAX_COUNT
from trainer.settings.fields import FRACTION, IDENTITY, TASK, Legal, Use, option

# The function that builds each model, as `plugins.load_function` takes it.
MODELS = {
    "mlp": "trainer.models.mlp:build",
    "lenet": "trainer.models.lenet:build",
    "vgg11": "trainer.models.vgg:build",
}
PRECISIONS = ("float32", "bfloat16", "float16")
SIZES = Legal(lambda sizes: bool(sizes) and min(sizes) >= 1 and max(sizes) <= MAX_COUNT, f"sizes of 1 to {MAX_COUNT:,}")


@dataclass(frozen=True)
class ModelSettings:
    """The model, and the weights that it begins with."""

    model: str = option("lenet", "model", tuple(MODELS), scope=IDENTITY)
    hidden_sizes: tuple[int, ...] = option(
        (500,),
        "mlp: units of each hidden layer, comma-separated",
        scope=IDENTITY,
        legal=SIZES,
        used_by=Use("model", ("mlp",)),
    )
    input_dropout: float = option(
        0.0,
        "mlp: fraction of the input pixels dropped, 0 <= p < 1",
        legal=FRACTION,
        used_by=Use("model", ("mlp",)),
    )
    dropout: float = option(0.5, "fraction of the hidden units dropped, 0 <= p < 1", legal=FRACTION)
    precision: str = option(
        "float32",
        "type of the activations, and of what multiplies them; the rest stays float32; float16 scales the loss, and "
        "halves the scale where a gradient overflows",
        PRECISIONS,
    )
    warm_start: str = option(
        "", "checkpoint, or run directory, whose weights a new run begins with", scope=TASK, path=True
    )
    warm_start_exclude: tuple[str, ...] = option(
        (),
        "variable or scope that keeps its initial values, a regular expression; may be repeated",
        scope=TASK,
        repeated=True,
    )
    warm_start_rename: tuple[str, ...] = option(
        (),
        "old=>new: a regular expression in the names of the checkpoint, and its replacement; may be repeated",
        scope=TASK,
        repeated=True,
    )
    ignore_missing: bool = option(
        False, "let variables that the checkpoint lacks keep their initial values", scope=TASK
    )
    trainable_scopes: tuple[str, ...] = option((), "train only the variables in these, comma-separated", scope=IDENTITY)
    freeze_scopes: tuple[str, ...] = option((), "do not train the variables in these, comma-separated", scope=IDENTITY)
