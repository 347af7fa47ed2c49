"""A compiler that takes no time, and tells how often it was called."""

import os
import stat

import pytest

SOURCE = """
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "twice.h"
REGISTER_OP("TestTwice").Input("x: float").Output("y: float").SetShapeFn(
    [](tensorflow::shape_inference::InferenceContext* c) { c->set_output(0, c->input(0)); return absl::OkStatus(); });
"""
COMPILER = """#!/bin/sh
case "$*" in *--version) echo "fake compiler 1"; exit 0;; esac
echo called >> {calls}
{what}
while [ "$1" != -o ]; do shift; done
printf 'a library of %s' "$2" > "$2"
"""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "twice.h").write_text("// twice\n")
    path = folder / "twice.cc"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def fake(tmp_path):
    """Makes an environment whose compiler does something, and then writes a file that is no library."""
    calls = tmp_path / "calls"

    def make(what="true", **more):
        compiler = tmp_path / "fake compiler"
        compiler.write_text(COMPILER.format(calls=calls, what=what))
        compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        return {**os.environ, "CXX": f"'{compiler}'", **cache, **more}

    make.calls = lambda: len(calls.read_text().split()) if calls.exists() else 0
    return make
