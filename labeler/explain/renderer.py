"""Render templates of strangers in a process of their own, which template.py starts and asks.

A line of JSON in, a line of JSON out, for as long as the other side is there. A template's work has a limit of
processor time and memory that the system sets, since nothing within Python ends `10 ** (10 ** 10)`. A template that
passes a limit ends this process, and a new process renders the next one. It imports nothing of ours and is given no
secrets.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHARACTERS = 1_000_000  # more than any model reads
_MEMORY = 1 << 30  # bytes of addresses, of which Python and Jinja themselves take a tenth

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_compiled = lru_cache(maxsize=16)(_environment.from_string)


def variables(template: str) -> list[str]:
    return sorted(find_undeclared_variables(_environment.parse(template)))


def render(template: str, values: dict[str, Any]) -> str:
    for context in (*values["contexts"], *values["hard"]):
        context["pairs"] = [tuple(pair) for pair in context["pairs"]]  # JSON has made lists of them
    pieces, n = [], 0
    for piece in _compiled(template).generate(values):
        pieces.append(piece)
        n += len(piece)
        if n > CHARACTERS:
            raise ValueError(f"it writes more than {CHARACTERS:,} characters")
    return "".join(pieces)


_TASKS: dict[str, Callable[..., Any]] = {"variables": variables, "render": render}


def answer(seconds: float, task: str, *values: Any) -> dict[str, Any]:
    """`{"done": result}`, or `{"wrong": [message, line]}`; this process ends where it takes more processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process also within one long operation
    try:
        return {"done": _TASKS[task](*values)}
    # A template runs expressions of its own: whatever they raise is the template's mistake.
    except TemplateError as error:
        return {"wrong": [str(error)[:500], getattr(error, "lineno", None)]}
    except MemoryError:
        return {"wrong": ["it takes too much memory", None]}
    except RecursionError:
        return {"wrong": ["it is nested too deeply, or calls itself without end", None]}
    except Exception as error:
        return {"wrong": [str(error)[:500], None]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory_and_files() -> None:
    import resource

    for what, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # some systems know no limit of addresses
            resource.setrlimit(what, (most, most))


def main() -> None:
    _limit_memory_and_files()
    for line in sys.stdin.buffer:
        reply = json.dumps(answer(*json.loads(line)), ensure_ascii=True)
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
