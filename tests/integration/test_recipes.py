"""The recipes of configs/ reach their accuracy on the real MNIST; each takes minutes."""

import dataclasses
import json
import statistics

import pytest

from trainer.data import records, writing
from trainer.data.manifest import load_manifest, save_manifest

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def accuracy(run_program, mnist_dir, tmp_path):
    def run(name, *args, data_dir=mnist_dir):
        logdir = tmp_path / "-".join(["run", *args])
        done = run_program(
            "trainer",
            f"--flagfile=configs/{name}.flags",
            f"--data_dir={data_dir}",
            f"--logdir={logdir}",
            *args,
            timeout=1800,
        )
        assert done.code == 0, done
        result = json.loads((logdir / "result.json").read_text())
        print(name, *args, result)
        return result["test_accuracy"]

    return run


@pytest.mark.soak
def test_mnist_lenet_reaches_99_3(accuracy):
    assert accuracy("mnist_lenet", "--num_gpus=2") >= 0.993


@pytest.mark.soak
def test_mnist_mlp_reaches_98_4_in_the_median_of_three_seeds(accuracy):
    found = [accuracy("mnist_mlp", f"--seed={seed}") for seed in (1, 2, 3)]
    assert statistics.median(found) >= 0.984


@pytest.mark.soak
def test_mnist_mlp_dropout_reaches_98_5(accuracy):
    assert accuracy("mnist_mlp_dropout", "--seed=1") >= 0.985


@pytest.mark.slow
def test_mnist_lenet_quick_reaches_99_from_a_cold_start(accuracy):
    assert accuracy("mnist_lenet_quick") >= 0.99


@pytest.mark.soak
def test_shards_of_one_class_each_are_learned_as_shuffled_ones_are(accuracy, mnist_dir, tmp_path):
    """Read shard by shard, such a set came to 38%."""
    spec = load_manifest(mnist_dir)
    images, labels = records.load_split(spec, "train")
    shards = []
    for label in range(10):
        examples = ((image, label) for image in images[labels == label])
        shards += writing.write_shards(
            examples, folder=tmp_path, split=f"train-of-{label}", num_shards=1, advance=lambda count: None
        )
    for split in ("validation", "test"):
        for shard in spec.splits[split]:
            (tmp_path / shard.file).symlink_to(spec.path_of(shard))
    save_manifest(dataclasses.replace(spec, splits={**spec.splits, "train": tuple(shards)}, data_dir=tmp_path))
    assert accuracy("mnist_lenet_quick", data_dir=tmp_path) >= 0.991


@pytest.mark.slow
def test_five_layers_become_six_by_a_new_one_that_is_first_trained_alone(accuracy, tmp_path):
    assert accuracy("mnist_five") >= 0.978
    five = tmp_path / "run"  # The fixture's name of a run without further flags.
    assert accuracy("mnist_six_new", f"--warm_start={five}") >= 0.978
