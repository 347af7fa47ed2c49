"""Exports with batch normalization, and graphs of others, judged by data."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.integration.test_own_models import OWN, SETTINGS
from tests.integration.test_published import graph  # noqa: F401  (a fixture)
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(150)


def judge(run_here, *flags):
    done = run_here("trainer.evaluate", *flags, "--json")
    assert done.code == 0, done
    return json.loads(done.out.splitlines()[-1])


def test_exports_with_batch_norm_are_as_good_as_the_run(train, digits_dir, tmp_path, run_here):
    run = train(**SETTINGS | {"model": f"{OWN / 'normalized.py'}", "train_steps": 60})
    images, labels = load_split(load_manifest(digits_dir), "test")
    wanted = judge(run_here, f"--logdir={run}")
    found = {}
    for kind, name in (("saved_model", "saved"), ("frozen", "frozen.pb"), ("tflite", "model.tflite")):
        done = run_here("trainer.export", f"--logdir={run}", f"--format={kind}", f"--output={tmp_path / name}")
        assert done.code == 0, done
        if kind != "tflite":
            judged = judge(run_here, f"--model={tmp_path / name}", f"--data_dir={digits_dir}")
            assert judged["accuracy"] == judged["accuracy_of_classes"] == wanted["accuracy"] > 0.5
            assert judged["top_k_accuracy"] == wanted["top_k_accuracy"]
            assert judged["num_examples"] == wanted["num_examples"] == len(labels)
    frozen = tf.GraphDef.FromString((tmp_path / "frozen.pb").read_bytes())
    assert not [node.name for node in frozen.node if "BatchNorm" in node.op]
    with tf.Graph().as_default(), tf.Session() as session:
        (probabilities,) = tf.import_graph_def(frozen, return_elements=["outputs/probabilities:0"], name="")
        found["frozen"] = session.run(probabilities, {"images:0": images})
    lite = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    lite.resize_tensor_input(lite.get_input_details()[0]["index"], images.shape)
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], images)
    lite.invoke()
    outputs = [lite.get_tensor(each["index"]) for each in lite.get_output_details()]
    (found["tflite"],) = [output for output in outputs if np.allclose(output.sum(1), 1, atol=1e-4)]
    np.testing.assert_allclose(found["tflite"], found["frozen"], atol=1e-4)


def test_variables_may_have_the_names_of_operations(train, digits_dir, run_here):
    run = train(**SETTINGS, model=f"{OWN / 'normalized.py'}:mean_at_the_root")
    wanted = judge(run_here, f"--logdir={run}")
    assert run_here("trainer.export", f"--logdir={run}", "--format=frozen").code == 0
    found = judge(run_here, f"--model={run / 'export' / 'frozen.pb'}", f"--data_dir={digits_dir}")
    assert found["accuracy"] == wanted["accuracy"]


@pytest.mark.parametrize("graph", ["128"], indirect=True)
def test_a_graph_of_others_is_judged_by_its_own_predictions(graph, tmp_path, run_here):  # noqa: F811
    """Classes of the data are found among 1,001 by one of their names; counted here from what predict says."""
    from trainer.convert import main

    rng = np.random.default_rng(1)
    lines = [f"class {number}" for number in range(1001)]
    lines[7], lines[900] = "red, crimson", "Blue"
    (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
    for name, channel in (("crimson", 0), ("blue", 2)):
        for split in ("train", "val", "test"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = rng.integers(0, 120, (40, 50, 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    assert main(["convert", f"--source={tmp_path / 'pictures'}", f"--data_dir={tmp_path / 'data'}"]) == 0
    ends = ["--input_tensor=input", "--output_tensor=MobilenetV1/Predictions/Reshape_1", "--preprocess=inception(128)"]
    ends = [f"--model={graph}", *ends, f"--labels={tmp_path / 'labels.txt'}"]
    files = [str(tmp_path / "pictures" / "test" / name / f"{n}.png") for name in ("blue", "crimson") for n in range(8)]
    done = run_here("trainer.predict", *ends, "--csv", *files)
    outputs = np.array([row.split(",")[1:1002] for row in done.out.splitlines()[1:]], float)
    assert outputs.shape == (16, 1001)
    places, labels = np.array([900, 7]), np.repeat([0, 1], 8)
    found = judge(run_here, *ends, f"--data_dir={tmp_path / 'data'}", "--batch_size=5", "--top_k=200")
    assert found["num_examples"] == 16
    assert found["accuracy"] == np.mean(outputs.argmax(1) == places[labels])
    assert found["accuracy_of_classes"] == np.mean(outputs[:, places].argmax(1) == labels)
    own = outputs[np.arange(16), places[labels]]
    assert found["top_k_accuracy"] == np.mean((outputs > own[:, None]).sum(1) < 200)
    done = run_here("trainer.evaluate", *ends[:-1], f"--data_dir={tmp_path / 'data'}")
    assert done.code == 2 and "2 of the 2 classes of the data are not" in done.err, done


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=x.pb"], "--data_dir is missing"),
        (["--model=x.pb", "--data_dir=d", "--logdir=r"], "--model and --logdir conflict"),
        (["--logdir=r", "--labels=l"], "are of --model"),
        (["--model={digits}/none.pb", "--data_dir={digits}"], "no such file"),
        (["--model={digits}/manifest.json", "--data_dir={digits}"], "is no frozen graph"),
    ],
)
def test_what_cannot_be_judged_is_told(flags, message, digits_dir, run_here):
    done = run_here("trainer.evaluate", *(flag.format(digits=digits_dir) for flag in flags))
    assert done.code in (1, 2) and message in done.err and "Traceback" not in done.err, done
