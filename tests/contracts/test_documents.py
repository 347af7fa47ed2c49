"""The documents: every link resolves, every flag exists, every command runs."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.conftest import CIFAR10, MNIST_FILES, MOBILENET, PICTURES, RECORDS, REPO, environment

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE = re.compile(r"<<'END'\n.*?^END$", re.MULTILINE | re.DOTALL)  # what a command of a block reads
# What blocks may need, as `needs=MNIST_DIR`.
NEEDS = {
    "MNIST_DIR": MNIST_FILES,
    "PICTURES_DIR": PICTURES,
    "RECORDS_DIR": RECORDS,
    "CIFAR10_DIR": CIFAR10,
    "MOBILENET_DIR": MOBILENET,
}
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z_0-9]+)")
OTHERS = {
    "ops",
    "set",
    "version",
    "help",
    "timeout",
    "soak_record",
    "tf_cnn_benchmarks",
    "flagfile",
    "rounds",
    "seconds",
}


def ids(path):
    return path.stem


def blocks(path, language):
    return [(words.split(), text) for found, words, text in BLOCK.findall(path.read_text()) if found == language]


def settings_of(module):
    """The names of a program's flags."""
    import importlib

    loaded = importlib.import_module("trainer.settings.config" if module == "trainer" else module)
    kinds = [loaded.Config] if module == "trainer" else [
        value for name, value in vars(loaded).items() if name.endswith("Settings") and dataclasses.is_dataclass(value)
    ]  # fmt: skip
    return {field.name for kind in kinds for field in dataclasses.fields(kind)} | {"flagfile", "help", "version"}


def launch_options():
    found = set()
    for name in ("local", "slurm", "kubernetes", "hosts"):
        command = [sys.executable, "-m", "launch", name, "--help"]
        found |= set(FLAG.findall(subprocess.run(command, cwd=REPO, capture_output=True, text=True).stdout))
    return found


def word2vec_flags():
    """The names of the example's flags."""
    files = (REPO / "examples" / "word2vec").glob("*.py")
    return {
        name for file in files for name in re.findall(r"^    (\w+): [^=]* = option\(", file.read_text(), re.MULTILINE)
    }


PROGRAMS = ["trainer", *(f"trainer.{name}" for name in
            ("convert", "evaluate", "predict", "export", "checkpoint", "benchmark", "preview", "check",
             "ops.__main__"))]  # fmt: skip


def test_the_readme_is_a_page_and_links_every_document():
    text = (REPO / "README.md").read_text()
    assert text.count("\n") <= 120
    for path in (REPO / "docs").glob("*.md"):
        assert f"(docs/{path.name})" in text, path


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_links_resolve(path):
    for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", path.read_text())):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path}: {target}"


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_flags_exist(path):
    known = set().union(*(settings_of(program) for program in PROGRAMS)) | launch_options() | word2vec_flags() | OTHERS
    text = path.read_text()
    if path.stem == "migration":  # The left column holds those of other trainers.
        rows = [line.split("|") for line in text.splitlines() if line.startswith("| `") or line.startswith("| no ")]
        text = "\n".join(row[2] for row in rows)
    unknown = sorted(set(FLAG.findall(text)) - known - {f"no{name}" for name in known})
    assert not unknown, f"{path}: {unknown}"


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_commands_use_flags_of_their_program(path):
    for _, text in blocks(path, "sh"):
        for line in HERE.sub("", text).replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] != ["python", "-m"] or words[2] not in PROGRAMS:
                continue
            names = {match[1] for word in words[3:] if (match := FLAG.match(word))}
            assert names <= settings_of(words[2]), line


def run_page(path, folder, environ=()):
    """Runs the commands of a page one after the other, in a directory of its own."""
    chosen = []
    for words, text in blocks(path, "sh"):
        if "no-run" in words or any(f"needs={name}" in words and not path.is_dir() for name, path in NEEDS.items()):
            continue
        chosen.append(text)
    for number, (_, text) in enumerate(blocks(path, "python")):
        (folder / f"block{number}.py").write_text(text)
        chosen.append(f"python block{number}.py\n")
    shutil.copytree(REPO / "examples", folder / "examples")
    folder_of_python = os.path.dirname(sys.executable)  # noqa: PTH120
    variables = {**environment(), "PATH": f"{folder_of_python}:{os.environ['PATH']}"}
    variables |= {name: str(path) for name, path in NEEDS.items()} | dict(environ)
    command = ["bash", "-euxc", "".join(chosen)]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_operation_has_an_example_that_fits():
    from trainer.preprocessing.parsing import parse_pipeline
    from trainer.preprocessing.pipeline import OPERATIONS
    from trainer.tf1 import tf

    ((_, text),) = blocks(REPO / "docs" / "preprocessing.md", "text")
    used = set()
    for example in re.split(r"\n|\s{2,}", text.strip()):
        pipeline = parse_pipeline("preprocess", example, training=True)
        with tf.Graph().as_default():
            keys = tf.placeholder(tf.int64, [1])
            assert pipeline(tf.zeros([1, 32, 32, 3], tf.uint8), keys=keys).shape.rank == 4, example
        used |= {operation.name for operation in pipeline.operations}
    assert used == set(OPERATIONS)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_of_the_readme_run(tmp_path, compiler):
    out = run_page(REPO / "README.md", tmp_path)
    assert "training on 2 virtual CPU devices" in out or "GPU" in out
    assert (tmp_path / "runs/digits_lenet/export/frozen.pb").is_file()
    assert "without operations of the trainer's own" not in out


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_of_the_readme_run_without_a_compiler(tmp_path):
    bare = {"CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    out = run_page(REPO / "README.md", tmp_path, bare)
    assert "without operations of the trainer's own, by TensorFlow's, with the same results" in out
    assert (tmp_path / "runs/digits_lenet/export/frozen.pb").is_file()


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("path", PAGES[1:], ids=ids)
def test_the_commands_of_each_page_run(path, tmp_path, request):
    if path.stem == "operations":
        request.getfixturevalue("compiler")
    run_page(path, tmp_path)
