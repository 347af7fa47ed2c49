"""Checkpoints taken apart and put together; what is written is read by a plain `Saver`."""

import subprocess
import sys

import numpy as np
import pytest

from trainer.errors import TrainerError, UsageError
from trainer.saving import surgery
from trainer.saving.tensors import find_checkpoint, list_tensors, load_tensors, save_tensors
from trainer.tf1 import tf

AVERAGE = "/ExponentialMovingAverage"


def restore(path, tensors):
    """Restores by a plain Saver."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, value.shape, value.dtype) for name, value in tensors.items()]
        tf.train.Saver(variables).restore(session, path)
        return {variable.op.name: value for variable, value in zip(variables, session.run(variables), strict=True)}


@pytest.fixture
def tensors():
    rng = np.random.default_rng(3)
    return {
        "conv1/weights": rng.normal(size=[3, 3, 1, 2]).astype(np.float32),
        "logits/biases": rng.normal(size=[4]),  # float64
        "global_step": np.array(2**53 + 1, np.int64),
        "small": rng.normal(size=[5]).astype(tf.bfloat16.as_numpy_dtype),
    }


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_plain_saver_restores_what_is_written(tmp_path, tensors, version):
    if version == "v1":
        del tensors["small"]  # The old format has no such type.
    save_tensors(tensors, str(tmp_path / "new/model.ckpt-3"), version=version)
    found = restore(str(tmp_path / "new/model.ckpt-3"), tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value)
    assert {path.name for path in (tmp_path / "new").iterdir()} == (
        {"model.ckpt-3"} if version == "v1" else {"model.ckpt-3.index", "model.ckpt-3.data-00000-of-00001"}
    )
    assert surgery.differences(load_tensors(str(tmp_path / "new/model.ckpt-3")), tensors, 0) == []


def test_what_plain_savers_write_is_read(tmp_path, tensors):
    for version in (tf.train.SaverDef.V1, tf.train.SaverDef.V2):
        with tf.Graph().as_default(), tf.Session() as session:
            variable = tf.get_variable("w", initializer=tensors["conv1/weights"])
            session.run(variable.initializer)
            path = tf.train.Saver([variable], write_version=version).save(session, str(tmp_path / f"m{version}"))
        assert np.array_equal(load_tensors(find_checkpoint(path))["w"], tensors["conv1/weights"])


def test_an_existing_checkpoint_stays_unless_it_may_be_replaced(tmp_path, tensors):
    path = str(tmp_path / "m")
    save_tensors({"a": tensors["logits/biases"]}, path)
    with pytest.raises(UsageError, match="exists already"):
        save_tensors({"b": tensors["logits/biases"]}, path)
    assert list(list_tensors(path)) == ["a"]
    save_tensors({"b": tensors["logits/biases"]}, path, version="v1", overwrite=True)
    assert list(list_tensors(path)) == ["b"]
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_differences_are_named():
    one = {"a": np.zeros([2], np.float32), "b": np.zeros([2]), "c": np.array([1.0, np.nan]), "big": np.array(2**60)}
    other = {"a": np.array([0, 0.5], np.float32), "b": np.zeros([3]), "c": np.array([1.0, np.nan]), "d": np.zeros([])}
    other["big"] = np.array(2**60 + 1)
    assert surgery.differences(one, other, 0.0) == [
        "d is only in the second",
        "a differs in 1 of 2 values, by up to 0.5",
        "b is float64 [2] in the first, float64 [3] in the second",
        "big differs in 1 of 1 values, by up to 0",
    ]
    assert surgery.differences({"a": one["a"]}, {"a": other["a"]}, 0.5) == []
    assert surgery.differences({"a": one["c"]}, {"a": np.ones([2])}, 9.0) == ["a differs in 1 of 2 values, by up to 0"]


def test_the_average_is_the_mean_and_counters_are_the_last():
    checkpoints = [{"w": np.array([step, 1e8 * step], np.float32), "global_step": np.array(step)} for step in (1, 2, 6)]
    found = surgery.average(*checkpoints)
    assert found["w"].tolist() == [3.0, 3e8] and found["w"].dtype == np.float32
    assert found["global_step"] == 6
    with pytest.raises(UsageError, match="not of one model"):
        surgery.average({"a": np.zeros([])}, {"b": np.zeros([])})


def test_strip_leaves_weights_of_every_optimizer(tmp_path):
    makers = {
        "momentum": lambda: tf.train.MomentumOptimizer(0.1, 0.9),
        "adam": lambda: tf.train.AdamOptimizer(0.1),
        "rmsprop": lambda: tf.train.RMSPropOptimizer(0.1, momentum=0.9),
        "adagrad": lambda: tf.train.AdagradOptimizer(0.1),
        "ftrl": lambda: tf.train.FtrlOptimizer(0.1),
    }
    for name, make in makers.items():
        with tf.Graph().as_default(), tf.Session() as session:
            step = tf.train.get_or_create_global_step()
            weights = tf.get_variable("fc1/weights", initializer=np.ones([2], np.float32))
            with tf.name_scope("update"):
                apply_op = make().minimize(tf.reduce_sum(weights**2), global_step=step)
            ema = tf.train.ExponentialMovingAverage(0.5)
            with tf.control_dependencies([apply_op]):
                both = ema.apply([weights])
            session.run(tf.global_variables_initializer())
            session.run(both)
            path = tf.train.Saver().save(session, str(tmp_path / name))
            average, raw = session.run([ema.average(weights), weights])
        found = load_tensors(path)
        assert set(surgery.strip(found, "both")) == {"fc1/weights", f"fc1/weights{AVERAGE}"}, name
        assert surgery.strip(found, "raw").keys() == {"fc1/weights"}
        assert np.array_equal(surgery.strip(found, "raw")["fc1/weights"], raw)
        assert np.array_equal(surgery.strip(found, "ema")["fc1/weights"], average)


def test_names_change_by_rules_and_by_maps(tmp_path):
    found = {"conv1/weights": np.ones([1]), "conv2/weights": np.zeros([1])}
    assert surgery.rename(found, [(r"^conv(\d)", r"block\1/conv")], {}).keys() == {
        "block1/conv/weights",
        "block2/conv/weights",
    }
    # All at once: two names may change places.
    (tmp_path / "map").write_text("# comment\n\nconv1/weights=>conv2/weights\nconv2/weights => conv1/weights\n")
    swapped = surgery.rename(found, [], surgery.load_map(tmp_path / "map"))
    assert swapped["conv1/weights"] == [0] and swapped["conv2/weights"] == [1]
    for rules, names, message in (
        ([("x", "y")], {}, "changes no name"),
        ([(r"\d", "")], {}, "one name"),
        ([("^conv1/weights$", "")], {}, "leave nothing of the name conv1/weights"),
        ([], {"x": "y"}, "holds no x"),
        ([], {"conv1/weights": "conv2/weights"}, "two tensors"),
        ([("conv", r"\9")], {}, "no regular expression"),
    ):
        with pytest.raises(UsageError, match=message):
            surgery.rename(found, rules, names)


def test_statistics_leave_out_what_is_not_finite():
    found = surgery.statistics_of(np.array([1.0, 3.0, np.nan, np.inf], np.float32))
    assert found == (1.0, 3.0, 2.0, 1.0, 2)
    assert surgery.statistics_of(np.array([b"text"], object)) == (None, None, None, None, 0)


def test_damage_is_listed_with_its_reason(tmp_path, tensors):
    for step in (1, 2, 3, 4):
        save_tensors(tensors, str(tmp_path / f"model.ckpt-{step}"))
    (tmp_path / "model.ckpt-2.index").unlink()
    data = tmp_path / "model.ckpt-3.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    data = tmp_path / "model.ckpt-4.data-00000-of-00001"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    rows = surgery.list_checkpoints(tmp_path)
    assert [row.step for row in rows] == [1, 2, 3, 4]
    assert rows[0].damage == "" and rows[1].damage == "damaged: no .index file"
    assert rows[2].damage.startswith("damaged: ") and rows[3].damage.startswith("damaged: ")
    assert rows[0].num_bytes == sum(path.stat().st_size for path in tmp_path.glob("model.ckpt-1.*"))


def test_a_damaged_checkpoint_is_an_error_in_one_line(tmp_path, tensors):
    save_tensors(tensors, str(tmp_path / "m"))
    (tmp_path / "m.index").write_bytes(b"nonsense")
    with pytest.raises(TrainerError, match="cannot be read"):
        load_tensors(str(tmp_path / "m"))
    with pytest.raises(UsageError, match="does not exist"):
        find_checkpoint(str(tmp_path / "other"))


def test_a_layer_named_like_a_counter_is_no_counter():
    found = {"a/position": np.ones([3]), "position": np.zeros([]), "train/beta1_power": np.zeros([])}
    assert surgery.strip(found, "raw").keys() == {"a/position"}


def test_the_old_format_refuses_what_it_cannot_give_back(tmp_path):
    for kind in (np.float16, np.complex64):
        with pytest.raises(TrainerError, match="v1"):
            save_tensors({"w": np.ones([2], kind)}, str(tmp_path / "m"), version="v1")
    assert list(tmp_path.iterdir()) == []


def test_paths_that_tensorflow_takes_for_patterns_are_refused(tmp_path, tensors):
    with pytest.raises(UsageError, match="for a pattern"):
        save_tensors(tensors, str(tmp_path / "a[1]"))
    with pytest.raises(UsageError, match="for a pattern"):
        find_checkpoint(str(tmp_path / "a*"))
    with pytest.raises(UsageError, match="no path of a checkpoint"):
        save_tensors(tensors, str(tmp_path))


def test_what_a_killed_writer_left_is_removed(tmp_path, tensors):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".m.{gone.pid}.part").mkdir()
    (tmp_path / f".other.{gone.pid}.part").mkdir()
    save_tensors(tensors, str(tmp_path / "m"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "m.index",
        "m.data-00000-of-00001",
        f".other.{gone.pid}.part",
    }
