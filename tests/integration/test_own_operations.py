"""The trainer's own operations beside their twins of TensorFlow's; users' operations in towers, runs and exports."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPO, environment
from trainer import api, export
from trainer.data.layout import find_layout
from trainer.data.manifest import load_manifest
from trainer.errors import TrainerError
from trainer.inputs import queues
from trainer.ops import augment, own, records
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.tf1 import tf

PIPELINE = "pad(1)|random_crop(8)|flip_lr|cutout(3)|scale(-1,1)"
NORMALIZED = str(REPO / "tests" / "own" / "normalized.py:build")
EXAMPLE = REPO / "examples" / "own_operation" / "mish.cc"


@pytest.fixture(scope="module")
def ops():
    """Loads the operations: modules by name."""
    try:
        return {name: own.find_own(name).module for name in own.OPERATIONS}
    except TrainerError as error:
        pytest.skip(str(error))


def train(digits_dir, folder, ops, **settings):
    """Trains some steps; returns the tensors of the checkpoint, and the types of the graph's operations."""
    settings = {"model": "mlp", "train_steps": 20, "batch_size": 32, "learning_rate": 0.01, **settings}
    api.train(data_dir=digits_dir, logdir=folder, eval_every="0", resume="never", ops=ops, quiet=True, **settings)
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(folder)))
    names = set(reader.get_variable_to_shape_map()) - {"stream"}  # Which holds what operations there were.
    return {name: reader.get_tensor(name) for name in names}, (folder / "graph.pbtxt").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "weight_decay": 0.01, "num_gpus": 2},
        {"optimizer": "momentum", "clip": "value:0.001", "steps_per_loop": 7},
        {"optimizer": "nesterov", "ema_decay": 0.0, "decay": "exponential:0.9:5"},
        {"optimizer": "rmsprop", "weight_decay": 0.01, "model": "lenet"},
        {"optimizer": "adam", "num_gpus": 2, "accumulate": 2, "batch_norm": "sync", "model": NORMALIZED},
        {"optimizer": "adam", "preprocess": PIPELINE, "eval_preprocess": "scale(-1,1)"},
        {"optimizer": "sgd", "preprocess": PIPELINE, "eval_preprocess": "scale(-1,1)", "precision": "bfloat16"},
    ],
    ids=lambda settings: settings["optimizer"],
)  # fmt: skip
def test_both_give_the_same_bits(ops, digits_dir, tmp_path, settings):
    fused, graph = train(digits_dir, tmp_path / "auto", "auto", **settings)
    apart, other = train(digits_dir, tmp_path / "off", "off", **settings)
    assert '"TowerUpdate"' in graph and '"TowerRecords"' in graph and 'op: "Tower' not in other
    assert ("TowerAugment" in graph) == ("preprocess" in settings)
    different = [name for name in apart if not np.array_equal(fused[name], apart[name])]
    assert fused.keys() == apart.keys() and not different, different


