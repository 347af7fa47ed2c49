"""The only import of TensorFlow: graph mode, resource variables, quiet logs.

Everything else says `from trainer.tf1 import tf`.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# TensorFlow's C++ notices (CPU features, missing CUDA) are not the user's; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextmanager
def _without_import_notices() -> Iterator[None]:
    """Drops what TensorFlow's libraries log while they load and look for GPUs, which no setting silences."""
    with tempfile.TemporaryFile() as captured:
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


with _without_import_notices():
    import tensorflow.compat.v1 as tf
    from tensorflow import config as tf2_config

    # Private, and the one such import: nothing public turns StepStats into a Chrome trace.
    from tensorflow.python.client.timeline import Timeline

    # The first look for GPUs complains where there is no driver; looking takes no GPU memory.
    NUM_PHYSICAL_GPUS = len(tf.config.list_physical_devices("GPU"))

# What TensorFlow logs as an error it also raises.
tf.logging.set_verbosity(tf.logging.FATAL)
tf.disable_v2_behavior()
tf.enable_resource_variables()

enable_op_determinism = tf2_config.experimental.enable_op_determinism  # compat.v1 lacks it

__all__ = ["NUM_PHYSICAL_GPUS", "Timeline", "enable_op_determinism", "tf"]
