"""Initial values from pictures, and logits that are the mean of a picture and its mirror image."""

import json

import numpy as np
import pytest

from tests.integration.test_own_models import OWN
from tests.integration.test_resume import weights
from trainer import api
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split, read_examples
from trainer.errors import UsageError

pytestmark = pytest.mark.timeout(120)
SETTINGS = {"train_steps": 10, "batch_size": 48, "decay": "constant", "quiet": True}


@pytest.mark.parametrize("settings", [{"num_gpus": 4, "strategy": "replicated", "steps_per_loop": 3}], ids=str)
def test_a_model_computes_initial_values_from_pictures(train, digits_dir, tmp_path, settings, run_here):
    run = train(**SETTINGS | settings, model=f"{OWN / 'from_pictures.py'}", preprocess="scale(-1,1)")
    spec = load_manifest(digits_dir)
    shards = [spec.path_of(shard) for shard in spec.splits["train"]]
    share = -(-512 // len(shards))
    some = [image for path in shards for image, _ in list(read_examples(path, spec))[:share]][:512]
    found = weights(run)
    assert found["count"] == 512
    np.testing.assert_allclose(found["offset"], np.mean(np.array(some, np.float32) / 127.5 - 1, axis=0), atol=1e-5)
    train(**SETTINGS | settings | {"train_steps": 20}, model=f"{OWN / 'from_pictures.py'}", preprocess="scale(-1,1)")
    np.testing.assert_array_equal(weights(run)["offset"], found["offset"])
    done = run_here("trainer.export", f"--logdir={run}", "--format=frozen")
    assert done.code == 0, done


def test_also_of_a_stream(tmp_path):
    settings = SETTINGS | {"input": f"{OWN / 'given_examples.py'}", "batch_size": 20}
    api.train(**settings, model=f"{OWN / 'from_pictures.py'}", logdir=tmp_path / "run")
    assert weights(tmp_path / "run")["count"] == 200


def test_a_model_asks_for_its_views_and_the_flag_overrides(train, digits_dir, tmp_path):
    same = {**SETTINGS, "data_dir": digits_dir, "model": f"{OWN / 'from_pictures.py'}:mirrored"}
    accuracy = {
        views: api.train(**same, **({"eval_views": views} if views else {}), logdir=tmp_path / f"run{views}").test
        for views in ("", "one", "mirror")
    }
    assert accuracy[""] == accuracy["mirror"] != accuracy["one"]
    with pytest.raises(UsageError, match="eval_views=backwards is unknown"):
        api.train(**{**same, "model": f"{OWN / 'from_pictures.py'}:backwards"}, logdir=tmp_path / "wrong")


def test_two_views_are_judged_exported_and_predicted_alike(train, digits_dir, tmp_path, run_here):
    """The mean of the logits of one view, by hand."""
    run = train(**SETTINGS | {"train_steps": 60}, model="mlp", eval_views="mirror")
    images, labels = load_split(load_manifest(digits_dir), "test")
    frozen = run_here("trainer.export", f"--logdir={run}", "--format=frozen", f"--output={tmp_path / 'two.pb'}")
    assert frozen.code == 0, frozen
    two = api.predict(run, images).values
    np.testing.assert_allclose(api.predict(tmp_path / "two.pb", images).values, two, atol=1e-5)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"eval_views": "one"}))
    one, other = (np.log(api.predict(run, view).values) for view in (images, images[:, :, ::-1]))
    mean = np.exp((one + other) / 2)
    np.testing.assert_allclose(two, mean / mean.sum(1, keepdims=True), atol=1e-5)
    assert json.loads((run / "result.json").read_text())["test_accuracy"] == np.mean(two.argmax(1) == labels)
