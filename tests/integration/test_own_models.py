"""Networks of the user's own, as TF1 programs have them: the same on any number of towers, and all promises kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import read_metrics
from tests.integration.test_nonfinite import nan_logits, plant  # noqa: F401  (a fixture)
from tests.integration.test_resume import weights
from trainer import api
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.errors import UsageError
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)
OWN = Path(__file__).parents[1] / "own"
TUTORIAL, AVERAGING = f"{OWN / 'tutorial.py'}:inference", f"{OWN / 'tutorial.py'}:averaging"
SLIM, NORMALIZED = f"{OWN / 'slim_nets.py'}", f"{OWN / 'slim_nets.py'}:normalized"
LAYERS = f"{OWN / 'layers_nets.py'}"
KINDS = [TUTORIAL, SLIM, LAYERS]
SETTINGS = {
    "train_steps": 20, "log_every": "1", "batch_size": 48, "decay": "constant", "weight_decay": 1e-3,
    "optimizer": "momentum", "learning_rate": 0.02, "quiet": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _packages(request):
    """Some of these networks need packages that this project does without."""
    text = f"{getattr(request.node, 'callspec', '')} {request.node.name}"
    for package in ("tf_slim", "tf_keras"):
        if "NORMALIZED" in text or "slim" in text or "layers" in text:
            pytest.importorskip(package)


def losses(run):
    return np.array(list(read_metrics(run, "loss").values()))


def checkpoint(run, step):
    reader = tf.train.NewCheckpointReader(str(run / f"model.ckpt-{step}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def own_program(model, images, labels, given, values, steps):
    """Trains a network from some values as a program without towers does; returns losses, and the variables' values."""
    function = UserCode().load(model, default="build")
    with tf.Graph().as_default(), tf.Session() as session:
        logits = function(tf.constant(images), 10, **given)
        logits = logits[0] if isinstance(logits, tuple) else logits
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        total = tf.add_n([loss, *tf.get_collection("losses"), *tf.losses.get_regularization_losses()])
        mine = tf.global_variables()
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            train_op = tf.train.GradientDescentOptimizer(0.1).minimize(total)
        session.run([variable.initializer for variable in mine])
        for variable in mine:
            variable.load(values[variable.op.name], session)
        found = [session.run([total, train_op])[0] for _ in range(steps)]
        return np.array(found), dict(zip((v.op.name for v in mine), session.run(mine), strict=True))


@pytest.mark.parametrize("model", [*KINDS, NORMALIZED, f"{LAYERS}:normalized"])
def test_it_trains_as_its_own_program_does(train, digits_dir, tmp_path, model):
    """All pictures in each batch, so that their order is the same: names, losses and moving means of five steps."""
    images, labels = load_split(load_manifest(digits_dir), "train")
    settings = SETTINGS | {
        "model": model, "batch_size": len(labels), "optimizer": "sgd", "learning_rate": 0.1, "train_steps": 6,
        "weight_decay": 1e-3 if model == TUTORIAL else 0.0, "ema_decay": 0.0, "checkpoint_every": "1",
        "keep_checkpoints": 9,
    }  # fmt: skip
    run = train(**settings)
    first, last = checkpoint(run, 1), checkpoint(run, 6)
    given = {TUTORIAL: {"regularizer": lambda w: 1e-3 * tf.nn.l2_loss(w)}}.get(model, {"training": True})
    given = {"is_training": True} if "slim" in model else given
    wanted, values = own_program(model, images.astype(np.float32) / 255, labels.astype(np.int32), given, first, 5)
    assert set(first) - set(values) == {"global_step", "position", "skipped_steps", "stream"}
    np.testing.assert_allclose(losses(run)[1:], wanted, rtol=1e-5)
    for name, value in values.items():
        np.testing.assert_allclose(last[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"num_gpus": 4},
        {"num_gpus": 4, "steps_per_loop": 20},
        pytest.param({"num_gpus": 2, "strategy": "replicated"}, marks=pytest.mark.slow),
        {"num_gpus": 4, "strategy": "replicated", "steps_per_loop": 10, "preprocess": "float|flip_lr"},
    ],
    ids=str,
)
def test_one_tower_and_more_give_the_same(train, tmp_path, model, settings):
    pipeline = {"preprocess": settings["preprocess"]} if "preprocess" in settings else {}
    one = train(**SETTINGS, model=model, logdir=str(tmp_path / "one"), **pipeline)
    other = train(**SETTINGS, model=model, logdir=str(tmp_path / "other"), **settings)
    if "steps_per_loop" not in settings:
        np.testing.assert_allclose(losses(other), losses(one), rtol=1e-5)
    mine, wanted = weights(other), weights(one)
    assert {name: value.shape for name, value in mine.items()} == {name: value.shape for name, value in wanted.items()}
    for name, value in wanted.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def assert_resumes(train, tmp_path, settings):
    """Trains at once, and in two parts: the same bits."""
    whole = train(**settings, logdir=str(tmp_path / "whole"))
    train(**settings | {"train_steps": 9}, logdir=str(tmp_path / "parts"))
    parts = train(**settings, logdir=str(tmp_path / "parts"))
    wanted = weights(whole)
    for name, value in weights(parts).items():
        assert value.tobytes() == wanted[name].tobytes(), name


