"""A job under Slurm: a batch script that trains until the time limit is near, saves, and queues itself again."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

SAVE_SECONDS = 90  # before the time limit

SCRIPT = """\
#!/bin/bash
{directives}

restarts=${{SLURM_RESTART_COUNT:-0}}
echo "start $restarts of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"

# Near the time limit all tasks save and end; the job then goes back to the queue, and on from there.
limit_is_near=0
end_tasks() {{
    limit_is_near=1
    scancel --signal=TERM "$SLURM_JOB_ID.0"
}}
trap end_tasks USR1

# A task that loses another one saves and ends by itself: nothing has to be killed.
if [ "${{SLURM_CPUS_PER_TASK:-}}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
# What --resume=never moves aside at the first start stays from then on.
resume=()
if [ "$restarts" -gt 0 ]; then resume=(--resume=auto); fi
srun --kill-on-bad-exit=0 --wait=0 {command} "${{resume[@]}}" &
while kill -0 $! 2>/dev/null; do
    wait $!  # A signal ends the wait too.
done
wait $!
code=$?

# 128 and more: a task was killed, or stopped, or lost another.
if [ "$code" -ge 128 ] && {{ [ "$limit_is_near" = 1 ] || [ "$restarts" -lt {max_restarts} ]; }}; then
    echo "exit code $code: job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def make_script(options: argparse.Namespace, args: Sequence[str], python: str) -> str:
    """Writes the batch script.

    Args:
      options: of the command line.
      args: of `python -m trainer`.
      python: the interpreter on the nodes.

    Raises:
      ValueError: an option holds what would end its line.
    """
    directives = {
        "job-name": options.job_name,
        "nodes": options.nodes,
        "ntasks-per-node": options.tasks_per_node,
        "cpus-per-task": options.cpus_per_task or None,
        "gpus-per-task": options.gpus_per_task or None,
        "time": options.time or None,
        "partition": options.partition or None,
        "signal": f"B:USR1@{SAVE_SECONDS}",
        "open-mode": "append",
        "output": f"{options.job_name}-%j.log",
    }
    if options.time and not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}|UNLIMITED", options.time):
        raise ValueError(f"--time={options.time} is no time limit: wanted minutes, or as 4:00:00 or 2-12")
    lines = [f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None]
    for line in lines:
        if not re.fullmatch(r"#SBATCH --[a-z-]+=[\w:@%.,+-]+", line):
            raise ValueError(f"{line!r} is no option of sbatch: letters, digits and :@%.,+- are allowed")
    command = shlex.join([python, "-m", "trainer", *args])
    return SCRIPT.format(
        directives="\n".join([*lines, "#SBATCH --requeue"]), command=command, max_restarts=options.max_restarts
    )


def run(options: argparse.Namespace, args: Sequence[str]) -> int:
    """Prints the batch script, or submits it; returns the exit code.

    Raises:
      ValueError: as `make_script`.
      OSError: there is no sbatch.
    """
    script = make_script(options, args, options.python or sys.executable)
    if not options.submit:
        print(script, end="")
        return 0
    return subprocess.run(["sbatch"], input=script, text=True, check=False).returncode
