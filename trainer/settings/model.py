"""Settings of the model, and of the weights that it begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.settings.fields import IDENTITY, REFERENCE, TASK, is_reference, option

# The function that builds each model, as `plugins.load_function` takes it.
MODELS = {
    "mlp": "trainer.models.mlp:build",
    "lenet": "trainer.models.lenet:build",
    "vgg11": "trainer.models.vgg:build",
    "alexnet_v2": "trainer.models.vgg_slim:alexnet_v2",
    "vgg_a": "trainer.models.vgg_slim:vgg_a",
    "vgg_16": "trainer.models.vgg_slim:vgg_16",
    "vgg_19": "trainer.models.vgg_slim:vgg_19",
    "inception_v1": "trainer.models.inception:inception_v1",
    "inception_v3": "trainer.models.inception:inception_v3",
    "mobilenet_v1": "trainer.models.mobilenet:mobilenet_v1",
    **{f"resnet{depth}": f"trainer.models.resnet:resnet{depth}" for depth in (20, 32, 44, 56, 110)},
    **{f"resnet_v1_{depth}": f"trainer.models.resnet:resnet_v1_{depth}" for depth in (50, 101, 152)},
    **{f"resnet_v2_{depth}": f"trainer.models.resnet:resnet_v2_{depth}" for depth in (50, 101, 152)},
}
BATCH_NORMS = ("tower", "sync")
VIEWS = ONE_VIEW, MIRROR = ("one", "mirror")
PRECISIONS = ("float32", "bfloat16", "float16")


def model_name(model: str) -> str:
    """Names a model for people and directories: a user's by its file, or its module."""
    if not is_reference(model):
        return model
    path = model.rpartition(":")[0] if ":" in model else model
    return Path(path).stem if path.endswith(".py") else path.rpartition(".")[2]


@dataclass(frozen=True)
class ModelSettings:
    """The model, and the weights that it begins with."""

    model: str = option(
        "lenet",
        "model: a name, or your function build(images, num_classes, training), as my_net.py or package.module:function",
        tuple(MODELS),
        scope=IDENTITY,
        code=REFERENCE,
    )
    model_args: tuple[str, ...] = option(
        (),
        "options of the model, as 'hidden_sizes=(500, 300), dropout=0.2' (--help_model=NAME lists them); may be "
        "repeated",
        repeated=True,
    )
    help_model: str = option("", "prints what a model is and its options, and ends", once=True)
    precision: str = option(
        "float32",
        "type of the activations, and of what multiplies them; the rest stays float32; float16 scales the loss, and "
        "halves the scale where a gradient overflows",
        PRECISIONS,
    )
    eval_views: str = option(
        "",
        "what the logits of evaluation, export and predict are the mean of: one: the picture; mirror: it and its "
        "mirror image (default: what the model's function asks for by an attribute `eval_views`, else one)",
        ("", *VIEWS),
    )
    batch_norm: str = option(
        "tower",
        "statistics of trainer.models.layers.batch_norm in training: tower: of each tower's part of the batch; sync: "
        "of the whole batch, over all towers and the workers of --strategy=collective",
        BATCH_NORMS,
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
