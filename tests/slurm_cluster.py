"""A Slurm cluster of two nodes on this machine, in network, mount and host name namespaces of its own.

`unshare --net --mount --uts python -m tests.slurm_cluster DIR` prints `ready`, and ends with its standard input.
Commands reach it by `nsenter --net --mount --uts --target=PID`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2")
CONFIG = """\
ClusterName=test
SlurmctldHost=control(127.0.0.1)
SlurmctldPort=6817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that was queued again may start when what it had been allowed before has expired.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SchedulerType=sched/builtin
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=300
SchedulerParameters=batch_sched_delay=1,sched_interval=2
NodeName=n1 NodeHostname=control NodeAddr=127.0.0.1 Port=17001 CPUs=1
NodeName=n2 NodeHostname=control NodeAddr=127.0.0.1 Port=17002 CPUs=1
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverTimeLimit=0
"""


def main(folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Slurm asks for addresses as a machine that is on a network has them.
    subprocess.run(["ip", "address", "add", "10.77.0.1/32", "dev", "lo"], check=True)
    # The names of the nodes, for this mount namespace alone.
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost control n1 n2\n")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    subprocess.run(["hostname", "control"], check=False)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder))
    os.environ["SLURM_CONF"] = str(config)
    processes = [
        subprocess.Popen(
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.sock",
             f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log"],
        )
    ]  # fmt: skip
    try:
        wait_for(lambda: (folder / "munge.sock").exists(), processes)
        processes.append(subprocess.Popen(["slurmctld", "-D", "-f", str(config)]))
        processes += [subprocess.Popen(["slurmd", "-D", "-N", node, "-f", str(config)]) for node in NODES]
        wait_for(both_idle, processes)
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def both_idle() -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%D %t"], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "2 idle"


def wait_for(condition, processes: list[subprocess.Popen], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the cluster does not start"
        assert all(process.poll() is None for process in processes), "a daemon has ended"
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
