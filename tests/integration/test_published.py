"""Published weights: the networks here compute what the published graphs compute."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import MOBILENET, PICTURES
from trainer.models.building import build_model
from trainer.models.functions import find_model
from trainer.saving.frozen import load_graph
from trainer.saving.tensors import load_tensors
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)
LOGITS = "MobilenetV1/Logits/Conv2d_1c_1x1/BiasAdd:0"


@pytest.fixture
def graph(request):
    path = MOBILENET / f"mobilenet_v1_0.25_{request.param}_frozen.pb"
    if not path.is_file():
        pytest.skip(f"the published graphs are not in {MOBILENET} (MOBILENET_DIR names their folder)")
    return path


def photographs(size, tmp_path, count):
    import tarfile

    path = PICTURES / "photographs.tar"
    if not path.is_file():
        pytest.skip(f"the photographs are not in {PICTURES} (PICTURES_DIR names their folder)")
    with tarfile.open(path) as archive:
        names = [name for name in archive.getnames() if name.endswith(".JPEG")][:count]
        archive.extractall(tmp_path, members=[archive.getmember(name) for name in names], filter="data")
    images = [Image.open(tmp_path / name).convert("RGB").resize((size, size)) for name in names]
    return np.stack([np.asarray(image) for image in images]).astype(np.float32) / 127.5 - 1


@pytest.mark.parametrize(("graph", "size"), [("128", 128), ("224", 224)], indirect=["graph"])
def test_mobilenet_gives_the_logits_of_the_published_graph(graph, size, tmp_path, run_here):
    images = photographs(size, tmp_path, 20)
    with tf.Graph().as_default(), tf.Session() as session:
        x, wanted = tf.import_graph_def(load_graph(graph), return_elements=["input:0", LOGITS], name="")
        wanted = np.concatenate([session.run(wanted, {x: image[np.newaxis]}).reshape(1, 1001) for image in images])
    path = str(tmp_path / "published" / "model.ckpt-0")
    done = run_here("trainer.checkpoint", "from_frozen", str(graph), f"--output={path}")
    assert done.code == 0 and "wrote 137 constants" in done.out, done
    with tf.Graph().as_default(), tf.Session() as session:
        function = find_model("mobilenet_v1", ["multiplier=0.25"], UserCode())
        logits = build_model(function, tf.constant(images), num_classes=1001, training=False).logits
        names = sorted(variable.op.name for variable in tf.global_variables())
        assert names == sorted(load_tensors(path))
        tf.train.Saver().restore(session, path)
        found = session.run(logits)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_what_is_no_frozen_graph_is_told(tmp_path, run_here):
    (tmp_path / "no.pb").write_bytes(b"\x00\x01 no graph")
    for path, message in ((tmp_path / "no.pb", "is no frozen graph"), (tmp_path / "other.pb", "no such file")):
        done = run_here("trainer.checkpoint", "from_frozen", str(path), f"--output={tmp_path / 'x-1'}")
        assert done.code == 2 and message in done.err, done
    with tf.Graph().as_default() as plain:
        tf.constant(1.0)
        (tmp_path / "plain.pb").write_bytes(plain.as_graph_def().SerializeToString())
    done = run_here("trainer.checkpoint", "from_frozen", str(tmp_path / "plain.pb"), f"--output={tmp_path / 'x-1'}")
    assert done.code == 2 and "holds 1 constants, and none that was a variable" in done.err, done


@pytest.mark.parametrize("graph", ["224"], indirect=True)
def test_any_frozen_graph_predicts(graph, tmp_path, run_here):
    """Its own probabilities, and those of the weights in the network here, for the same photographs."""
    images = photographs(224, tmp_path, 3)
    files = sorted(str(path) for path in tmp_path.rglob("*.JPEG"))
    ends = ["--input_tensor=input", "--output_tensor=MobilenetV1/Predictions/Reshape_1:0"]
    command = ["trainer.predict", f"--model={graph}", *ends, "--preprocess=inception(224)"]
    done = run_here(*command, "--json", *files)
    assert done.code == 0, done
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows) == len(images) and all(abs(sum(row["probabilities"]) - 1) < 1e-3 for row in rows)
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    for more, message in (
        ([f"--labels={tmp_path / 'few.txt'}"], "names 2 classes, and the graph has 1001"),
        (["--preprocess=inception(128)"], "gives pictures (128, 128, 3), and the graph takes (224, 224, 3)"),
        (["--input_tensor=inputs"], "tensor=inputs is unknown"),
    ):
        done = run_here(*command, *more, files[0])
        assert done.code == 2 and message in done.err, done
    done = run_here(*command[:2], ends[0], files[0])
    assert done.code == 2 and "needs both --input_tensor and --output_tensor" in done.err, done
