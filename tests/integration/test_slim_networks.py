"""The networks that everybody knows, against those of tf_slim: names, shapes, and logits of the same weights."""

import functools

import numpy as np
import pytest

from tests.conftest import REPO
from trainer.errors import UsageError
from trainer.models.building import build_model
from trainer.models.functions import find_model
from trainer.settings.importing import allow_legacy_layers
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(600)
slow, soak = pytest.mark.slow, pytest.mark.soak
GOLDEN = REPO / "tests" / "golden" / "variables"


def slim_network(name):
    """Finds a network of tf_slim: a function of images and training that gives logits."""
    pytest.importorskip("tf_slim")
    pytest.importorskip("tf_keras")
    allow_legacy_layers()
    import tf_slim as slim
    from tf_slim.nets import alexnet, inception_v1, inception_v3, resnet_v1, resnet_v2, vgg

    family = name.partition("_v")[0]
    scopes = {"resnet": resnet_v1.resnet_arg_scope, "inception": inception_v3.inception_v3_arg_scope}
    module = {
        "alexnet_v2": alexnet, "inception_v1": inception_v1, "inception_v3": inception_v3,
    }.get(name, vgg if name.startswith("vgg") else resnet_v1 if "v1" in name else resnet_v2)  # fmt: skip

    def build(images, training):
        more = {"create_aux_logits": training} if name == "inception_v3" else {}
        more |= {"dropout_keep_prob": 1.0} if family != "resnet" else {}
        with slim.arg_scope(scopes[family]() if family in scopes else vgg.vgg_arg_scope()):
            logits, ends = getattr(module, name)(images, num_classes=10, is_training=training, **more)
        return tf.reshape(logits, [-1, 10]), ends.get("AuxLogits")

    return build


def random_values(shapes):
    """Draws values of the size that networks have: variances and scales about 1, kernels of variance 2 / fan-in."""
    rng = np.random.default_rng(1)
    values = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith(("moving_variance", "gamma")):
            values[name] = rng.uniform(0.8, 1.2, shape)
        elif name.endswith(("moving_mean", "beta", "biases")):
            values[name] = rng.normal(0, 0.1, shape)
        else:
            values[name] = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    return {name: value.astype(np.float32) for name, value in values.items()}


def outputs(build, images, values=None):
    """Builds a network; returns the shapes of its variables, and with values what it gives."""
    with tf.Graph().as_default(), tf.Session() as session:
        tensors = build(tf.constant(images))
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        shapes = {name: variable.shape.as_list() for name, variable in variables.items() if name != "global_step"}
        if values is None:
            return shapes, None
        initializers = {name: variable.initializer for name, variable in variables.items()}
        session.run(list(initializers.values()), {op.inputs[1]: values[name] for name, op in initializers.items()})
        return shapes, session.run([tensor for tensor in tensors if tensor is not None])


IN_CI = {
    ("resnet_v1_50", False), ("resnet_v2_50", True), ("inception_v3", True), ("alexnet_v2", True), ("vgg_a", False)
}  # fmt: skip


def marks_of(name, training):
    """One in `pytest`, a few slow, all others soak."""
    return () if (name, training) == ("resnet_v1_50", True) else slow if (name, training) in IN_CI else soak


@pytest.mark.parametrize(
    ("name", "size", "training"),
    [
        pytest.param(name, size, training, marks=marks_of(name, training))
        for name, size in {
            "resnet_v1_50": 65, "resnet_v1_101": 33, "resnet_v1_152": 33, "resnet_v2_50": 64, "resnet_v2_101": 33,
            "resnet_v2_152": 33, "inception_v1": 224, "inception_v3": 299, "alexnet_v2": 224, "vgg_a": 224,
            "vgg_16": 224, "vgg_19": 224,
        }.items()
        for training in (False, True)
    ],
)  # fmt: skip
def test_the_logits_are_those_of_tf_slim(name, size, training):
    slim = slim_network(name)
    images = np.random.default_rng(2).uniform(-1, 1, (3, size, size, 3)).astype(np.float32)
    without = {"alexnet_v2", "vgg_a", "vgg_16", "vgg_19", "inception_v1", "inception_v3"}
    function = find_model(name, ["dropout=0"] if name in without else [], UserCode())

    def build(images):
        step = tf.zeros([], tf.int64)
        built = build_model(function, images, num_classes=10, training=training, draw=step)
        return [built.logits, *built.aux_logits]

    wanted_shapes, _ = outputs(lambda images: slim(images, training), images)
    shapes, _ = outputs(build, images)
    assert {n: s for n, s in shapes.items() if training or "AuxLogits" not in n} == wanted_shapes
    values = random_values(shapes)
    _, wanted = outputs(lambda images: slim(images, training), images, values)
    _, found = outputs(build, images, values)
    for mine, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("name", ["resnet_v1_50", "resnet_v2_50", "inception_v3", "mobilenet_v1", "vgg_16", "resnet20"])
def test_variables_have_the_names_and_shapes_of_the_golden_file(name):
    """A rename shows in review."""
    with tf.Graph().as_default():
        build_model(find_model(name, [], UserCode()), tf.zeros([1, 224, 224, 3]), num_classes=10, training=False)
        lines = sorted(f"{v.op.name} {v.shape.as_list()}" for v in tf.global_variables())
    assert "\n".join(lines) + "\n" == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "count"), [("resnet_v1_50", 267), ("inception_v3", 388), ("vgg_16", 32), ("mobilenet_v1", 137)]
)
def test_there_are_as_many_as_are_published(name, count):
    assert (GOLDEN / f"{name}.txt").read_text().count("\n") == count


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_resnets_for_cifar_have_the_published_number_of_parameters(depth):
    """He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million."""
    with tf.Graph().as_default():
        build_model(
            find_model(f"resnet{depth}", [], UserCode()), tf.zeros([2, 32, 32, 3]), num_classes=10, training=False
        )
        parameters = sum(int(v.shape.num_elements()) for v in tf.trainable_variables())
    wanted = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}[depth]
    assert parameters / 1e6 == pytest.approx(wanted, abs=0.05 if depth == 110 else 0.01)


def test_inception_v3_takes_the_smallest_pictures_that_its_auxiliary_head_can():
    for size in (107, 106):
        with tf.Graph().as_default():
            build = functools.partial(build_model, find_model("inception_v3", [], UserCode()), num_classes=10)
            if size == 107:
                assert build(tf.zeros([1, size, size, 3]), training=False).logits.shape == [1, 10]
                continue
            with pytest.raises(UsageError, match="inception_v3 is for pictures of 107 x 107 or more, not 106 x 106"):
                build(tf.zeros([1, size, size, 3]), training=False)


def test_pictures_that_do_not_fit_are_named():
    with tf.Graph().as_default(), pytest.raises(UsageError, match="vgg_16 is for pictures of 224 x 224, not 160 x 160"):
        build_model(find_model("vgg_16", [], UserCode()), tf.zeros([2, 160, 160, 3]), num_classes=10, training=False)


@pytest.mark.parametrize(
    ("model", "args"), [("resnet20", ""), pytest.param("mobilenet_v1", "multiplier=0.25", marks=slow)]
)
def test_they_train_on_two_towers(train, model, args):
    run = train(
        model=model, model_args=[args], num_gpus=2, train_steps=3, batch_size=16, preprocess="resize(32,32)|scale(-1,1)"
    )
    assert "no gradient" not in (run / "train.log").read_text()