@pytest.mark.parametrize("clip", ["norm:0.05", "global_norm:0.1", "clip_to_zero:1000"])
def test_clips_by_norms_differ_in_last_bits_alone(ops, digits_dir, tmp_path, clip):
    fused, graph = train(digits_dir, tmp_path / "auto", "auto", clip=clip, weight_decay=0.01, optimizer="momentum")
    apart, _ = train(digits_dir, tmp_path / "off", "off", clip=clip, weight_decay=0.01, optimizer="momentum")
    assert "TowerUpdate" in graph
    for name, value in apart.items():
        np.testing.assert_allclose(fused[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
@pytest.mark.parametrize("clip", ["none", "global_norm:1", "clip_to_zero:0.2"])
def test_steps_that_are_refused_are_the_same(ops, digits_dir, tmp_path, nonfinite, clip):
    """Some steps are outliers, and the rate is so high that the loss becomes NaN in the end."""
    settings = {"learning_rate": 1e30, "optimizer": "sgd", "nonfinite": nonfinite, "clip": clip, "max_skips": 5}
    if clip == "clip_to_zero:0.2":
        settings["learning_rate"] = 0.5
    elif nonfinite == "stop":
        del settings["max_skips"]
    told = []
    for ops_ in ("auto", "off"):
        try:
            train(digits_dir, tmp_path / ops_, ops_, **settings)
            told.append("")
        except TrainerError as error:
            told.append(f"{error}".replace(str(tmp_path / ops_), ""))
    counts = [json.loads((tmp_path / each / "result.json").read_text()) for each in ("auto", "off")]
    assert told[0] == told[1] and counts[0]["skipped_steps"] == counts[1]["skipped_steps"]
    assert told[0] or counts[0]["skipped_steps"]


def batches(spec, count, **settings):
    """Reads some batches from the queue: images, labels and records."""
    plan = queues.make_plan(spec, 1, block_records=settings.pop("block", 100))
    side = make_preprocessing(spec.stored_shape).training
    with tf.Graph().as_default(), tf.Session() as session:
        source = queues.build(
            plan, spec, batch_size=7, num_readers=2, capacity=3, side=side, layout=find_layout(spec), **settings
        )
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        coordinator = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(session, coordinator)
        found = [session.run(dict(source.batch)) for _ in range(count)]
        coordinator.request_stop()
        session.close()
        coordinator.join(threads, stop_grace_period_secs=10, ignore_live_threads=True)
    return found


@pytest.mark.parametrize("position", [0, 1000, 12345])
def test_the_order_and_the_bytes_of_the_records_are_the_same(ops, digits_dir, position):
    spec = load_manifest(digits_dir)
    stock = batches(spec, 400, position=position)
    mine = batches(spec, 400, position=position, operation=ops["records"])
    for one, other in zip(stock, mine, strict=True):
        assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def record_files(spec, **changes):
    layout = find_layout(spec)
    shards = spec.splits["train"]
    return records.RecordFiles(
        paths=[str(spec.path_of(shard)) for shard in shards],
        counts=[shard.num_examples for shard in shards],
        frame_bytes=layout.frame_bytes,
        shape=spec.image_shape,
        image=layout.image,
        label=layout.label,
        classes=spec.num_classes,
        constant=layout.constant,
    )._replace(**changes)


def test_a_record_that_changes_or_goes_is_an_error_and_never_a_crash(ops, own_digits_dir):
    spec = load_manifest(own_digits_dir)
    files = record_files(spec)
    path = Path(files.paths[0])
    content = bytearray(path.read_bytes())
    with tf.Graph().as_default(), tf.Session() as session:
        numbers = tf.placeholder(tf.int64, [None])
        read = session.make_callable(records.build_records(ops["records"], numbers, files), [numbers])
        images, _ = read(np.arange(10))
        assert images.shape == (10, *spec.image_shape)
        content[3 * files.frame_bytes + files.image] ^= 1
        path.write_bytes(content)
        with pytest.raises(tf.errors.DataLossError, match=rf"{path}: record 3: its checksum is wrong"):
            read(np.arange(10))
        with path.open("r+b") as file:  # While it is mapped.
            file.truncate(4096 if files.frame_bytes * 60 > 8192 else 10)
        with pytest.raises(tf.errors.DataLossError, match="the file gives no bytes there"):
            read(np.arange(files.counts[0] - 5, files.counts[0]))
        images, _ = read(np.arange(files.counts[0], files.counts[0] + 3))  # Of another shard.
        assert len(images) == 3
        for wrong in (-1, sum(files.counts), 2**62):
            with pytest.raises(tf.errors.InvalidArgumentError, match="is out of range"):
                read(np.array([files.counts[0], wrong]))
        again = records.build_records(ops["records"], numbers, files)
        with pytest.raises(tf.errors.DataLossError, match="a shard holds another number of records"):
            session.run(again, {numbers: [0]})
        Path(files.paths[1]).unlink()
        with pytest.raises(tf.errors.NotFoundError):
            session.run(records.build_records(ops["records"], numbers, files), {numbers: [files.counts[0]]})


@pytest.mark.parametrize(
    ("pipeline", "elsewhere"),
    [
        ("pad(4)|random_crop(32)|flip_lr", "crop_or_pad(32)"),
        ("random_crop(20,30)|cutout(9)|unit", "crop_or_pad(20,30)|unit"),
        ("flip_lr|subtract_mean(125,123,114)|divide(60)", "subtract_mean(125,123,114)|divide(60)"),
        ("pad(2)|random_crop(36)|flip_lr|float|scale(-1,1)", "crop_or_pad(36)|float|scale(-1,1)"),
    ],
)
def test_augmented_pictures_are_the_same_to_the_bit(ops, pipeline, elsewhere):
    one, other = _augment(ops, pipeline, elsewhere)
    assert one.dtype == other.dtype and np.array_equal(one, other)


def test_means_of_pictures_differ_in_last_bits_alone(ops):
    one, other = _augment(ops, "cifar", "")
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5)


def _augment(ops, pipeline, elsewhere):
    made = make_preprocessing((32, 32, 3), pipeline, elsewhere, seed=3)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    keys = generator.integers(0, 1 << 40, 64)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        fed = tf.placeholder(tf.uint8, images.shape), tf.placeholder(tf.int64, [64])
        found = [side.in_batches(*fed) for side in (made.training, made.with_operation(ops["augment"]).training)]
        assert "TowerAugment" in {op.type for op in graph.get_operations()}
        return session.run(found, dict(zip(fed, (images, keys), strict=True)))


def test_bfloat16_is_float32_rounded(ops):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    plan = augment.Plan(flip=0, floats=True, steps=(augment.Step("multiply", (0.01, 0.02, 0.03)),))
    with tf.Graph().as_default(), tf.Session() as session:
        keys = tf.range(4, dtype=tf.int64)
        made = [
            augment.build_augment(ops["augment"], tf.constant(images), keys, seed=1, plan=plan, dtype=dtype)
            for dtype in (tf.float32, tf.bfloat16)
        ]
        one, other = session.run([tf.cast(made[0], tf.bfloat16), made[1]])
    assert np.array_equal(one.astype(np.float32), other.astype(np.float32))


FUZZ = """
import sys
import numpy as np
from trainer.ops import own
from trainer.tf1 import tf

tf.logging.set_verbosity(tf.logging.FATAL)
modules = {name: own.find_own(name).module for name in own.OPERATIONS}
random = np.random.default_rng(int(sys.argv[1]))
refused = 0


def number(low=-3, high=12):
    return int(random.choice([random.integers(low, high), 2**62, -2**62, 0], p=[0.94, 0.02, 0.02, 0.02]))


def shape():
    return [int(random.integers(0, 5)) for _ in range(random.integers(0, 4))]


def tensor(dtype):
    value = (random.normal(size=shape()) * 3).astype(dtype)
    return tf.placeholder_with_default(value, None) if random.random() < 0.5 else tf.constant(value)


def variable(name):
    made = tf.get_variable(name, initializer=(random.normal(size=shape())).astype(random.choice(["f4", "f4", "i8"])))
    return made


for round in range(int(sys.argv[2])):
    with tf.Graph().as_default(), tf.Session() as session:
        try:
            some = [variable(f"v{i}") for i in range(8)]
            handle = lambda: some[random.integers(8)].handle
            handles = lambda: [handle() for _ in range(random.integers(0, 3))]
            kind = round % 3
            if kind == 0:
                count = int(random.integers(1, 3))
                made = modules["update"].tower_update(
                    checked=[tensor("f4") for _ in range(random.integers(0, 2))],
                    gradients=[tensor("f4") for _ in range(count)], variables=[handle() for _ in range(count)],
                    slots=handles(), averages=handles(), powers=handles(), step=handle(), position=handle(),
                    skipped=handle(), rate=tensor("f4"),
                    optimizer=str(random.choice(["sgd", "momentum", "adam", "rmsprop", "none"])),
                    clip=str(random.choice(["none", "norm", "value"])), maximum=float(random.normal()),
                    decays=[0.1] * int(random.integers(0, 3)), batch_size=max(1, number()))
            elif kind == 1:
                made = modules["augment"].tower_augment(
                    images=tensor("u1"), keys=tensor("i8"), dtype=random.choice([tf.uint8, tf.float32, tf.bfloat16]),
                    height=number(), width=number(), depth=number(), pad=number(), crop_height=number(),
                    crop_width=number(), crop=number(), flip=number(), cutout=number(), hole=number(), seed=number(),
                    steps=[str(random.choice(["add", "contrast", "standardize", "x"]))
                           for _ in range(random.integers(0, 2))],
                    numbers=[1.0] * int(random.integers(0, 5)), places=[0] * int(random.integers(0, 2)))
            else:
                made = modules["records"].tower_records(
                    numbers=tensor("i8"), paths=[sys.argv[3]] * int(random.integers(1, 3)),
                    counts=[number() for _ in range(random.integers(1, 3))], frame_bytes=number(0, 200),
                    shape=[number() for _ in range(random.integers(2, 5))], image=number(0, 100), label=number(0, 100),
                    classes=number(), offsets=[number(0, 100)] * int(random.integers(0, 2)), constants=[b"x" * 5])
            session.run(tf.global_variables_initializer())
            session.run(made)
        except (ValueError, TypeError, OverflowError, tf.errors.OpError):
            refused += 1
print(refused, "refused")
"""


@pytest.mark.parametrize(
    ("seed", "rounds"), [(1, 300), *(pytest.param(seed, 5000, marks=pytest.mark.soak) for seed in range(2, 6))]
)
def test_no_input_ends_the_process(ops, digits_dir, seed, rounds):
    shard = next(iter(sorted(digits_dir.glob("train*"))))
    command = [sys.executable, "-c", FUZZ, str(seed), str(rounds), str(shard)]
    done = subprocess.run(command, cwd=REPO, env=environment(), capture_output=True, text=True, timeout=170)
    assert done.returncode == 0 and int(done.stdout.split()[-2]) > rounds // 2, done.stderr[-2000:]


def test_a_run_that_goes_on_with_others_says_so(ops, digits_dir, tmp_path, capsys):
    settings = {"data_dir": digits_dir, "logdir": tmp_path / "run", "model": "mlp", "eval_every": "0"}
    api.train(train_steps=5, **settings)
    capsys.readouterr()
    api.train(train_steps=10, ops="off", **settings)
    said = capsys.readouterr().out
    assert "own operations (--ops) were update, records, augment, and are none: the same results" in " ".join(
        said.split()
    )
    api.train(train_steps=15, ops="off", **settings)
    assert "(--ops) were" not in capsys.readouterr().out


def test_without_a_compiler_one_line_says_so_and_the_results_are_the_same(digits_dir, tmp_path, run_program):
    bare = {"CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    flags = [f"--data_dir={digits_dir}", "--model=mlp", "--train_steps=10", "--eval_every=0"]
    done = run_program("trainer", *flags, f"--logdir={tmp_path}/bare", environ=bare)
    lines = [line for line in done.out.splitlines() if "operations of the trainer's own" in line]
    assert done.code == 0 and len(lines) == 1 and "by TensorFlow's, with the same results" in lines[0], done
    done = run_program("trainer", *flags, f"--logdir={tmp_path}/off", "--ops=off", environ=bare)
    assert done.code == 0 and "operations" not in done.out
    readers = [tf.train.load_checkpoint(f"{tmp_path}/{name}/model.ckpt-10") for name in ("bare", "off")]
    for name in readers[0].get_variable_to_shape_map():
        assert np.array_equal(*(reader.get_tensor(name) for reader in readers)), name


NET = """
import tensorflow.compat.v1 as tf
import trainer.ops

operations = trainer.ops.load({files})


@tf.RegisterGradient("OwnMish")
def gradient(op, dy):
    x = op.inputs[0]
    tanh = tf.tanh(tf.math.softplus(x))
    return dy * (tanh + x * (1 - tanh * tanh) * tf.sigmoid(x))


def build(images, num_classes, training):
    x = operations.own_mish(tf.reshape(images, [-1, 64]))
    return tf.matmul(x, tf.get_variable("w", [64, num_classes]))
"""


@pytest.fixture
def own_net(tmp_path, compiler):
    """Writes a network with an operation beside it; its file."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(EXAMPLE, folder / "mish.cc")
    (folder / "net.py").write_text(NET.format(files="'mish.cc'"))
    return folder / "net.py"


def test_a_users_operation_trains_on_two_towers_and_the_run_keeps_its_sources(own_net, digits_dir, tmp_path):
    logdir = tmp_path / "run"
    settings = {"data_dir": digits_dir, "logdir": logdir, "eval_every": "0"}
    api.train(model=f"{own_net}:build", num_gpus=2, train_steps=20, **settings)
    kept = sorted(path.name for path in (logdir / "code").rglob("*") if path.is_file())
    assert kept == ["code.json", "mish.cc", "net.py"]
    before = api.evaluate(logdir=logdir, split="validation")
    shutil.rmtree(own_net.parent)
    assert api.evaluate(logdir=logdir, split="validation") == before
    api.train(model=f"{own_net}:build", num_gpus=2, train_steps=25, **settings)


def test_another_source_than_the_runs_is_said(own_net, digits_dir, tmp_path, capsys):
    settings = {"data_dir": digits_dir, "logdir": tmp_path / "run", "eval_every": "0", "model": f"{own_net}:build"}
    api.train(train_steps=5, **settings)
    source = own_net.with_name("mish.cc")
    source.write_text(source.read_text() + "// changed\n")
    api.train(train_steps=10, **settings)
    assert "has changed or gone since this run began, which goes on with its own copy" in capsys.readouterr().out


def test_exports_carry_the_library_and_predict_takes_it(own_net, digits_dir, tmp_path, run_program):
    logdir = tmp_path / "run"
    api.train(model=f"{own_net}:build", data_dir=digits_dir, logdir=logdir, train_steps=5, eval_every="0")
    picture = tmp_path / "picture.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)).save(picture)
    wanted = run_program("trainer.predict", f"--model={logdir}", str(picture)).out
    for kind, path in (("frozen", "frozen.pb"), ("saved_model", "saved_model/1")):
        done = run_program("trainer.export", f"--logdir={logdir}", f"--format={kind}")
        assert done.code == 0 and "needs OwnMish: tf.load_op_library(" in done.out, done
        model = logdir / "export" / path
        folder = model / "ops" / "mish" if model.is_dir() else model.with_name("frozen.pb.ops") / "mish"
        assert (folder / "sources" / "mish.cc").read_bytes() == EXAMPLE.read_bytes()
        done = run_program("trainer.predict", f"--model={model}", str(picture))
        assert done.code == 2 and "needs the operation OwnMish" in done.err and str(folder) in done.err, done
        for given in (folder / "library.so", folder / "sources" / "mish.cc"):
            done = run_program("trainer.predict", f"--model={model}", f"--operations={given}", str(picture))
            assert done.code == 0 and done.out == wanted, done


def test_two_files_of_one_name_and_any_name_of_an_operation_are_exported(own_net, digits_dir, tmp_path):
    for number, name in enumerate(("Own2D", "OwnL2Norm3D")):
        folder = own_net.parent / f"part{number}"
        folder.mkdir()
        text = own_net.with_name("mish.cc").read_text().replace("OwnMish", name)
        (folder / "mish.cc").write_text(text)
    own_net.write_text(
        "import tensorflow.compat.v1 as tf\nimport trainer.ops\n"
        "one, two = (trainer.ops.load(f'part{number}/mish.cc') for number in (0, 1))\n\n\n"
        "def build(images, num_classes, training):\n"
        "    x = tf.stop_gradient(two.own_l2_norm3d(one.own2d(tf.reshape(images, [-1, 64]))))\n"
        "    return tf.matmul(x, tf.get_variable('w', [64, num_classes]))\n"
    )
    logdir = tmp_path / "run"
    api.train(model=f"{own_net}:build", data_dir=digits_dir, logdir=logdir, train_steps=3, eval_every="0")
    done = export.main(["export", f"--logdir={logdir}", "--format=frozen"])
    folders = sorted(path.name.partition("-")[0] for path in (logdir / "export" / "frozen.pb.ops").iterdir())
    assert done == 0 and folders == ["mish", "mish"]


def test_a_gradient_that_is_missing_is_one_line(own_net, digits_dir, tmp_path):
    text = own_net.read_text()
    own_net.with_name("mish.cc").write_text(EXAMPLE.read_text().replace("OwnMish", "OwnNone"))
    text = text[: text.index("@tf.Register")] + text[text.index("def build") :]
    own_net.write_text(
        text.replace("own_mish", "own_none")
        .replace("tf.reshape(images, [-1, 64])", "X")
        .replace(
            "operations.own_none(X)", "operations.own_none(tf.reshape(images, [-1, 64]) * tf.get_variable('v', [64]))"
        )
    )
    with pytest.raises(TrainerError, match=r"(?s)No gradient defined for operation.*OwnNone.*RegisterGradient"):
        api.train(model=f"{own_net}:build", data_dir=digits_dir, logdir=tmp_path / "run", train_steps=3)


@pytest.mark.parametrize(("pad", "crop", "n"), [(100_000, 200_001, 1), (4096, 8192, 3)])
def test_pictures_that_are_too_large_are_refused(ops, pad, crop, n):
    with tf.Graph().as_default(), tf.Session() as session, pytest.raises((ValueError, tf.errors.OpError)):
        session.run(ops["augment"].tower_augment(
            images=tf.placeholder_with_default(np.zeros((n, 1, 1, 100_000), np.uint8), None), keys=np.arange(n),
            dtype=tf.float32, height=1, width=1, depth=100_000, pad=pad, crop_height=crop, crop_width=crop, seed=1,
            crop=0, steps=["standardize"], numbers=[], places=[-1]))  # fmt: skip


def test_a_source_outside_of_what_is_kept_is_refused(own_net, digits_dir, tmp_path):
    shutil.move(own_net.with_name("mish.cc"), tmp_path / "mish.cc")
    own_net.write_text(NET.format(files="'../mish.cc'"))
    with pytest.raises(TrainerError, match=r"mish.cc does not lie below .*mine, and the run keeps copies"):
        api.train(model=f"{own_net}:build", data_dir=digits_dir, logdir=tmp_path / "run", train_steps=5)


def test_an_error_of_the_compiler_is_one_line_with_the_users_file(own_net, digits_dir, tmp_path, run_program):
    source = own_net.with_name("mish.cc")
    source.write_text(source.read_text().replace("std::tanh", "std::no_such"))
    done = run_program("trainer", f"--model={own_net}", f"--data_dir={digits_dir}", f"--logdir={tmp_path}/run")
    line = next(n for n, text in enumerate(source.read_text().splitlines(), 1) if "no_such" in text)
    assert done.code == 2 and f"error: {source}:{line}: 'no_such' is not a member of 'std'" in done.err, done
    assert "Traceback" not in done.err


def test_the_example_agrees_with_numpy_and_its_gradient_is_right(run_program, compiler):
    done = run_program("examples.own_operation.mish")
    numbers = [float(line.rpartition(" ")[2]) for line in done.out.splitlines()]
    assert done.code == 0 and len(numbers) == 2 and max(numbers) < 1e-3, done
    lines = sum(len((EXAMPLE.with_name(name)).read_text().splitlines()) for name in ("mish.cc", "mish.py"))
    assert lines <= 80


def test_the_program_builds_checks_and_cleans(tmp_path, run_program, compiler):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run_program("trainer.ops", "build", str(EXAMPLE), f"--output={tmp_path}/elsewhere", environ=cache)
    assert done.code == 0 and "TOWER_OPS=" in done.out, done
    bare = {**cache, "CXX": "no-such-compiler", "TOWER_OPS": str(tmp_path / "elsewhere")}
    code = "import sys, trainer.ops\nprint(trainer.ops.load(sys.argv[1]).own_mish)"
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE)],
        env={**environment(), **bare},
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert loaded.returncode == 0, loaded.stderr
    done = run_program("trainer.ops", "check", environ={**cache, "CXX": "no-such-compiler"})
    assert done.code == 1 and "no C++ compiler" in done.out + done.err
    done = run_program("trainer.ops", "where", environ=bare)
    assert done.code == 0 and f"TOWER_OPS: {tmp_path / 'elsewhere'}" in done.out
    assert run_program("trainer.ops", "clean", environ=cache).code == 0
    assert run_program("trainer.ops", "biuld").code == 2
    assert "equal to its twin" in run_program("trainer.ops", "check").out
