"""The only import of TensorFlow: control flow of graphs, resource variables, quiet logs.

Everything else says `from trainer.tf1 import tf`, and builds what it builds inside `tf.Graph().as_default()`: eager
mode stays as it is, for who calls the trainer from Python.
"""

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# TensorFlow's C++ notices (CPU features, missing CUDA, kernels that oneDNN lacks) are not the user's; what it logs as
# an error it also raises.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
TRIM_BYTES, MMAP_BYTES = 1 << 30, 32 << 20  # the latter is the most that glibc takes


def _name_temporary_directory() -> None:
    """Gives TensorFlow's import the name that it asks for, also where there is no temporary directory to write to."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.curdir


def _open_scratch() -> IO[bytes]:
    """Opens a file without a name, also where no temporary directory can be written."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("notices"), "w+b")
    return tempfile.TemporaryFile()


def _keep_freed_memory() -> None:
    """Lets glibc keep what is freed for the next step, where the user has not said what it is to do.

    It gives buffers of some MiB back to the system and gets them again, zeroed page by page, in every step.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Other C libraries have none.
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)


@contextmanager
def _without_import_notices() -> Iterator[None]:
    """Drops what TensorFlow's libraries log while they load and look for GPUs, which no setting silences."""
    with _open_scratch() as captured:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not line.startswith(("I0000", "WARNING: All log messages before absl")) and "cuInit" not in line:
                    print(line, file=sys.stderr)


# gRPC would ask a proxy of the web for the other tasks of a cluster, those of this machine too.
os.environ["TF_GRPC_DEFAULT_OPTIONS"] = ",".join(
    filter(None, [os.environ.get("TF_GRPC_DEFAULT_OPTIONS", ""), "grpc.enable_http_proxy=0"])
)

_keep_freed_memory()
_name_temporary_directory()
with _without_import_notices():
    import tensorflow.compat.v1 as tf

    # Private, and the only such imports: nothing public turns StepStats into a Chrome trace, nor determinism off again,
    # nor lets tf_slim find what has moved.
    from tensorflow.python.client.timeline import Timeline
    from tensorflow.python.framework import ops
    from tensorflow.python.framework.config import (
        disable_op_determinism,
        enable_op_determinism,
        is_op_determinism_enabled,
    )

    # The first look for GPUs complains where there is no driver; looking takes no GPU memory.
    NUM_PHYSICAL_GPUS = len(tf.config.list_physical_devices("GPU"))

# What TensorFlow logs as an error it also raises.
tf.logging.set_verbosity(tf.logging.FATAL)
tf.disable_control_flow_v2()  # Of graphs; functions have the other kind all the same.
tf.enable_resource_variables()
if not hasattr(ops, "Tensor"):
    ops.Tensor = tf.Tensor  # Where TensorFlow had it, and tf_slim looks for it.


def _register_again(register: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a file be imported again that registers a gradient: the same function, of the file or of a copy of it."""

    def call(self: Any, function: Any) -> Any:
        try:
            earlier = ops.gradient_registry.lookup(self._op_type)
            codes = [(each.__code__.co_code, each.__code__.co_consts) for each in (earlier, function)]
        except (LookupError, AttributeError):
            return register(self, function)
        return function if codes[0] == codes[1] else register(self, function)  # Which tells that there is another.

    return call


tf.RegisterGradient.__call__ = _register_again(tf.RegisterGradient.__call__)


@contextmanager
def op_determinism(is_wanted: bool) -> Iterator[None]:
    """Lets operations give the same bits in every run, where that is wanted; afterwards all is as the caller had it."""
    if not is_wanted or is_op_determinism_enabled():
        yield
        return
    enable_op_determinism()
    try:
        yield
    finally:
        disable_op_determinism()


_folders: dict[str, int] = {}  # open directories whose names TensorFlow cannot take


def tf_path(path: str | os.PathLike[str]) -> str:
    """Names a path for TensorFlow, whose functions take UTF-8 alone; others get a name by an open directory (Linux)."""
    text = os.fspath(path)
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        folder, name = (text, "") if Path(text).is_dir() else os.path.split(text)
        if folder not in _folders:
            _folders[folder] = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{_folders[folder]}/{name}".rstrip("/")


__all__ = ["NUM_PHYSICAL_GPUS", "Timeline", "op_determinism", "tf", "tf_path"]