@pytest.mark.parametrize("model", [*KINDS, NORMALIZED])
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(train, tmp_path, model):
    settings = SETTINGS | {"model": model, "num_gpus": 2, "deterministic": True}
    assert_resumes(train, tmp_path, settings)


@pytest.mark.parametrize("strategy", ["parameter_device", "replicated"])
def test_updates_are_means_over_the_towers_and_happen_with_the_step(train, plant, strategy):  # noqa: F811
    """Two skipped steps leave means and counters as they were."""
    plant(nan_logits, 4, tower=1, times=2)
    settings = SETTINGS | {"model": AVERAGING, "num_gpus": 2, "nonfinite": "skip", "batch_size": 64}
    found = weights(train(**settings, strategy=strategy))
    assert found["steps"] == 20 and found["steps"].dtype == np.int32 and found["skipped_steps"] == 2
    assert np.isfinite(found["mean"]).all() and found["mean"].any()


def test_a_mean_over_towers_is_that_over_the_batch(train, tmp_path):
    runs = [
        weights(train(**SETTINGS, model=AVERAGING, num_gpus=towers, logdir=str(tmp_path / str(towers))))
        for towers in (1, 4)
    ]
    np.testing.assert_allclose(runs[1]["mean"], runs[0]["mean"], rtol=1e-4, atol=1e-6)


