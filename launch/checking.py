"""What can be found out about the trainer's flags before a job waits in a queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 60.0  # for the trainer's answer
LAST_LINES = 20  # of a failure without a line of its own


def check_flags(
    python: str, args: Sequence[str], *, with_data: bool, workers: int = 1, servers: int = 0, seconds: float = SECONDS
) -> int:
    """Lets the trainer check its flags, and prints on standard error what it says against them.

    Where there is no trainer, or no answer, one line says that nothing was checked.

    Args:
      python: the interpreter that has the trainer.
      args: of `python -m trainer`.
      with_data: whether the data must be there too: this machine and those of the job share a file system.
      workers: of the job, whose number the flags must fit.
      servers: parameter servers of the job.
      seconds: to wait for the answer.

    Returns:
      The trainer's exit code; 0: the job may start.
    """
    command = [python, "-m", "trainer", *args, f"--dry_run={'data' if with_data else 'flags'}"]
    cluster = {
        "worker": [f"worker{index}:1" for index in range(workers)],
        "ps": [f"ps{index}:1" for index in range(servers)],
    }
    place = {"cluster": cluster, "task": {"type": "worker", "index": 0}} if workers + servers > 1 else {}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, "TF_CONFIG": json.dumps(place)},
        )
    except OSError as error:
        return _go_on(f"{python}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return _go_on(f"{python} -m trainer did not answer within {seconds:g} s")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 1 and (missing := _find_missing_module(lines)):
        return _go_on(missing)
    if done.returncode:
        said = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        shown = lines[said[0] :] if said else lines[-LAST_LINES:]
        print("\n".join(shown or [f"error: the trainer's check ended with code {done.returncode}"]), file=sys.stderr)
        print("--no_check goes on without this check, as for files that are only where the job runs", file=sys.stderr)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _find_missing_module(lines: Sequence[str]) -> str:
    """Returns the interpreter's own line on a module that it lacks; a trainer's `error:` speaks of a flag."""
    found = [line for line in lines if "No module named" in line and not line.startswith("error: ")]
    return found[-1] if found else ""


def _go_on(reason: str) -> int:
    print(f"the trainer's flags were not checked: {reason}", file=sys.stderr)
    return 0


def flag_value(args: Sequence[str], name: str) -> str | None:
    """Returns the value that a flag has on a command line, None where it is not there; the last one counts."""
    value = None
    for number, arg in enumerate(args):
        left, equals, right = arg.partition("=")
        if left in (f"-{name}", f"--{name}"):
            value = right if equals else next(iter(args[number + 1 : number + 2]), "")
    return value
