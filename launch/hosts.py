"""A job on hosts without a scheduler: the command for each of them."""

from __future__ import annotations

import argparse
import ipaddress
import shlex
import socket
from collections.abc import Sequence


def run(options: argparse.Namespace, args: Sequence[str]) -> int:
    """Prints the command of each host; returns the exit code.

    Raises:
      ValueError: an address is public, and nobody said that its network is isolated.
    """
    for line in make_commands(options, args):
        print(line)
    return 0


def make_commands(options: argparse.Namespace, args: Sequence[str]) -> list[str]:
    """Writes what to type on each host, with what it opens.

    Raises:
      ValueError: a host is named twice, is no name, or has a public address.
    """
    hosts = [host.strip() for host in options.hosts.split(",")]
    if not all(hosts) or len(set(hosts)) < len(hosts):
        raise ValueError(f"--hosts={options.hosts} is no list of different hosts, as --hosts=a,b")
    if ":" in options.hosts:
        raise ValueError(
            f"--hosts={options.hosts}: wanted names or IPv4 addresses without ports; --port names the port"
        )
    lines = ["# TensorFlow's servers listen on every interface of these hosts, without authentication:"]
    for host in hosts:
        addresses = _addresses_of(host)
        lines.append(f"#   {host}:{options.port} ({', '.join(addresses) or 'its address is unknown here'})")
        public = [address for address in addresses if ipaddress.ip_address(address).is_global]
        if public and not options.network_is_isolated:
            raise ValueError(
                f"{host} has the public address {public[0]}, and whoever reaches its port {options.port} can run code "
                "there: close that port to all but the job's hosts, then add --network_is_isolated"
            )
    workers = ",".join(f"{host}:{options.port}" for host in hosts)
    for index, host in enumerate(hosts):
        cluster = [f"--worker_hosts={workers}", "--job_name=worker", f"--task_index={index}"]
        cluster += ["--network_is_isolated"] if options.network_is_isolated else []
        lines += [f"# on {host}:", shlex.join(["python", "-m", "trainer", *args, *cluster])]
    return lines


def _addresses_of(host: str) -> list[str]:
    """Looks a host up; nothing where this machine does not know it."""
    try:
        return sorted({str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError):
        return []
