"""Tests in full numbers, `pytest -m soak`: in parts, resumed where they stopped, with their figures kept.

`pytest -m soak --soak_record=FILE` appends a line of JSON for each test, with what it printed, and leaves out those
that have passed in that file before. `-k` takes a part of them.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest


def amounts(name: str, few: int, many: int) -> pytest.MarkDecorator:
    """Parametrizes a test: a few of something are `slow`, the number that the documents state is `soak`."""
    return pytest.mark.parametrize(
        name, [pytest.param(few, marks=pytest.mark.slow), pytest.param(many, marks=pytest.mark.soak)]
    )


def pairs(names: str, slow: list, everything: list) -> pytest.MarkDecorator:
    """Parametrizes a test over a matrix: each value once is `slow`, the rest `soak`."""
    params = [pytest.param(*values, marks=pytest.mark.slow) for values in slow]
    params += [pytest.param(*values, marks=pytest.mark.soak) for values in everything if values not in slow]
    return pytest.mark.parametrize(names, params)


def pytest_addoption(parser):
    parser.addoption(
        "--ops", choices=["auto", "off"], default="auto",
        help="off: as where there is no C++ compiler: TensorFlow's operations do what the trainer's own would",
    )  # fmt: skip
    parser.addoption("--soak_record", type=Path, help="file of JSON lines: tests that passed there are left out")


def _passed(path: Path | None) -> set[str]:
    if path is None or not path.is_file():
        return set()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["test"] for row in rows if row["outcome"] == "passed"}


def pytest_collection_modifyitems(config, items):
    before = _passed(config.getoption("--soak_record"))
    done = [item for item in items if item.nodeid in before]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in before]


class Recorder:
    """Writes down what each test came to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report):
        if report.when != "call":
            return
        figures = report.capstdout.strip().splitlines()[-1:]
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration), "figures": figures}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def pytest_configure(config):
    if config.getoption("--ops") == "off":  # Programs that tests start have these too.
        os.environ |= {"CXX": "no-such-compiler", "XDG_CACHE_HOME": tempfile.mkdtemp(prefix="cache-")}
    path = config.getoption("--soak_record")
    if path and not hasattr(config, "workerinput"):  # Of several processes the first one writes.
        config.pluginmanager.register(Recorder(path))
