"""Memory and threads of a long run."""

import time

import psutil
import pytest

from tests.soak import amounts


@amounts("steps", 9_000, 50_000)
@pytest.mark.timeout(1800)
def test_many_steps_of_the_mlp_keep_memory_and_threads_flat(steps, program, mnist_dir, tmp_path):
    """With summaries, histograms, evaluations, checkpoints and traces on the way."""
    process = program(
        "trainer", "--flagfile=configs/mnist_mlp.flags", f"--data_dir={mnist_dir}", f"--logdir={tmp_path}",
        f"--train_steps={steps}", "--checkpoint_every=2000", "--trace_every=5000", "--log_every=500",
    )  # fmt: skip
    watched = psutil.Process(process.pid)
    samples = {}
    for line in process.stdout:
        if line.startswith("step ") and "/" in line.split()[1]:
            step = int(line.split()[1].split("/")[0])
            time.sleep(0.01)
            samples[step] = (watched.memory_info().rss / 2**20, watched.num_threads())
            if step == steps:
                break
    process.communicate(timeout=60)
    assert process.returncode == 0
    early = [samples[step] for step in samples if 5_000 <= step < 5_000 + steps // 5]
    late = [samples[step] for step in samples if step >= steps - steps // 5]
    assert len(early) >= 4 and len(late) >= 4
    (early_mib, late_mib), (early_threads, late_threads) = (
        [max(sample[kind] for sample in part) for part in (early, late)] for kind in (0, 1)
    )
    print(f"{steps} steps: {early_mib:.0f} -> {late_mib:.0f} MiB, {early_threads} -> {late_threads} threads")
    assert late_mib < early_mib + 16 and late_threads <= early_threads
