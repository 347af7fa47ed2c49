"""Networks by name, for tests that build one by itself."""

from trainer.learning.task import as_floats
from trainer.models.building import build_model
from trainer.models.functions import find_model
from trainer.settings.plugins import UserCode


def logits_of(images, model, model_args="", *, precision="float32", num_classes=10, training=False, **settings):
    """Builds a model on images; returns its logits."""
    function = find_model(model, [model_args], UserCode())
    images = as_floats(images, precision)
    return build_model(function, images, num_classes=num_classes, training=training, **settings).logits
