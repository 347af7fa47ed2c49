"""Operations written in C++: built at their first use, kept in a cache, loaded into the graph."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

__all__ = ["load"]


def load(*sources: str, flags: tuple[str, ...] = ()) -> Any:
    """Builds and loads operations in C++, and returns the module of their Python functions.

    They are built where this machine has not built them yet, with the compiler of $CXX, g++ or clang++; a file
    `NAME.cu` beside `NAME.cc` by nvcc where there is one. What they include by `#include "..."` from beside them is a
    part of them; what an `-I` among the flags finds is not, and may change unseen.

    Args:
      sources: paths of C++ files, from the directory of the Python file that calls.
      flags: of the compiler, behind those of TensorFlow's headers, `-O3 -ffp-contract=off` and this machine's CPU.

    Returns:
      What `tf.load_op_library` does: a function for each operation, in lower case, as `own_scale` of `OwnScale`.

    Raises:
      UsageError: a file is missing, or the compiler refuses one: its first error, with file and line.
      TrainerError: there is no compiler, or the cache has no room.
    """
    from trainer.ops import loading  # TensorFlow is imported where operations are wanted.

    caller = inspect.stack()[1].frame.f_code.co_filename
    folder = Path(caller).parent if Path(caller).is_file() else Path.cwd()  # Else a notebook's cell.
    return loading.find_loaded([folder / source for source in sources], flags=flags).module
