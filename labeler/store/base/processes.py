"""Names of processes, by which another process on the same machine can tell that one is dead.

A name holds the machine's boot, the namespace of the process number, the number, and the start of the process, because
numbers are used again. Where the system does not give all of these, no process is ever considered dead.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> str:
    """Return the name of this process."""
    return f"{_machine()}/{os.getpid()}/{_began(os.getpid()) or ''}"


def is_dead(process: str) -> bool:
    """Return True only if the process certainly ran on this machine and has ended."""
    machine, _, rest = process.partition("/")
    pid, _, began = rest.partition("/")
    if not began or not pid.isdecimal() or machine != _machine():
        return False
    return _began(int(pid)) != began


def described(process: str) -> str:
    """Describe the process for a person."""
    machine, _, rest = process.partition("/")
    pid, (host, *_) = rest.partition("/")[0], machine.split("+")
    return f"process {pid}" if machine == _machine() else f"process {pid} on {host}"


def _machine() -> str:
    """Name the host, with its boot and the namespace of process numbers where the system gives them."""
    host = socket.gethostname().replace("/", "-").replace("+", "-")
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{host}+{boot}+{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return host


def _began(pid: int) -> str | None:
    """Return the start of the process in ticks since the boot.

    None where there is no such process, or it has ended and waits for its parent.
    """
    try:
        # The program's name stands in parentheses, and may hold any character.
        state, *fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]
