"""A supervisor of processes: it starts them in order, restarts dead ones, stops all, and leaves none behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before a process that died is started again
_READY_WITHIN = 1 << 20  # bytes of a log
_HEALTHY = 60.0  # seconds; a process that lived this long does not keep dying


@dataclass(frozen=True)
class Program:
    """A program to run, with its command and its input."""

    name: str
    command: Sequence[str]
    stdin: bytes = b""  # sent on standard input: configuration that a list of processes must not show
    is_last: bool = False  # stopped last, since the others need it to stop well
    ready: bytes | None = None  # the text in its log once it is ready; None: another sign tells


class Supervisor:
    """`with Supervisor(logs) as them: them.start(program); ...`, and then `them.watch_once()` again and again."""

    def __init__(self, logs: Path, *, stop_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs, self._stop_seconds, self._clock = logs, stop_seconds, clock
        self._running: dict[str, tuple[Program, subprocess.Popen[bytes]]] = {}
        self._started_at: dict[str, float] = {}
        self._waits: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._log_starts: dict[str, int] = {}

    def start(self, program: Program) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{program.name}.log").open("ab") as log:
            self._log_starts[program.name] = log.tell()
            process = subprocess.Popen(
                program.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C reaches only the supervisor, which stops them in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        assert process.stdin is not None
        process.stdin.write(program.stdin)
        process.stdin.close()
        self._running[program.name] = (program, process)
        self._started_at[program.name] = self._clock()

    def is_ready(self, name: str) -> bool:
        """Say whether the program has written to its log, since its start, that it is ready."""
        program, _process = self._running[name]
        if program.ready is None:
            return False
        with (self._logs / f"{name}.log").open("rb") as log:
            log.seek(self._log_starts[name])
            return program.ready in log.read(_READY_WITHIN)

    def watch_once(self) -> list[str]:
        """Start dead programs again, and return their names. One that keeps dying waits longer each time."""
        died = []
        for name, (program, process) in list(self._running.items()):
            if process.poll() is None:
                continue
            now = self._clock()
            if name not in self._not_before:
                died.append(name)
                self._not_before[name] = now + self._next_wait(name, now)
            if now >= self._not_before[name]:
                del self._not_before[name]
                self.start(program)
        return died

    def _next_wait(self, name: str, now: float) -> float:
        is_first = name not in self._waits or now - self._started_at[name] >= _HEALTHY
        self._waits[name] = _FIRST_WAIT if is_first else min(_LONGEST_WAIT, 2 * self._waits[name])
        return self._waits[name]

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop all programs, each with time to finish. Then kill every process that is left."""
        deadline = time.monotonic() + self._stop_seconds
        for is_last in (False, True):
            processes = [process for program, process in self._running.values() if program.is_last is is_last]
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                _kill_session(process.pid)
                process.wait()


def _kill_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _die_with_parent() -> None:
    # Linux only; elsewhere `kill -9` of the supervisor leaves its processes running.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