def test_batch_norm_updates_in_the_forward_path_are_those_that_are_collected(train, tmp_path):
    runs = [
        weights(train(**SETTINGS, model=NORMALIZED, model_args=args, num_gpus=2, logdir=str(tmp_path / args[-4:])))
        for args in ("collected=True", "collected=False")
    ]
    for name, value in runs[0].items():
        np.testing.assert_allclose(runs[1][name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert runs[0]["conv1/BatchNorm/moving_mean"].any()


def test_frozen_scopes_keep_their_means(train):
    found = weights(train(**SETTINGS, model=NORMALIZED, freeze_scopes="conv1"))
    assert not found["conv1/BatchNorm/moving_mean"].any() and found["conv2/BatchNorm/moving_mean"].any()


def test_initial_values_follow_from_seed_and_name(train, tmp_path):
    def initial(name, **settings):
        settings = SETTINGS | {"learning_rate": 1e-30, "train_steps": 1, "weight_decay": 0.0} | settings
        return weights(train(**settings, model=TUTORIAL, logdir=str(tmp_path / name)))

    one = initial("one")
    other = initial("other", num_gpus=4, preprocess="float|flip_lr")  # More random operations, and more towers.
    seeded = initial("seeded", seed=2)
    for name in ("layer1/weights", "Variable"):
        assert one[name].tobytes() == other[name].tobytes()
        assert (one[name] != seeded[name]).mean() > 0.99
    assert abs(one["layer1/weights"].std() / 0.1 - 1) < 0.05


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", r"takes \(\), and not the images in first place; wanted build\(images, num_classes, training"),
        ("num_classes_first", r"takes \(num_classes, images\), and not the images in first place"),
        ("needs_more", "missing a required argument: 'width'; it takes width"),
        ("fails", r"wrong\.py:24, in fails: ValueError: "),
        ("returns_nothing", "returned a NoneType; wanted logits, float32"),
        ("squeezes_nothing", r"returned a tensor of shape \(64, 1, 1, 10\) for images \(64, 8, 8, 1\); wanted logits"),
        ("no_logits", "returned a dict of predictions; wanted `logits`"),
        ("other_classes", r"of shape \(64, 7\) .*wanted logits, float32 \[batch, 10\]"),
        ("sets_seed", "sets the seed of the graph, which is that of --seed"),
        ("takes_a_name", "asks for a variable 'position', which is the trainer's"),
        ("makes_a_name_twice", "makes a tf.Variable 'weights', then asks get_variable for one of that name"),
        ("no_variable", "makes no variable that can be trained"),
        ("vector_loss", r"collects a loss of shape \(64,\)"),
        ("scatters", "writes into table by ResourceScatterUpdate .* while it computes; wanted assign"),
        ("assigns_in_a_branch", "assigns to mean inside of tf.cond or a loop"),
        ("reads_after", "reads count after it has assigned to it"),
        ("in_training_alone", "in in_training_alone: ValueError: Variable other does not exist"),
        ("by_towers", "tower 1 built other variables than tower 0"),
        ("python_update", r"puts .*\(PyFunc.*\) into UPDATE_OPS, which assigns to no variable"),
        ("averages_tensors", "asks for a variable tower_0/.*, named after a tower, as averages of tensors"),
        ("always_drops", "draws random numbers where it is not trained too"),
        ("assigns_another_shape", r"assigns \(3,\) to mean, which is \(4,\)"),
        ("hides", "keeps hidden out of GLOBAL_VARIABLES"),
        ("ref", "asks for old with use_resource=False"),
        ("return_nothing", "function=return_nothing is unknown.*did you mean returns_nothing"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(train, function, message):
    with pytest.raises(UsageError, match=message) as error:
        train(model=f"{OWN / 'wrong.py'}:{function}", train_steps=2, num_gpus=1 + (function == "by_towers"), quiet=True)
    assert "\n" not in str(error.value).strip()


def test_updates_that_nobody_runs_and_variables_without_gradient_are_said(train):
    run = train(model=f"{OWN / 'wrong.py'}:idle", train_steps=2)
    said = (run / "train.log").read_text()
    assert "makes updates of mean that nobody runs" in said
    assert "no gradient reaches unused, which keep their initial values" in said
    assert weights(run)["mean"] == 0


def test_random_operations_of_its_own_are_said_and_refused_where_bits_are_promised(train):
    settings = {"model": LAYERS, "model_args": "rate=0.3", "train_steps": 2}
    assert "draws random numbers by tower_0/dropout" in (train(**settings) / "train.log").read_text()
    with pytest.raises(UsageError, match=r"--deterministic: .* draws random numbers by tower_0/dropout"):
        train(**settings, deterministic=True, resume="never")


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ("weight_decoy=1", "unexpected keyword argument 'weight_decoy'; it takes weight_decay=0.001"),
        ("weight_decay='a'", "weight_decay='a' is not legal: wanted a number"),
        ("0.1", "write options as name=value; --model=.* has weight_decay=0.001"),
        ("weight_decay=", "the arguments are no literals"),
    ],
)
def test_options_are_checked(train, model_args, message):
    with pytest.raises(UsageError, match=message):
        train(model=SLIM, model_args=model_args)


def test_the_files_may_change_or_go_and_the_run_goes_on(digits_dir, tmp_path, run_here, monkeypatch):
    """From another directory, by every program."""
    folder, logdir = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    (folder / "sizes.py").write_text("WIDTH = 12\n")
    (folder / "my_net.py").write_text(
        "import tensorflow.compat.v1 as tf\nfrom sizes import WIDTH\n\n"
        "def build(images, num_classes, training):\n"
        "    x = tf.reshape(images, [-1, 64])\n"
        "    x = tf.nn.relu(tf.matmul(x, tf.get_variable('hidden', [64, WIDTH])))\n"
        "    return tf.matmul(x, tf.get_variable('logits', [WIDTH, num_classes]))\n"
    )
    monkeypatch.chdir(folder)
    settings = {"model": "my_net.py", "data_dir": digits_dir, "logdir": logdir, "quiet": True, "num_gpus": 2}
    api.train(**settings, train_steps=10)
    shutil.rmtree(folder)
    folder.mkdir()
    result = api.train(**settings, train_steps=20)
    assert result.step == 20 and result.status == "done"
    monkeypatch.chdir(tmp_path)
    evaluated = run_here("trainer.evaluate", f"--logdir={logdir}", "--json")
    assert json.loads(evaluated.out.splitlines()[-1])["accuracy"] == pytest.approx(result.test["accuracy"])
    exported = run_here("trainer.export", f"--logdir={logdir}", "--format=frozen", f"--output={tmp_path / 'net.pb'}")
    assert exported.code == 0, exported


def test_check_looks_at_a_model_before_it_is_trained(tmp_path, run_here, monkeypatch):
    """All that it would surprise with; and nothing is left of it."""
    monkeypatch.chdir(tmp_path)
    assert run_here("trainer.check", "--new=first.py").code == 0
    done = run_here("trainer.check", "--model=first.py")
    assert done.code == 0 and "conv2/weights" in done.out and "note" not in done.out, done
    # 8x8: conv1 2*64*9*16, conv2 on 4x4 2*16*9*16*32, logits 2*32*10.
    assert "0.2 million floating-point operations for a picture" in done.out, done
    assert "5,130 values in 6 variables, 5,130 of them trained" in done.out, done
    done = run_here("trainer.check", f"--model={OWN / 'wrong.py'}:idle")
    assert "note: " in done.out and "makes updates of mean that nobody runs" in done.out, done
    assert "no gradient reaches unused" in done.out, done
    done = run_here("trainer.check", f"--model={LAYERS}", "--model_args=rate=0.3")
    assert "note: " in done.out and "draws random numbers" in done.out, done
    assert [path.name for path in tmp_path.iterdir()] == ["first.py"]
    assert run_here("trainer.check", "--new=first.py").code == 2
    done = run_here("trainer.check", f"--model={OWN / 'wrong.py'}:fails")
    assert done.code == 2 and "in fails: ValueError" in done.err, done


def test_assignments_to_trained_variables_come_before_the_step(train, tmp_path):
    """This one changes nothing: the weights are those of the network without it, bit for bit, on two towers."""
    settings = {**SETTINGS, "num_gpus": 2, "train_steps": 50}
    found = []
    for function in ("clips", "clips_nothing"):
        run = train(**settings, model=f"{OWN / 'wrong.py'}:{function}", logdir=tmp_path / function)
        found.append(weights(run)["weights"])
    assert found[0].tobytes() == found[1].tobytes()


def test_the_mode_is_understood_by_its_names_in_tf1(train):
    assert (
        "draws random numbers by tower_0/dropout"
        in (train(model=f"{OWN / 'wrong.py'}:phase", train_steps=2) / "train.log").read_text()
    )


def test_whole_numbers_are_evaluated_too(train, run_here):
    run = train(**SETTINGS, model=AVERAGING)
    done = run_here("trainer.evaluate", f"--logdir={run}")
    assert done.code == 0 and "test accuracy" in done.out, done


HOOKS = """
import tensorflow.compat.v1 as tf

class Writer(tf.train.SessionRunHook):
    def __init__(self, path):
        self.path, self.steps = path, []
    def before_run(self, run_context):
        return tf.train.SessionRunArgs(tf.train.get_global_step())
    def after_run(self, run_context, run_values):
        self.steps.append(int(run_values.results))
        if self.steps[-1] > 6:
            run_context.request_stop()
    def end(self, session):
        open(self.path, "w").write(f"{len(self.steps)} {self.steps[-1]}")

def hooks():
    return [Writer("steps.txt")]

class Wrong(tf.train.SessionRunHook):
    def after_run(self, run_context, run_values):
        raise KeyError("x")

def wrong():
    return Wrong()

def none():
    return 3

def optimizer(learning_rate):
    return tf.train.AdadeltaOptimizer(learning_rate)

class Uncounted(tf.train.GradientDescentOptimizer):
    def apply_gradients(self, pairs, global_step=None, name=None):
        return super().apply_gradients(pairs)

def uncounted(learning_rate):
    return Uncounted(learning_rate)

def fixed(learning_rate):
    return tf.train.FtrlOptimizer(learning_rate)
"""


def test_hooks_and_optimizers_of_ones_own(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(HOOKS)
    run = train(hooks="own.py", optimizer="own.py:optimizer", train_steps=50)
    assert (tmp_path / "steps.txt").read_text().split()[0] in ("7", "8")
    assert any("Adadelta" in name for name in weights(run))
    with pytest.raises(UsageError, match=r"own\.py:21, in after_run: KeyError"):
        train(hooks="own.py:wrong", train_steps=5, resume="never")
    with pytest.raises(UsageError, match=r"--hooks=own\.py:none returned a int; wanted SessionRunHooks"):
        train(hooks="own.py:none", train_steps=5, resume="never")
    with pytest.raises(UsageError, match=r"--optimizer=own\.py:none takes"):
        train(optimizer="own.py:none", train_steps=5, resume="never")
    with pytest.raises(UsageError, match="add 1 to global_step"):
        train(optimizer="own.py:uncounted", train_steps=5, resume="never")
    with pytest.raises(UsageError, match=r"own\.py.*: TypeError: "):
        train(optimizer="own.py:fixed", train_steps=5, resume="never")
    with pytest.raises(UsageError, match="did you mean hooks"):
        train(hooks="own.py:hook", train_steps=5, resume="never")
