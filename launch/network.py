"""A network of a job's own: TensorFlow's servers ask nobody for a password, and listen on every interface."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of <linux/sched.h>
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1  # of <linux/sockios.h> and <linux/if.h>


def enter_private_network() -> str:
    """Moves this process into a network that has a loopback interface and nothing else; its children inherit it.

    It needs no privileges where the system allows user namespaces. Must be called before any thread is started.

    Returns:
      Why it could not; empty where it could.
    """
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    # Tried by a child first: a system may allow the namespace and then forbid all use of it, and there is no way back.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            _enter()
            os.write(writer, b"entered")
        except OSError as error:
            os.write(writer, str(error.strerror).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    if said != "entered":
        return f"this system allows no network namespace: {said}"
    _enter()
    return ""


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    # Without a user namespace root keeps its rights to the files of others.
    if user or libc.unshare(CLONE_NEWNET):
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        # The same user inside as outside, so that files have the right owner.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    _raise_loopback()


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16xh14x", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0)))[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def open_interfaces() -> list[str]:
    """Names the interfaces that are not the loopback."""
    return [name for _, name in socket.if_nameindex() if name != "lo"]
