"""A job under Slurm: a batch script that trains until the time limit is near, saves, and queues itself again."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

from launch.checking import check_flags, flag_value

SAVE_SECONDS = 90  # before the time limit
# What an option of sbatch may hold: nothing that ends a line, begins a comment, or quotes.
NAME, VALUE = r"[a-z][a-z0-9-]*", r"[\w:@%.,+/=&|()\[\]*!?^~-]+"
# What the script depends on, and what to do instead.
OWN_OPTIONS = {
    "job-name": "use --job_name",
    "nodes": "use --nodes",
    "ntasks": "use --nodes and --tasks_per_node",
    "ntasks-per-node": "use --tasks_per_node",
    "cpus-per-task": "use --cpus_per_task",
    "gpus-per-task": "use --gpus_per_task",
    "time": "use --time",
    "partition": "use --partition",
    "account": "use --account",
    "qos": "use --qos",
    "gres": "use --gres",
    "mem": "use --mem",
    "constraint": "use --constraint",
    "signal": "leave it out, because the script waits for another one",
    "requeue": "leave it out, because it is the default",
    "no-requeue": "use --no_requeue",
}

SCRIPT = """\
#!/bin/bash
{directives}

restarts=${{SLURM_RESTART_COUNT:-0}}
echo "start $restarts of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"

# Near the time limit all tasks save and end{then}.
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
{roles}srun --kill-on-bad-exit=0 --wait=0 {command} "${{resume[@]}}"{cluster} &
while kill -0 $! 2>/dev/null; do
    wait $!  # A signal ends the wait too.
done
wait $!
code=$?

# 128 and more: a task was killed, or stopped, or lost another.
{at_end}
exit "$code"
"""

REQUEUE = """\
if [ "$code" -ge 128 ] && {{ [ "$limit_is_near" = 1 ] || [ "$restarts" -lt {max_restarts} ]; }}; then
    echo "exit code $code: job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi"""

NO_REQUEUE = """\
if [ "$code" -ge 128 ]; then
    echo "exit code $code: submit the same script again to go on from the last checkpoint"
fi"""

# The tasks of a step are numbered node by node, because their distribution is by blocks.
ROLES = """\

# On each node the first {workers} of {tasks} tasks are workers, the others servers; worker 0 is the chief.
port=$((20000 + SLURM_JOB_ID * 100 % 10000))  # below those that Linux gives to clients
worker_hosts=() ps_hosts=()
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    for ((place = 0; place < {tasks}; place++)); do
        if [ "$place" -lt {workers} ]; then
            worker_hosts+=("$node:$port")
        elif [ "${{#ps_hosts[@]}}" -lt {servers} ]; then
            ps_hosts+=("$node:$port")
        fi
        port=$((port + 1))
    done
done
list() {{
    local IFS=,
    echo "$*"
}}
task='
place=$((SLURM_PROCID % {tasks})) node=$((SLURM_PROCID / {tasks}))
if [ "$place" -lt {workers} ]; then
    job=worker index=$((node * {workers} + place))
{gpus}else
    job=ps index=$((node * {servers_per_node} + place - {workers}))
    export CUDA_VISIBLE_DEVICES=
    # Every node has as many tasks: one without work ends at once.
    if [ "$index" -ge {servers} ]; then exit 0; fi
fi
exec "$@" --job_name="$job" --task_index="$index"
'
"""

# Slurm gives all GPUs of a node to each of its tasks.
GPUS = """\
    IFS=, read -ra gpus <<< "${{CUDA_VISIBLE_DEVICES:-}}"
    gpus=("${{gpus[@]:place * {gpus}:{gpus}}}")
    export CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${{gpus[*]}}")
"""

CLUSTER = ' --worker_hosts="$(list "${worker_hosts[@]}")" --ps_hosts="$(list "${ps_hosts[@]}")"'


