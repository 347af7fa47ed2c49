"""The trainer's own operations: each has a twin of TensorFlow's, which takes its place where it cannot be built."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError
from trainer.ops import loading

KERNELS = Path(__file__).parent / "kernels"
OPERATIONS: dict[str, tuple[str, ...]] = {  # what is built of each
    "update": ("update.cc",),
    "records": ("records.cc",),
    "augment": ("augment.cc",),
}


def paths_of(name: str) -> list[Path]:
    return [KERNELS / source for source in OPERATIONS[name]]


def find_own(name: str) -> loading.Loaded:
    """Loads one of OPERATIONS.

    Raises:
      TrainerError: it cannot be built.
    """
    return loading.find_loaded(paths_of(name))


def bits_of(ops: Iterable[str]) -> int:
    """Writes which of OPERATIONS a run has as a number, for its checkpoints: the order of the dict must stay."""
    return sum(1 << number for number, name in enumerate(OPERATIONS) if name in ops)


def names_of(bits: int) -> list[str]:
    """Reads what `bits_of` has written."""
    return [name for number, name in enumerate(OPERATIONS) if bits >> number & 1]


def load_all(setting: str) -> tuple[dict[str, Any], str]:
    """Loads all that can be loaded, for --ops: modules by name, and why TensorFlow's operations take their place."""
    if setting == "off":
        return {}, ""
    try:
        with ThreadPoolExecutor(len(OPERATIONS)) as pool:  # The compilers run at the same time.
            found = [loaded.module for loaded in pool.map(find_own, OPERATIONS)]
        return dict(zip(OPERATIONS, found, strict=True)), ""
    except TrainerError as error:
        return {}, f"without operations of the trainer's own, by TensorFlow's, with the same results: {error}"
