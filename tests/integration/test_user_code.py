"""Functions of the user's own: found, named where they fail, kept by the run, and never run unasked."""

import pwd
import py_compile
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import read_metrics
from trainer import api
from trainer.errors import UsageError
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.rundir import RunDir
from trainer.saving.models import load_model
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(120)

AUGMENT = """
import tensorflow.compat.v1 as tf
from sizes import LARGEST

def unit(images):
    return tf.cast(images, tf.float32) / LARGEST

def noise(images, draws, strength: float = 0.1):
    def of_one(seed):
        return tf.random.stateless_normal(images.shape[1:], seed)
    return images + strength * tf.map_fn(of_one, draws.seeds(), fn_output_signature=tf.float32)

def darker(pictures, draws, by=0.5):
    return pictures * (1 - draws.uniform(0, by)[:, :, None, None])

def _private(images):
    return images
"""
FAULTS = """
import tensorflow.compat.v1 as tf

def stateful(images):
    return tf.cast(images, tf.float32) + tf.random_uniform([])

def broken(images):
    return inner(images)

def inner(images):
    return tf.matmul(images, [1, 2])

def nothing(images):
    pass

def double(images):
    return tf.cast(images, tf.float64)

def hidden(images):
    @tf.function
    def inner():
        return tf.random.uniform([])
    return tf.cast(images, tf.float32) + inner()

def python(images):
    return tf.reshape(tf.numpy_function(lambda x: x, [images], tf.uint8), [-1, 8, 8, 1])

def fewer(images):
    return images[:1]

def third(images, strength, draws):
    return images

def text(images, kind):
    assert kind == "1..2", kind
    return images

def flat(images):
    return tf.layers.flatten(images) if False else tf.reshape(images, [-1, 64])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory of a user's, who stands beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    mine = tmp_path / "my code"
    mine.mkdir()
    (mine / "augment.py").write_text(AUGMENT)
    (mine / "sizes.py").write_text("LARGEST = 255.0\n")
    (mine / "faults.py").write_text(FAULTS)
    (mine / "empty.py").write_text("LARGEST = 3\n")
    (mine / "syntax.py").write_text("x = 1\ndef f(:\n")
    (mine / "script.py").write_text("import sys\nsys.exit(3)\n")
    (mine / "fails.py").write_text("import sizes\nraise KeyError('no such thing')\n")
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "more.py").write_text(
        "from mine.sizes import LARGEST\ndef unit(x): return x.__rtruediv__(1) / LARGEST\n"
    )
    (package / "sizes.py").write_text("LARGEST = 2.0\n")
    return mine


def run_pipeline(text, images, keys, code=None):
    side = make_preprocessing(images.shape[1:], text, seed=3, code=code).training
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(side.in_batches(tf.constant(images), tf.constant(keys)))


def test_an_operation_of_a_file_is_what_it_says():
    images = np.random.default_rng(1).integers(0, 256, [6, 8, 8, 1]).astype(np.uint8)
    keys = np.arange(6) + 100
    got = run_pipeline("my code/augment.py:unit", images, keys)
    np.testing.assert_allclose(got, images / 255.0, rtol=1e-6)
    dark = run_pipeline("my code/augment.py:unit|my code/augment.py:darker(by=0.5)", images, keys)
    factors = (dark.sum((1, 2, 3)) / got.sum((1, 2, 3))).round(5)
    assert len(set(factors)) == 6 and (factors > 0.5).all() and (factors < 1).all()
    np.testing.assert_allclose(dark, got * factors[:, None, None, None], rtol=1e-4)


def test_what_it_draws_follows_from_the_record_alone():
    images = np.random.default_rng(1).integers(0, 256, [6, 8, 8, 1]).astype(np.uint8)
    keys = np.array([5, 3, 9, 1, 77, 2])
    text = "my code/augment.py:unit|flip_lr|my code/augment.py:noise(0.2)"
    whole = run_pipeline(text, images, keys)
    parts = [run_pipeline(text, images[share], keys[share]) for share in (slice(0, 2), slice(2, 6))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    added = whole - run_pipeline("my code/augment.py:unit|flip_lr", images, keys)
    assert abs(added.std() - 0.2) < 0.03 and len({round(float(each.sum()), 4) for each in added}) == 6


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("my code/augment.py", r"name the function, as my code/augment.py:unit; it defines unit, noise, darker$"),
        ("my code/augment.py:nois", r"choose one of darker, noise, unit; did you mean noise\?"),
        ("my code/augmnt.py:noise", r"there is no file .*/my code/augmnt.py; beside it lie augment.py, empty.py"),
        ("nowhere/augment.py:noise", r"there is no file .*; .*/nowhere holds no Python file"),
        ("my code/empty.py:f", r"my code/empty.py defines no function; wanted my code/empty.py:f"),
        ("my code/syntax.py:f", r"my code/syntax.py:2: SyntaxError: invalid syntax"),
        ("my code/script.py:f", r"would end the program \(exit 3\); .*__main__"),
        ("my code/fails.py:f", r"my code/fails.py:2, in <module>: KeyError: 'no such thing'"),
        ("my code/augment.py:unit(3)", r"unit\(3\): too many positional arguments; it takes no arguments"),
        ("my code/augment.py:noise(sigma=3)", r"unexpected keyword argument 'sigma'; it takes strength=0.1"),
        ("my code/augment.py:noise('x')", r"strength='x' is not legal: wanted a number"),
        ("my code/faults.py:stateful", r"faults.py:stateful draws by RandomUniform, .* take an argument `draws`"),
        ("my code/faults.py:broken", r"my code/faults.py:11, in inner: \w+: "),
        ("my code/faults.py:hidden", r"faults.py:hidden draws by RandomUniform"),
        (
            "my code/faults.py:python",
            r"faults.py:python runs Python in the graph \(PyFunc\), which no export could hold",
        ),
        ("my code/faults.py:fewer", r"faults.py:fewer returned 1 pictures, and was given 2"),
        ("my code/faults.py:third(3)", r"it takes images, strength, draws; wanted images, then draws"),
        ("my co(de/faults.py:fewer", r"is no operation; .*a path may not hold \( \) \|"),
        (":fewer", r"there is no module ''; wanted package.module:function"),
        ("my code/faults.py:nothing", r"faults.py:nothing returned a NoneType; wanted pictures"),
        ("my code/faults.py:double", r"faults.py:double returned float64 \(\d, 8, 8, 1\); wanted pictures"),
        ("my code/faults.py:flat", r"faults.py:flat returned uint8 \(\d, 64\); wanted pictures"),
        ("no_such_package.module:f", r"there is no module 'no_such_package'; wanted package.module:function or path"),
        ("mixup|my code/augment.py:unit", r"must stand before mixup"),
    ],
)
def test_errors_name_the_users_own_place(text, wanted):
    with pytest.raises(UsageError, match=wanted):
        make_preprocessing((8, 8, 1), text, "float")


def test_what_is_kept_is_what_was_run(digits_dir, folder, tmp_path):
    """Also where the files have changed since, before they are copied."""
    code = UserCode()
    code.load("my code/augment.py:unit")
    wanted = {(folder / name).read_bytes() for name in ("augment.py", "sizes.py")}
    for name in ("augment.py", "sizes.py"):
        (folder / name).write_text("raise AssertionError")
    assert {file.content for file in code.files()} == wanted


def test_a_text_in_quotes_is_no_range():
    make_preprocessing((8, 8, 1), "my code/faults.py:text('1..2')")


def test_code_leaves_nothing_behind_and_two_copies_do_not_meet(folder, tmp_path):
    import sys

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "sizes.py").write_text("LARGEST = 51.0\n")
    before = (list(sys.path), set(sys.modules))
    images, keys = np.full([2, 8, 8, 1], 51, np.uint8), np.arange(2)
    values = {run_pipeline(f"{place}/augment.py:unit", images, keys)[0, 0, 0, 0] for place in ("my code", "other")}
    assert values == {np.float32(0.2), np.float32(1)}
    assert sys.path == before[0] and not {name for name in set(sys.modules) - before[1] if "sizes" in name}
    assert not list(folder.rglob("__pycache__"))


def test_functions_of_packages_and_the_files_that_are_kept(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    code = UserCode()
    assert code.load("mine.more:unit")(np.float64(4)) == 0.125
    code.load("my code/augment.py:unit")
    names = {(file.place.root.name, file.place.file) for file in code.files()}
    assert names == {
        (tmp_path.name, "mine/__init__.py"), (tmp_path.name, "mine/more.py"), (tmp_path.name, "mine/sizes.py"),
        ("my code", "augment.py"), ("my code", "sizes.py"),
    }  # fmt: skip
    installed = UserCode()
    assert installed.load("numpy:square")(3) == 9 and not installed.files()


TRAINING = "my code/augment.py:unit|my code/augment.py:noise(0.2)"


def train_here(digits_dir, steps, **settings):
    return api.train(
        quiet=True, data_dir=digits_dir, logdir="run", model="mlp", model_args="hidden_sizes=8", train_steps=steps,
        preprocess=TRAINING, eval_every="0", **settings,
    )  # fmt: skip


def test_a_run_goes_on_with_its_own_copy(digits_dir, folder, tmp_path):
    """Also where the file, or one that it imports, has changed or gone; and takes the new one where it is told to."""
    train_here(digits_dir, 10)
    log = tmp_path / "run" / "train.log"
    assert "copy of it" not in log.read_text()
    train_here(digits_dir, 12)
    assert "copy of it" not in log.read_text(), "nothing has changed"
    (folder / "sizes.py").write_text("LARGEST = 1e-30\n")
    train_here(digits_dir, 14)
    said = (
        "my code/augment.py has changed or gone since this run began, which goes on with its own copy of it in run/code"
    )
    assert log.read_text().count(said) == 1
    shutil.rmtree(folder)
    train_here(digits_dir, 16)
    assert log.read_text().count(said) == 2
    with pytest.raises(UsageError, match="there is no file"):
        train_here(digits_dir, 18, code="current")
    folder.mkdir()
    (folder / "augment.py").write_text(AUGMENT.replace("from sizes import LARGEST", "LARGEST = 1.0"))
    train_here(digits_dir, 18, code="current")
    assert "changed since the last start: my code/augment.py, which is taken as it is now" in log.read_text()
    kept = load_model(RunDir("run"), print).code.places["my code/augment.py"]
    assert "LARGEST = 1.0" in (kept.root / kept.file).read_text()


@pytest.mark.parametrize("num_gpus", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_stopped_run_ends_as_one_that_was_not(num_gpus, digits_dir, tmp_path):
    train_here(digits_dir, 20, decay="constant", num_gpus=num_gpus)
    whole = tmp_path / "whole"
    (tmp_path / "run").rename(whole)
    train_here(digits_dir, 7, decay="constant", num_gpus=num_gpus)
    train_here(digits_dir, 20, decay="constant", num_gpus=num_gpus)
    readers = [tf.train.NewCheckpointReader(str(path / "model.ckpt-20")) for path in (whole, tmp_path / "run")]
    for name in readers[0].get_variable_to_shape_map():
        if name != "stream":
            np.testing.assert_array_equal(*(reader.get_tensor(name) for reader in readers), err_msg=name)


def test_a_foreign_directory_runs_nothing(digits_dir, folder, tmp_path, monkeypatch):
    """Neither its files, nor what compiled files it hides beside them, nor what its settings name."""
    mark = tmp_path / "ran"
    (folder / "sizes.py").write_text(f"LARGEST = 255.0\nimport pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    train_here(digits_dir, 5)
    mark.unlink()
    run = RunDir("run")
    load_model(run, print)
    assert mark.exists(), "this user has run it before"
    mark.unlink()

    kept = next((tmp_path / "run" / "code").rglob("sizes.py"))
    poison = tmp_path / "poison.py"
    poison.write_text(f"LARGEST = 255.0\nimport pathlib\npathlib.Path({str(tmp_path / 'poisoned')!r}).touch()\n")
    cache = kept.parent / "__pycache__" / "sizes.cpython-311.pyc"
    py_compile.compile(
        str(poison), cfile=str(cache), dfile=str(kept), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    with pytest.raises(UsageError, match="code that you have not run before"):
        load_model(run, print)
    shutil.rmtree(cache.parent)

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody else"))
    with pytest.raises(
        UsageError, match=r"run would run .*augment.py:unit.* lies in .*run/code/\w+ \(0/augment.py, 0/sizes.py\)"
    ):
        load_model(run, print)
    (folder / "sizes.py").unlink()  # So that the copies would be run.
    with pytest.raises(UsageError, match="--trust_code"):
        train_here(digits_dir, 8)
    assert not mark.exists()
    load_model(run, print, trust_code=True)
    assert mark.exists()
    load_model(run, print)

    text = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(text.replace(TRAINING, "shutil:rmtree(ignore_errors=True)"))
    (tmp_path / "run" / "code" / "code.json").unlink()
    with pytest.raises(UsageError, match=r"--preprocess=shutil:rmtree\(ignore_errors=True\); read it"):
        load_model(run, print)


def test_copies_that_lead_elsewhere_are_refused(digits_dir, tmp_path):
    """Also in a directory whose other files this user has run."""
    train_here(digits_dir, 5)
    run, index = RunDir("run"), tmp_path / "run" / "code" / "code.json"
    text, mark = index.read_text(), tmp_path / "ran"
    payload = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n{AUGMENT}"
    (tmp_path / "run" / "payload.py").write_text(payload)
    for root, file in (
        ("0", "../../../payload.py"),
        (str(tmp_path / "run"), "payload.py"),
        ("..", "x.py"),
        ("0", "/x.py"),
    ):
        index.write_text(text.replace('"0",\n      "augment.py"', f'"{root}",\n      "{file}"'))
        with pytest.raises(UsageError, match=r"code.json cannot be read: .* is no file below its directory"):
            load_model(run, print)
    index.write_text(text)
    copy = next((tmp_path / "run" / "code").rglob("augment.py"))
    (copy.parent / "fast").symlink_to(tmp_path / "run")
    with pytest.raises(UsageError, match="fast is a link"):
        load_model(run, print)
    (copy.parent / "fast").unlink()
    index.write_text(text.replace('"augment.py"', '"sizes.py"'))
    with pytest.raises(UsageError, match="not run before"):
        load_model(run, print)
    assert not mark.exists()


def test_trust_is_of_one_start(digits_dir, tmp_path, run_here):
    train_here(digits_dir, 5, trust_code=True, code="current")
    kept = (tmp_path / "run" / "flags.txt").read_text() + (tmp_path / "run" / "config.json").read_text()
    assert "trust_code" not in kept and "current" not in kept
    (tmp_path / "flags.txt").write_text("--trust_code=true\n")
    done = run_here("trainer", f"--flagfile={tmp_path / 'flags.txt'}", f"--data_dir={digits_dir}")
    assert done.code == 2 and "give it on the command line, not in a flag file" in done.err, done


@pytest.mark.parametrize("text", ["flp_lr", "my code/fails.py:f"])
def test_a_pipeline_is_checked_before_anything_is_written_or_moved(text, digits_dir, tmp_path, run_here):
    train_here(digits_dir, 5)
    flags = [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}", f"--preprocess={text}"]
    done = run_here("trainer", *flags, "--dry_run=data")
    assert done.code == 2 and "the flags are right" not in done.out, done
    done = run_here("trainer", *flags, "--resume=never")
    assert done.code == 2 and not (tmp_path / "run.1").exists() and (tmp_path / "run" / "config.json").exists(), done


def test_a_kept_copy_that_is_damaged_or_missing_is_named(digits_dir, tmp_path):
    train_here(digits_dir, 5)
    index = tmp_path / "run" / "code" / "code.json"
    text = index.read_text()
    index.write_text(text[:40])
    with pytest.raises(UsageError, match=r"run/code/code.json cannot be read"):
        load_model(RunDir("run"), print)
    index.unlink()
    with pytest.raises(UsageError, match="not run before"):
        load_model(RunDir("run"), print)
    with pytest.raises(UsageError, match=r"my code/augment.py: the run has kept no copy"):
        load_model(RunDir("run"), print, trust_code=True)


@pytest.mark.parametrize("has_home", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_where_nothing_can_be_noted_that_is_said_and_the_run_goes_on(has_home, digits_dir, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    if not has_home:  # As a user of a container whose number has no name.
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    train_here(digits_dir, 5)
    train_here(digits_dir, 8)  # What the flag names is what the run began with: nobody has to trust it.
    assert "other programs will ask for --trust_code" in (tmp_path / "run" / "train.log").read_text()
    with pytest.raises(UsageError, match="--trust_code"):
        load_model(RunDir("run"), print)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_programs_work_from_elsewhere_after_the_file_has_gone(digits_dir, folder, tmp_path, run_program):
    train_here(digits_dir, 200)
    shutil.rmtree(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture = tmp_path / "seven.png"
    from PIL import Image

    Image.fromarray(np.full([8, 8], 90, np.uint8)).save(picture)
    run = str(tmp_path / "run")
    evaluated = run_program("trainer.evaluate", f"--logdir={run}", "--json", cwd=elsewhere)
    assert evaluated.code == 0 and '"accuracy"' in evaluated.out, evaluated
    exported = run_program("trainer.export", f"--logdir={run}", "--output=served", cwd=elsewhere)
    assert exported.code == 0, exported
    answers = [
        run_program("trainer.predict", f"--model={model}", str(picture), cwd=elsewhere) for model in (run, "served")
    ]
    assert answers[0].code == 0 and answers[0].out == answers[1].out, answers


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ps", [0, 1])
def test_workers_with_other_code_are_refused(ps, digits_dir, folder, tmp_path, program):
    from launch.plan import free_ports

    ports = free_ports(2 + ps)
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports[:2])
    flags = [f"--worker_hosts={hosts}", f"--data_dir={digits_dir}", f"--preprocess={TRAINING}", "--train_steps=50"]
    flags += [f"--ps_hosts=127.0.0.1:{port}" for port in ports[2:]]
    other = tmp_path / "other"
    shutil.copytree(folder, other / "my code")
    (other / "my code" / "sizes.py").write_text("LARGEST = 256.0\n")
    places = [tmp_path, other]
    tasks = [program("trainer", *flags, "--job_name=ps", "--task_index=0", f"--logdir={tmp_path}/p", cwd=tmp_path)] * ps
    tasks += [
        program("trainer", *flags, "--job_name=worker", f"--task_index={index}", f"--logdir={place}/run", cwd=place)
        for index, place in enumerate(places)
    ]
    said = tasks[-1].communicate(timeout=200)[1]
    assert tasks[-1].returncode == 2 and "worker 1 differs from worker 0 in the user's code" in said, said
    for task in tasks[:-1]:
        task.kill()


def test_losses_are_those_of_the_built_in_operations(digits_dir, tmp_path):
    """`unit` of the user's own is `unit`."""
    api.train(
        quiet=True, data_dir=digits_dir, logdir="one", train_steps=10, log_every="5", eval_every="0",
        preprocess="my code/augment.py:unit",
    )  # fmt: skip
    api.train(
        quiet=True, data_dir=digits_dir, logdir="two", train_steps=10, log_every="5", eval_every="0", preprocess="unit"
    )
    found = [list(read_metrics(Path(name), "loss").values()) for name in ("one", "two")]
    np.testing.assert_allclose(*found, rtol=1e-5)
