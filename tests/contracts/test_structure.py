"""The house rules that a program can check: imports, sizes, names."""

import ast
import re

import pytest

from tests.conftest import REPO

# A file may import what stands to the left of its own place, and its neighbours.
ORDER = [
    ["errors", "__init__", "rundir"], ["grammars"], ["settings"],
    ["timing", "signals", "notebook", "console", "plotting", "tf1", "subgraphs"], ["ops"],
    ["data"], ["preprocessing"], ["inputs"], ["models"], ["learning"], ["placing"], ["graph"],
    ["saving"], ["reporting"], ["running"], ["cluster"], ["evaluating"], ["training"],
]  # fmt: skip
PROGRAMS = ["__main__", "train", "convert", "preview", "benchmark", "evaluate", "export", "predict", "checkpoint"]
PROGRAMS += ["api", "check"]
LARGEST_ROOM = 14  # files
SOURCES = sorted((REPO / "trainer").rglob("*.py")) + sorted((REPO / "launch").rglob("*.py"))


def room_of(path):
    parts = path.relative_to(REPO / "trainer").with_suffix("").parts
    return parts[0]


def imports_of(path):
    """Yields the modules that a file imports, anywhere in it, with the names taken from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, tuple(alias.name for alias in node.names)


def rank(room):
    return next(index for index, rooms in enumerate(ORDER) if room in rooms)


def test_every_file_has_its_place():
    rooms = {room_of(path) for path in SOURCES if "trainer" in path.relative_to(REPO).parts[0]}
    assert rooms == {room for rooms in ORDER for room in rooms} | set(PROGRAMS)


def test_imports_look_back_and_never_at_a_program():
    for path in (REPO / "trainer").rglob("*.py"):
        room = room_of(path)
        for module, names in imports_of(path):
            if module == "trainer":
                targets = [name for name in names if not name.startswith("__")]
            elif module.startswith("trainer."):
                targets = [module.split(".")[1]]
            else:
                continue
            for target in targets:
                assert target not in PROGRAMS or room == "__main__", f"{path} imports the program {target}"
                if room not in PROGRAMS:
                    assert rank(target) <= rank(room), f"{path} looks ahead at {target}"


def test_tensorflow_is_imported_in_one_place():
    for path in SOURCES:
        if path.name != "tf1.py":
            assert not [m for m, _ in imports_of(path) if m.split(".")[0] == "tensorflow"], path


def test_only_flags_reads_absl():
    for path in SOURCES:
        if path != REPO / "trainer" / "settings" / "flags.py":
            assert not [m for m, _ in imports_of(path) if m.split(".")[0] == "absl"], path


def test_configuration_and_launch_need_no_tensorflow():
    names = ("grammars", "rundir", "timing", "signals", "console", "errors")
    paths = [REPO / "trainer" / f"{name}.py" for name in names] + list((REPO / "trainer" / "settings").glob("*.py"))
    for path in paths:
        for module, _ in imports_of(path):
            assert module not in ("trainer.tf1", "tensorflow", "numpy"), path
    for path in (REPO / "launch").rglob("*.py"):
        assert not [m for m, _ in imports_of(path) if m.split(".")[0] in ("trainer", "tensorflow")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_files_and_functions_are_short_and_public_ones_are_described(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or path.name == "__main__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name
    for word in ("TODO", "FIXME", "XXX"):
        assert word not in text


def test_no_pickle_no_shell_and_no_private_tensorflow_elsewhere():
    for path in SOURCES:
        text = path.read_text()
        assert "pickle" not in text and "shell=True" not in text and "os.system" not in text, path
        assert "tensorflow.python" not in text or path.name == "tf1.py", path


def test_no_file_is_named_after_nothing():
    for path in SOURCES:
        words = set(path.with_suffix("").name.split("_"))
        assert not words & {"util", "utils", "helper", "helpers", "manager", "misc", "common"}, path


def test_a_room_holds_about_a_dozen_files():
    for folder in {path.parent for path in SOURCES} - {REPO / "trainer"}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= LARGEST_ROOM, folder


def test_the_words_are_those_of_the_field():
    """Each has one meaning here; what it is not called stands in docs/architecture.md."""
    private = r"\b(meeting|gathering|joining|wishes?|farewell|take_leave|settle|lanes?|copies_of|_?cut_)\b"
    for path in SOURCES:
        found = re.findall(private, path.read_text().replace("take_puts", ""), re.IGNORECASE)
        assert not found, f"{path}: {found}"


def test_every_unit_test_mirrors_a_room():
    for path in (REPO / "tests" / "unit").rglob("test_*.py"):
        folder = path.parent.relative_to(REPO / "tests" / "unit")
        assert (REPO / "trainer" / folder).is_dir(), path


def test_the_shared_flags_exist():
    from trainer.settings.config import Config

    shared = """logdir dataset data_dir model input batch_size train_steps epochs optimizer learning_rate decay clip
        weight_decay ema_decay num_gpus device seed resume checkpoint_every summary_every eval_every trace_every
        model_args queue_readers queue_capacity virtual_gpus allow_soft_placement log_device_placement"""
    assert set(shared.split()) <= set(Config.__dataclass_fields__)


def test_every_config_parses_and_has_a_measured_header():
    from trainer.settings import flags

    paths = sorted((REPO / "configs").glob("*.flags"))
    assert {path.stem for path in paths} >= {"mnist_mlp", "mnist_mlp_dropout", "mnist_lenet"}
    for path in paths:
        config = flags.config_from_flags(["trainer", f"--flagfile={path}"])
        assert config.dataset or path.stem.startswith("imagenette")  # Which has no name here.
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        for word in ("command:", "machine:", "minutes:", "accuracy:"):
            assert any(word in line for line in header), f"{path} lacks {word}"


def test_the_readme_names_no_place_of_one_machine():
    for path in [REPO / "README.md", *SOURCES, *(REPO / "configs").iterdir()]:
        assert "/work/" not in path.read_text() and "/root/" not in path.read_text(), path
