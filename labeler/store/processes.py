"""Names of processes, by which another process on the same machine can tell that one is dead.

A name holds the boot of the machine, the namespace that the number of the process counts in, the number, and when the
process began: numbers are given again. Where the system does not say all of it, no process is ever held to be dead.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> str:
    """The name of this process."""
    return f"{_machine()}/{os.getpid()}/{_began(os.getpid()) or ''}"


def is_dead(process: str) -> bool:
    """True only where it is certain: the process was one of this machine, and has ended."""
    machine, _, rest = process.partition("/")
    pid, _, began = rest.partition("/")
    if not began or not pid.isdecimal() or machine != _machine():
        return False
    return _began(int(pid)) != began


def described(process: str) -> str:
    """The process as a person would name it."""
    machine, _, rest = process.partition("/")
    pid, (host, *_) = rest.partition("/")[0], machine.split("+")
    return f"process {pid}" if machine == _machine() else f"process {pid} on {host}"


def _machine() -> str:
    """The host's name, with its boot and our namespace of processes where the system says them."""
    host = socket.gethostname().replace("/", "-").replace("+", "-")
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{host}+{boot}+{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return host


def _began(pid: int) -> str | None:
    """When the process began, in ticks since the boot; None where there is none, or it has ended and waits for its parent."""
    try:
        # The name of the program stands in parentheses, and may hold anything.
        state, *fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]
