"""tensorflow/benchmarks' lenet, on its synthetic images of 28x28x3. `tf_cnn.py lenet CHECKOUT`.

It has no loop that could be told to go on: each window is a run of its own, timed by itself after ten warm-up batches.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from common import BATCH, WARMUP_SECONDS

FLAGS = [
    "--model=lenet", "--optimizer=sgd", "--device=cpu", "--local_parameter_device=cpu", "--data_format=NHWC",
    "--variable_update=parameter_server", f"--batch_size={BATCH}", "--num_warmup_batches=10", "--display_every=1000000",
]  # fmt: skip
work, checkout = sys.argv[1:3]
programs = sorted(Path(checkout).glob("**/tf_cnn_benchmarks.py"))
if work != "lenet" or not programs:
    sys.exit(f"{checkout} holds no tf_cnn_benchmarks.py" if work == "lenet" else f"it has no {work}")


def images_per_second(num_batches: int) -> float:
    """Runs so many batches of it; returns the speed that it prints."""
    done = subprocess.run(
        [sys.executable, programs[0].name, *FLAGS, f"--num_batches={num_batches}"],
        cwd=programs[0].parent,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = re.search(r"total images/sec: ([\d.]+)", done.stdout)
    if done.returncode or found is None:
        sys.exit(done.stdout.strip() or f"exit code {done.returncode}")
    return float(found[1])


speed = images_per_second(max(10, int(2000 * WARMUP_SECONDS / BATCH)))
print("READY", flush=True)
for line in sys.stdin:
    speed = images_per_second(max(10, int(speed * float(line) / BATCH)))
    print("SPEED", speed, flush=True)
