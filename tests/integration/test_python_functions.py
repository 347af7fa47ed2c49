"""Functions where settings take names, and evaluation, prediction and data from Python."""

import json
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

from tests.conftest import REPO
from tests.integration.test_own_models import OWN
from tests.integration.test_resume import weights
from trainer import api
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.errors import UsageError

pytestmark = pytest.mark.timeout(120)
SETTINGS = {"train_steps": 60, "batch_size": 48, "learning_rate": 0.01, "quiet": True, "eval_every": "20"}


def make_build(width):
    """A function that no file has under its name."""

    def build(images, num_classes, training):
        x = tf.nn.relu(tf.matmul(tf.reshape(images, [-1, 64]), tf.get_variable("hidden", [64, width])))
        return tf.matmul(x, tf.get_variable("logits", [width, num_classes]))

    return build


def doubled(logits, labels):
    return 2 * tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def examples(split):
    rng = np.random.default_rng(len(split))
    for _ in range(60):
        label = int(rng.integers(2))
        yield np.full((8, 8), 40 + 100 * label, np.uint8), label


def test_functions_stand_for_names(digits_dir, tmp_path, run_here):
    same = SETTINGS | {"data_dir": digits_dir, "logdir": tmp_path / "run"}
    metrics = {"loss": doubled, "metrics": lambda logits, labels: {"largest": tf.reduce_max(logits, 1)}}
    result = api.train(
        **same, model=make_build(32), optimizer=lambda rate: tf.train.MomentumOptimizer(rate, 0.9), **metrics
    )
    assert result.test["accuracy"] > 0.5 and "largest" in result.test
    assert api.evaluate(tmp_path / "run", quiet=True) == pytest.approx(result.test)
    images, _ = load_split(load_manifest(digits_dir), "test")
    found = api.predict(tmp_path / "run", images[:20])
    assert found.values.shape == (20, 10) and found.values.sum(1) == pytest.approx(np.ones(20), rel=1e-5)
    Image.fromarray(images[3][..., 0]).save(tmp_path / "3.png")
    np.testing.assert_allclose(
        api.predict(tmp_path / "run", [tmp_path / "3.png"]).values[0], found.values[3], rtol=1e-5
    )
    done = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}")
    assert done.code == 2 and "is a function that Python gave to trainer.api.train" in done.err, done


def test_a_run_goes_on_with_the_function_given_again(digits_dir, tmp_path):
    same = SETTINGS | {"data_dir": digits_dir, "eval_every": "0", "decay": "constant"}
    api.train(**same, model=make_build(32), logdir=tmp_path / "whole")
    for steps in (25, 60):
        api.train(**same | {"train_steps": steps}, model=make_build(32), logdir=tmp_path / "parts")
    whole = weights(tmp_path / "whole")
    for name, value in weights(tmp_path / "parts").items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


def test_another_process_gives_it_again(digits_dir, tmp_path, monkeypatch):
    result = api.train(**SETTINGS, data_dir=digits_dir, logdir=tmp_path / "run", model=make_build(32))
    monkeypatch.setattr(api, "_given", {})
    with pytest.raises(UsageError, match="give it again"):
        api.evaluate(tmp_path / "run", quiet=True)
    assert api.evaluate(tmp_path / "run", quiet=True, model=make_build(32)) == pytest.approx(result.test)