def make_script(options: argparse.Namespace, args: Sequence[str], python: str) -> str:
    """Writes the batch script.

    Args:
      options: of the command line.
      args: of `python -m trainer`.
      python: the interpreter on the nodes.

    Raises:
      ValueError: an option holds what would end its line, or contradicts the script.
    """
    if options.time and not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}|UNLIMITED", options.time):
        raise ValueError(f"--time={options.time} is no time limit: wanted minutes, or as 4:00:00 or 2-12")
    if options.no_requeue and flag_value(args, "resume") == "never":
        raise ValueError("--resume=never would move the run aside at each submission: use --resume=auto")
    command = shlex.join([python, "-m", "trainer", *args])
    if options.ps:
        command = f'--distribution=block bash -c "$task" task {command}'
    return SCRIPT.format(
        directives="\n".join(_make_directives(options)),
        then="" if options.no_requeue else "; the job then goes back to the queue, and on from there",
        roles=_make_roles(options) if options.ps else "",
        command=command,
        cluster=CLUSTER if options.ps else "",
        at_end=NO_REQUEUE if options.no_requeue else REQUEUE.format(max_restarts=options.max_restarts),
    )


def _make_directives(options: argparse.Namespace) -> list[str]:
    """Returns the lines that sbatch reads; of two that say the same, the later one counts."""
    gpus = options.gpus_per_task
    directives = [
        ("job-name", options.job_name),
        ("nodes", options.nodes),
        ("ntasks-per-node", options.tasks_per_node + _servers_per_node(options)),
        ("cpus-per-task", options.cpus_per_task),
        # A server needs no GPU, so that the tasks are not alike.
        ("gpus-per-node", gpus * options.tasks_per_node) if options.ps else ("gpus-per-task", gpus),
        ("gres", options.gres),
        ("mem", options.mem),
        ("time", options.time),
        ("partition", options.partition),
        ("constraint", options.constraint),
        ("account", options.account),
        ("qos", options.qos),
        ("signal", f"B:USR1@{SAVE_SECONDS}"),
        ("open-mode", "append"),
        ("output", f"{options.job_name}-%j.log"),
    ]
    lines = [f"#SBATCH --{name}={value}" for name, value in directives if value]
    lines += [_make_other_directive(text) for text in options.sbatch]
    for line in lines:
        if not re.fullmatch(f"#SBATCH --{NAME}(={VALUE})?", line):
            allowed = "letters, digits and :@%.,+-/=&|()[]*!?^~ are allowed"
            raise ValueError(f"{line!r} is no option of sbatch: {allowed}")
    if not options.job_name or "/" in options.job_name:
        raise ValueError(f"--job_name={options.job_name}: wanted a name without a /, because it names the log too")
    return lines if options.no_requeue else [*lines, "#SBATCH --requeue"]


def _make_other_directive(text: str) -> str:
    name, equals, value = text.removeprefix("--").partition("=")
    if name in OWN_OPTIONS:
        raise ValueError(f"--sbatch={text}: the launcher decides on --{name} itself; {OWN_OPTIONS[name]}")
    return f"#SBATCH --{name}{equals}{value}"


def _servers_per_node(options: argparse.Namespace) -> int:
    return -(-int(options.ps) // int(options.nodes))


def _make_roles(options: argparse.Namespace) -> str:
    """Writes what tells each task of the step its role, and where all tasks are."""
    workers, servers_per_node, gpus = options.tasks_per_node, _servers_per_node(options), options.gpus_per_task
    return ROLES.format(
        workers=workers,
        tasks=workers + servers_per_node,
        servers=options.ps,
        servers_per_node=servers_per_node,
        gpus=GPUS.format(gpus=gpus) if gpus else "",
    )


def _check(python: str, options: argparse.Namespace, args: Sequence[str]) -> int:
    # The login node and the nodes of a job share their file system.
    workers = options.nodes * options.tasks_per_node
    return check_flags(python, args, with_data=True, workers=workers, servers=options.ps)


def run(options: argparse.Namespace, args: Sequence[str]) -> int:
    """Prints the batch script, or submits it; returns the exit code.

    Raises:
      ValueError: as `make_script`.
      OSError: there is no sbatch.
    """
    python = options.python or sys.executable
    script = make_script(options, args, python)
    if not options.python:
        print(f"the nodes will use {python}: give --python for another one", file=sys.stderr)
    if not options.no_check and (code := _check(python, options, args)):
        return code
    if not options.submit:
        print(script, end="")
        return 0
    try:
        return subprocess.run(["sbatch"], input=script, text=True, check=False).returncode
    except FileNotFoundError as error:
        raise OSError("sbatch is not on this machine: leave out --submit, and submit the script elsewhere") from error
