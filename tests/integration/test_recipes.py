"""The recipes of configs/ reach their accuracy on the real MNIST; each takes minutes."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("name", "accuracy"), [("mnist_mlp", 0.984), ("mnist_mlp_dropout", 0.985), ("mnist_lenet", 0.993)]
)
def test_the_recipe_reaches_its_accuracy(run_program, mnist_dir, tmp_path, name, accuracy):
    args = [f"--flagfile=configs/{name}.flags", f"--data_dir={mnist_dir}", f"--logdir={tmp_path}", "--num_gpus=2"]
    done = run_program("trainer", *args, timeout=900)
    assert done.code == 0, done
    print(done.out.splitlines()[-1])
    assert json.loads((tmp_path / "result.json").read_text())["test_accuracy"] >= accuracy