def test_the_function_of_a_file_is_kept_with_the_run(digits_dir, tmp_path, monkeypatch, run_here):
    """As if the file had been named: any program can use the run."""
    monkeypatch.syspath_prepend(str(OWN))
    monkeypatch.delitem(sys.modules, "tutorial", raising=False)
    import tutorial

    result = api.train(**SETTINGS, data_dir=digits_dir, logdir=tmp_path / "run", model=tutorial.inference)
    done = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}", "--json")
    assert done.code == 0 and json.loads(done.out.splitlines()[-1])["accuracy"] == result.test["accuracy"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == f"{OWN / 'tutorial.py'}:inference"


def test_data_may_be_a_function_too(tmp_path):
    given = lambda split: examples(split)  # noqa: E731
    result = api.train(**SETTINGS | {"batch_size": 10}, input=given, model="mlp", logdir=tmp_path / "run")
    assert result.test["accuracy"] == 1


def test_errors_in_a_given_function_are_told(digits_dir, tmp_path):
    def broken(images, num_classes, training):
        return images.no_such_thing

    with pytest.raises(UsageError, match=r"test_python_functions\.py:\d+, in broken: AttributeError: .*no_such_thing"):
        api.train(**SETTINGS, data_dir=digits_dir, logdir=tmp_path / "run", model=broken)
    with pytest.raises(UsageError, match="learning_rate takes no function"):
        api.train(learning_rate=lambda: 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"splt": "validation"}, "argument=splt is unknown"),
        ({"model": 3}, "wanted a function"),
        ({"weights": "foo"}, "weights=foo"),
    ],
)
def test_misspelled_arguments_are_told(train_once, arguments, message):
    run = train_once(model="mlp", train_steps=5, quiet=True)
    for function, given in ((api.evaluate, [run]), (api.predict, [run, [np.zeros((8, 8), np.uint8)]])):
        with pytest.raises(UsageError, match=message):
            function(*given, **arguments)


def test_a_function_of_a_package_may_import_from_it(digits_dir, tmp_path, monkeypatch, run_here):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("WIDTH = 24\n")
    (package / "nets.py").write_text(
        "import tensorflow.compat.v1 as tf\nfrom .sizes import WIDTH\n\ndef build(images, num_classes, training):\n"
        "    x = tf.matmul(tf.reshape(images, [-1, 64]), tf.get_variable('w', [64, WIDTH]))\n"
        "    return tf.matmul(x, tf.get_variable('logits', [WIDTH, num_classes]))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from own_package import nets

    result = api.train(**SETTINGS, data_dir=digits_dir, logdir=tmp_path / "run", model=nets.build)
    done = run_here("trainer.evaluate", f"--logdir={tmp_path / 'run'}", "--json")
    assert done.code == 0 and json.loads(done.out.splitlines()[-1])["accuracy"] == result.test["accuracy"]


def test_data_are_read_into_memory(digits_dir):
    found = api.load_dataset(digits_dir, "validation")
    images, labels = load_split(load_manifest(digits_dir), "validation")
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.class_names == [str(number) for number in range(10)]
    with pytest.raises(UsageError, match="split=val is unknown"):
        api.load_dataset(digits_dir, "val")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((8, 8))], r"image 0 is float64 \[8, 8, 1\]; wanted uint8 of 8x8x1"),
        ([np.zeros((9, 8), np.uint8)], "image 0 is uint8"),
        (["none.png"], "none.png: "),
        ([], "there are no images"),
        ("none.png", "wanted a list of paths or arrays"),
    ],
)
def test_what_is_no_picture_is_told(digits_dir, tmp_path, train_once, images, message):
    run = train_once(model="mlp", train_steps=5, quiet=True)
    with pytest.raises(UsageError, match=message):
        api.predict(run, images)


@pytest.mark.parametrize("name", ["own_model"])
def test_the_notebook_runs_and_shows_bar_and_pictures(name, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    notebook = nbformat.read(REPO / "examples" / "notebook" / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [[kind for output in found for kind in output.get("data", {})] for found in outputs]
    texts = ["".join(output.get("text", "") for output in found) for found in outputs]
    assert "image/png" in kinds[1] and "text/html" in kinds[1] and kinds[2].count("image/png") == 2
    assert "validation accuracy" in texts[1] + str(outputs[1])
    pairs = eval(outputs[3][-1]["data"]["text/plain"])  # Of our own notebook.
    assert sum(int(found) == label for found, label in pairs) >= 8
    assert not [found for found in texts if "Traceback" in found]
