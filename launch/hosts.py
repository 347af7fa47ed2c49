"""A job on hosts without a scheduler: the command for each of them."""

from __future__ import annotations

import argparse
import ipaddress
import re
import shlex
import socket
import sys
from collections.abc import Sequence

from launch.checking import check_flags, flag_value

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def run(options: argparse.Namespace, args: Sequence[str]) -> int:
    """Prints the command of each host; returns the exit code.

    Raises:
      ValueError: an address is public, and nobody said that its network is isolated.
    """
    lines = make_commands(options, args)
    if not options.no_check:
        # The hosts' data need not be here.
        number = {"workers": len(_parse("--hosts", options.hosts)), "servers": len(_servers_of(options))}
        if code := check_flags(sys.executable, args, with_data=False, **number):
            return code
    print("\n".join(lines))
    return 0


def _servers_of(options: argparse.Namespace) -> list[str]:
    return _parse("--ps_hosts", options.ps_hosts) if options.ps_hosts else []


def make_commands(options: argparse.Namespace, args: Sequence[str]) -> list[str]:
    """Writes what to type on each host, with what it opens.

    Raises:
      ValueError: a host is named twice, is no name, or has a public address.
    """
    workers = _parse("--hosts", options.hosts)
    servers = _servers_of(options)
    for name in ("worker_hosts", "ps_hosts", "job_name", "task_index"):
        if flag_value(args, name) is not None:
            raise ValueError(f"--{name} is written by launch hosts itself, for each host: leave it out behind --")
    if set(workers) & set(servers):
        raise ValueError(f"--ps_hosts={options.ps_hosts}: a host of --hosts is among them, and has one port")
    lines = ["# TensorFlow's servers listen on every interface of these hosts, without authentication:"]
    for host in [*workers, *servers]:
        addresses = _addresses_of(host)
        lines.append(f"#   {host}:{options.port} ({', '.join(addresses) or 'its address is unknown here'})")
        public = [address for address in addresses if ipaddress.ip_address(address).is_global]
        if public and not options.network_is_isolated:
            raise ValueError(
                f"{host} has the public address {public[0]}, and whoever reaches its port {options.port} can run code "
                "there: close that port to all but the job's hosts, then add --network_is_isolated"
            )
    shared = [f"--worker_hosts={','.join(f'{host}:{options.port}' for host in workers)}"]
    shared += [f"--ps_hosts={','.join(f'{host}:{options.port}' for host in servers)}"] if servers else []
    tasks = [("worker", index, host) for index, host in enumerate(workers)]
    tasks += [("ps", index, host) for index, host in enumerate(servers)]
    for job, index, host in tasks:
        cluster = [*shared, f"--job_name={job}", f"--task_index={index}"]
        cluster += ["--network_is_isolated"] if options.network_is_isolated else []
        lines += [f"# on {host}:", shlex.join(["python", "-m", "trainer", *args, *cluster])]
    return lines


def _parse(option: str, text: str) -> list[str]:
    hosts = [host.strip() for host in text.split(",")]
    if not all(hosts) or len(set(hosts)) < len(hosts):
        raise ValueError(f"{option}={text} is no list of different hosts, as {option}=a,b")
    if ":" in text:
        raise ValueError(f"{option}={text}: wanted names or IPv4 addresses without ports; --port names the port")
    for host in hosts:
        if not HOST.fullmatch(host):
            raise ValueError(f"{option}={text}: {host} is no name of a host")
    return hosts


def _addresses_of(host: str) -> list[str]:
    """Returns the addresses of a host, none where this machine does not know it."""
    try:
        return sorted({str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError):
        return []
