"""The arithmetic of the operations, without TensorFlow, under the sanitizers for addresses and undefined behaviour."""

import shutil
import subprocess

import pytest

from tests.conftest import REPO

TESTS = REPO / "tests" / "kernels"
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.parametrize("name", ["update_rules", "record_rules", "augment_rules", "word2vec_rules"])
def test_no_byte_outside_and_no_undefined_behaviour(name, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("there is no C++ compiler")
    program = tmp_path / name
    include = [f"-I{REPO / 'trainer' / 'ops' / 'kernels'}", f"-I{REPO / 'examples' / 'word2vec'}"]
    source = TESTS / f"{name}_test.cc"
    subprocess.run([compiler, *FLAGS, *SANITIZERS, *include, source, "-o", program], check=True, timeout=120)
    done = subprocess.run([program], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
