"""Pictures that are read from the files in which they lie: binary records of one length, and image files by path."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.plan import free_ports
from trainer import api
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split, read_examples, read_records
from trainer.data.spec import IMAGE, LABEL
from trainer.errors import TrainerError, UsageError
from trainer.inputs.parsing import parse_examples
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.rundir import RunDir
from trainer.saving.lock import RunLock
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)
RECORD = "coarse:1,label:2,image:90,shape=6x5x3,order={}"


@pytest.fixture
def convert(run_here, tmp_path):
    def run(source, *args, data="data"):
        return run_here("trainer.convert", f"--source={source}", f"--data_dir={tmp_path / data}", *args)

    return run


@pytest.fixture
def binary(tmp_path):
    """Three files of 40, 20 and 20 records: a coarse label, a fine one from 256 on, and planes."""
    rng = np.random.default_rng(1)
    examples = {}
    for name, count in (("data_batch_1.bin", 40), ("data_batch_2.bin", 20), ("test_batch.bin", 20)):
        pixels = rng.integers(0, 256, (count, 3, 6, 5), np.uint8)
        labels = rng.integers(256, 259, count)
        heads = [bytes([7]) + int(label).to_bytes(2, "little") for label in labels]
        records = [head + planes.tobytes() for head, planes in zip(heads, pixels, strict=True)]
        (tmp_path / "binary").mkdir(exist_ok=True)
        (tmp_path / "binary" / name).write_bytes(b"".join(records))
        examples[name] = (pixels.transpose(0, 2, 3, 1), labels - 256)
    return tmp_path / "binary", examples


def read_in_graph(spec, split):
    side = make_preprocessing(spec.stored_shape, smallest=spec.smallest).elsewhere
    records = [record for shard in spec.splits[split] for record in read_records(spec.path_of(shard), spec)]
    with tf.Graph().as_default(), tf.Session() as session:
        found = parse_examples(tf.constant(records), spec, side)
        return session.run([found[IMAGE], found[LABEL]])


def test_binary_records_are_read_where_they_lie(binary, convert, tmp_path):
    folder, examples = binary
    done = convert(folder, "--kind=binary", f"--record={RECORD.format('CHW')}", "--label_offset=256")
    assert done.code == 0 and "no validation shards are named: those of test stand for them" in done.out, done
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["manifest.json"]
    spec = load_manifest(tmp_path / "data")
    for split, names in (("train", ("data_batch_1.bin", "data_batch_2.bin")), ("test", ("test_batch.bin",))):
        images, labels = (np.concatenate([examples[name][place] for name in names]) for place in (0, 1))
        for found in (load_split(spec, split), read_in_graph(spec, split)):
            np.testing.assert_array_equal(found[0], images)
            np.testing.assert_array_equal(found[1], labels)
    settings = {"batch_size": 16, "model": "mlp", "quiet": True, "data_dir": tmp_path / "data"}
    for name in ("queue", "preloaded"):
        assert api.train(**settings, train_steps=9, input=name, logdir=tmp_path / name).step == 9


def test_binary_records_are_the_pairs_of_picture_and_label_of_a_conversion(binary, convert, tmp_path):
    folder, examples = binary
    flags = ("--kind=binary", f"--record={RECORD.format('CHW')}", "--label_offset=256")
    assert convert(folder, *flags, "--files=train=data_*,test=test_*").code == 0
    arrays = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
    for name, (images, labels) in examples.items():
        split = "test" if "test" in name else "train"
        arrays[f"x_{split}"].append(images)
        arrays[f"y_{split}"].append(labels)
    joined = {name: np.concatenate(parts) for name, parts in arrays.items()}
    np.savez(tmp_path / "mine.npz", **joined, x_val=joined["x_test"], y_val=joined["y_test"])
    assert convert(tmp_path / "mine.npz", data="converted").code == 0
    pairs = []
    for data in ("data", "converted"):
        images, labels = load_split(load_manifest(tmp_path / data), "train")
        pairs.append(sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)))
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "--kind=binary needs --record"),
        ("label:1", "wanted label:BYTES"),
        ("label:1,image:90,shape=6x5", "wanted label:BYTES"),
        ("label:1,image:90,shape=6x5x3,order=WHC", "wanted label:BYTES"),
        ("label:1,image:91,shape=6x5x3", "image has 91 bytes, its shape 90"),
        ("label:3,image:90,shape=6x5x3", "label has 3 bytes"),
        ("label:1,label:1,image:90,shape=6x5x3", "wanted label:BYTES"),
        ("label:1,image:90,shape=6x5x3", "no whole number of records of 91 bytes"),
        ("label:4,x:89,image:0,shape=0x5x3", "wanted label:BYTES"),
    ],
)
def test_a_record_that_cannot_be_is_explained(binary, convert, record, message, tmp_path):
    done = convert(binary[0], "--kind=binary", *([f"--record={record}"] if record else []))
    assert done.code in (1, 2) and message in done.err and "Traceback" not in done.err, done
    assert not (tmp_path / "data").exists()


def test_a_binary_file_that_has_changed_is_named_and_never_skipped(binary, convert, run_here, tmp_path):
    folder, _ = binary
    assert convert(folder, "--kind=binary", f"--record={RECORD.format('HWC')}", "--label_offset=256").code == 0
    content = bytearray((folder / "data_batch_1.bin").read_bytes())
    content[93] ^= 1
    (folder / "data_batch_1.bin").write_bytes(content)
    where = (f"--data_dir={tmp_path / 'data'}", f"--logdir={tmp_path / 'run'}", "--model=mlp", "--batch_size=8")
    done = run_here("trainer", *where)
    assert done.code == 1 and f"{folder / 'data_batch_1.bin'} is not what was converted" in done.err, done
    done = run_here("trainer", *where, "--skip_corrupt=3")
    assert done.code == 1 and "no checksums" in done.err, done


@pytest.fixture
def folder(tmp_path):
    """60 pictures of two classes and several sizes, PNG and JPEG, one turned by EXIF, one a GIF; names are no UTF-8."""
    rng = np.random.default_rng(3)
    for number in range(60):
        height, width = (int(side) for side in rng.integers((12, 14), 24))
        pixels = rng.integers(0, 100, (height, width, 3), np.uint8) + np.uint8(120 * (number % 2))
        kind = "GIF" if number == 4 else ("JPEG" if number % 3 else "PNG")
        path = tmp_path / "halves" / ("dark", "light")[number % 2] / os.fsdecode(b"%d \xff.jpg" % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 7 else 1
        Image.fromarray(pixels).save(path, kind, **({"exif": exif} if number == 7 else {}))
    return tmp_path / "halves"


def test_pictures_by_path_are_the_pictures_that_are_kept(folder, convert, tmp_path):
    for store in ("paths", "encoded"):
        done = convert(folder, f"--store={store}", "--shards=3", "--split=60/20/20", data=store)
        assert done.code == 0, done
    specs = [load_manifest(tmp_path / store) for store in ("paths", "encoded")]
    sizes = [sum(shard.num_bytes for shard in spec.splits["train"]) for spec in specs]
    assert sizes[0] < sizes[1] / 2
    for split in specs[0].splits:
        examples = [
            [e for shard in spec.splits[split] for e in read_examples(spec.path_of(shard), spec)] for spec in specs
        ]
        for (image, label), (wanted, wanted_label) in zip(*examples, strict=True):
            np.testing.assert_array_equal(image, wanted)
            assert label == wanted_label
    losses = []
    for store in ("paths", "encoded"):
        result = api.train(
            data_dir=tmp_path / store, logdir=tmp_path / f"run_{store}", preprocess="random_crop(12)|flip_lr",
            eval_preprocess="crop_or_pad(12)", train_steps=12, batch_size=12, model="mlp", quiet=True,
        )  # fmt: skip
        losses.append((result.train_loss, result.test["accuracy"]))
    assert losses[0] == losses[1]


def test_a_file_that_is_another_one_now_is_named_with_its_record(folder, convert, run_here, tmp_path):
    assert convert(folder, "--store=paths", "--shards=3").code == 0
    spec = load_manifest(tmp_path / "data")
    record = next(read_records(spec.path_of(spec.splits["train"][0]), spec))
    path = Path(os.fsdecode(tf.train.Example.FromString(record).features.feature["path"].bytes_list.value[0]))
    size = path.stat().st_size
    Image.fromarray(np.zeros([20, 20, 3], np.uint8)).save(path, "PNG")
    where = (f"--data_dir={tmp_path / 'data'}", f"--logdir={tmp_path / 'run'}", "--batch_size=8", "--model=mlp")
    done = run_here("trainer", *where, "--preprocess=resize(9)")
    wanted = f"has changed: {path.stat().st_size:,} bytes, and {size:,} when it was converted"
    assert done.code == 1 and "record 0 at byte 0: its file" in done.err and wanted in done.err, done


def test_a_file_that_has_gone_is_named_with_its_record(folder, convert, run_here, tmp_path):
    assert convert(folder, "--store=paths", "--shards=3").code == 0
    spec = load_manifest(tmp_path / "data")
    record = next(read_records(spec.path_of(spec.splits["train"][0]), spec))
    path = os.fsdecode(tf.train.Example.FromString(record).features.feature["path"].bytes_list.value[0])
    Path(path).unlink()
    where = (f"--data_dir={tmp_path / 'data'}", f"--logdir={tmp_path / 'run'}", "--batch_size=8", "--model=mlp")
    done = run_here("trainer", *where, "--preprocess=resize(9)")
    assert done.code == 1 and "record 0 at byte 0: its file" in done.err and "No such file" in done.err, done


FILES = {
    "input": "files", "split": "60/20/20", "preprocess": "random_crop(12)|flip_lr", "model": "mlp",
    "eval_preprocess": "crop_or_pad(12)", "batch_size": 12, "decay": "constant", "eval_every": "0", "quiet": True,
    "model_args": "dropout=0",
}  # fmt: skip


def weights(logdir, step):
    reader = tf.train.NewCheckpointReader(str(logdir / f"model.ckpt-{step}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_a_folder_is_trained_on_as_it_lies_and_as_its_conversion_would_be(folder, convert, tmp_path):
    """The same splits, order, pictures and weights; the manifest is in the run directory, and no picture."""
    assert convert(folder, "--split=60/20/20").code == 0
    run = tmp_path / "run"
    api.train(**FILES, source=folder, logdir=run, train_steps=12)
    settings = {**FILES, "input": "queue", "data_dir": tmp_path / "data"}
    del settings["split"]
    api.train(**settings, logdir=tmp_path / "converted", train_steps=12)
    assert_same(weights(run, 12), weights(tmp_path / "converted", 12))
    kept = sum(path.stat().st_size for path in (run / "data").iterdir())
    assert kept < sum(path.stat().st_size for path in folder.rglob("*.jpg"))

    stopped = tmp_path / "stopped"
    api.train(**FILES, source=folder, logdir=stopped, train_steps=5)
    api.train(**FILES, source=folder, logdir=stopped, train_steps=12, num_gpus=2)
    np.testing.assert_allclose(weights(stopped, 12)["hidden1/weights"], weights(run, 12)["hidden1/weights"], atol=1e-6)


def test_a_run_on_files_can_be_moved_begun_anew_and_evaluated(folder, run_here, tmp_path):
    run = tmp_path / "run"
    api.train(**FILES, source=folder, logdir=run, train_steps=3)
    with pytest.raises(UsageError, match=r"holds a run on .*halves, --split=60/20/20, not on .*other"):
        (tmp_path / "other").mkdir()
        api.train(**FILES, source=tmp_path / "other", logdir=run, train_steps=3)
    api.train(**FILES, source=folder, logdir=run, train_steps=4, resume="never")
    assert (tmp_path / "run.1" / "data" / "manifest.json").is_file() and (run / "data" / "manifest.json").is_file()
    run.rename(tmp_path / "moved")
    (tmp_path / "run.1").rename(tmp_path / "gone")
    done = run_here("trainer.evaluate", f"--logdir={tmp_path / 'moved'}", "--json")
    assert done.code == 0 and '"accuracy"' in done.out, done


def test_a_start_that_is_refused_leaves_the_files_of_a_run_at_work(folder, tmp_path):
    run = tmp_path / "run"
    api.train(**FILES, source=folder, logdir=run, train_steps=3)
    for path in run.glob("model.ckpt-*"):  # As before its first checkpoint.
        path.unlink()
    before = {path.name: path.read_bytes() for path in (run / "data").iterdir()}
    with RunLock(RunDir(run)), pytest.raises(TrainerError, match="is in use by"):
        api.train(**{**FILES, "split": "80/10/10"}, source=folder, logdir=run, train_steps=3)
    assert {path.name: path.read_bytes() for path in (run / "data").iterdir()} == before
    api.train(**{**FILES, "split": "80/10/10"}, source=folder, logdir=run, train_steps=3)
    assert load_manifest(run / "data").attribution.endswith("--split=80/10/10")
    flags = (run / "flags.txt").read_text()
    assert "--data_dir" not in flags and f"--source={folder}" in flags


@pytest.mark.parametrize(
    "settings, wanted",
    [
        ({"input": "files"}, r"name their folder by --source=DIR"),
        ({"input": "files", "source": "nowhere"}, r"--source=.*/nowhere: no such file or folder"),
        ({"source": "halves"}, r"--source=\S+ is of --input=files, and --input=queue does not use it"),
        ({"input": "files", "source": "halves", "split": "1/2"}, r"split"),
        ({"input": "files", "source": "halves", "data_dir": "d"}, r"--source and --data_dir conflict"),
        ({"input": "files", "source": "halves", "preprocess": "flip_lr", "batch_size": 9}, r"several sizes"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_directory(settings, wanted, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainerError, match=wanted):
        api.train(**settings, logdir=tmp_path / "run", train_steps=3, quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("store", ["paths", "encoded", "decoded:8"])
def test_two_conversions_of_the_same_pictures_are_the_same_bytes(store, folder, tmp_path, run_program):
    """In processes of their own: protobuf orders the fields of a record by addresses, if it is not told not to."""
    for path in folder.rglob("*.jpg"):
        Image.open(path).convert("RGB").resize((9, 9)).save(path, "PNG")
    for name in ("one", "two"):
        place = tmp_path / name
        done = run_program("trainer.convert", f"--source={folder}", f"--data_dir={place}", f"--store={store}")
        assert done.code == 0, done
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir()) and len(names) > 10
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_read_the_same_files(folder, tmp_path, program):
    ports = free_ports(2)
    flags = [f"--{name}={value}" for name, value in FILES.items() if name != "quiet"]
    flags += [f"--source={folder}", "--train_steps=6", "--job_name=worker"]
    flags += [f"--worker_hosts={','.join(f'127.0.0.1:{port}' for port in ports)}"]
    tasks = [program("trainer", *flags, f"--task_index={index}", f"--logdir={tmp_path / 'run'}") for index in (0, 1)]
    for task in tasks:
        out, err = task.communicate(timeout=200)
        assert task.returncode == 0, out + err
    api.train(**FILES, source=folder, logdir=tmp_path / "alone", train_steps=6)
    found, wanted = (weights(tmp_path / name, 6)["hidden1/weights"] for name in ("run", "alone"))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
