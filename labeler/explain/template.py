"""Render a user's own prompt: a Jinja template in the recipe, which can reach nothing but the evidence.

What a template may name:

    contexts     contexts in which the feature fires, strongest first; of each
                   .marked   the line with firing tokens as <<token|r>>, r from 0 to 10
                   .text     the line without marks
                   .pairs    (token, r) of every token
                   .peak     its highest activation, in raw SAE units
    hard         the same of contexts that look alike, in which the feature is silent
    promoted     tokens that the feature promotes most, strongest first (the logit lens)
    suppressed   tokens that it suppresses most
    legend       what ¶, ⇥ and · stand for

The reply must be one line "LABEL: ...", so the template has to ask for that.

A template may come from a stranger. So a process of its own renders it (renderer.py), with limits of time, memory and
size.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from typing import Any

from labeler.errors import InputError
from labeler.explain import renderer
from labeler.explain.material import Material, marked, request, unmarked
from labeler.llm.prompt import Prompt
from labeler.llm.spelling import LEGEND, in_line
from labeler.quantise import quantise
from labeler.recipe import ExplainerConfig
from labeler.records import Context, OutputTokens, Source, Split

VARIABLES = ("contexts", "hard", "promoted", "suppressed", "legend")
_OUTPUT = frozenset({"promoted", "suppressed"})


def template_prompt(material: Material, config: ExplainerConfig) -> Prompt:
    """Render the template. Raises InputError where that is impossible."""
    return request(_render(config.template or "", material), config)


@lru_cache(maxsize=16)
def variables_of(template: str) -> frozenset[str]:
    """Return the VARIABLES that a template names. Raises InputError for an unknown name, or for no template at all."""
    named = _renderer.ask("read", "variables", template)
    unknown = sorted(set(named) - {*VARIABLES})
    if unknown:
        raise InputError(
            f"the explainer's template names {', '.join(map(repr, unknown))}, which is not there: "
            f"known are {', '.join(VARIABLES)}"
        )
    return frozenset(named)


def reads_output(template: str) -> bool:
    return bool(variables_of(template) & _OUTPUT)


def check_template(template: str, *, has_hard: bool) -> None:
    """Render the template on a made-up feature, to refuse one that cannot work before anything is paid for.

    Raises InputError.
    """
    named = variables_of(template)
    if "LABEL:" not in template:
        raise InputError('the explainer\'s template does not ask for a line "LABEL: ...", which is how a reply is read')
    if "hard" in named and not has_hard:
        raise InputError("the explainer's template shows `hard` contexts: say how many with contexts.explain_hard")
    _render(template, _SAMPLE)


def _render(template: str, material: Material) -> str:
    maximum = material.maximum
    output = material.output or OutputTokens((), ())
    values = {
        "contexts": [_row(c, maximum) for c in material.firing],
        "hard": [_row(c, maximum) for c in material.hard],
        "promoted": [in_line(token) for token in output.promoted],
        "suppressed": [in_line(token) for token in output.suppressed],
        "legend": LEGEND,
    }
    return str(_renderer.ask("rendered", "render", template, values))


def _row(context: Context, maximum: float) -> dict[str, Any]:
    ratings = quantise(context.activations, maximum).tolist()
    return {
        "marked": marked(context, maximum),
        "text": unmarked(context),
        "pairs": [(in_line(token), r) for token, r in zip(context.tokens, ratings, strict=True)],
        "peak": context.peak,
    }


class _Renderer:
    """The process that renders; it is started at the first template, and again after one that has ended it."""

    def __init__(self, seconds: float = 5) -> None:
        self.seconds = seconds  # of processor time for one template: what is meant well takes a thousandth of it
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = 0  # a forked process starts one of its own

    def ask(self, what: str, task: str, *values: Any) -> Any:
        """Ask the process. Raises InputError where the template cannot be `what` ("read", "rendered")."""
        with self._lock:
            reply = self._exchange(json.dumps([self.seconds, task, *values]).encode() + b"\n")
        if "wrong" in reply:
            message, line = reply["wrong"]
            place = f" (line {line})" if line else ""
            raise InputError(f"the explainer's template cannot be {what}: {message}{place}")
        return reply["done"]

    def _exchange(self, request: bytes) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        except BaseException:  # an interrupt: the answer to this request must not be taken for the next one's
            self.close()
            raise
        if line:
            return dict(json.loads(line))
        ended = process.wait()
        self.close()
        slow = f"it takes more than {self.seconds} s of processor time"
        why = slow if ended == -signal.SIGPROF else "it has ended the process that renders it"
        return {"wrong": [why, None]}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._parent != os.getpid() or self._process.poll() is not None:
            self._parent = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", renderer.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={k: v for k, v in os.environ.items() if k in _ENVIRONMENT},
                start_new_session=True,
            )
        return self._process

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._parent == os.getpid():
            process.kill()
            process.communicate()


_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LC_ALL", "LD_LIBRARY_PATH")  # and no key
_renderer = _Renderer()
atexit.register(_renderer.close)


def _sample(source: Source, activations: tuple[float, ...]) -> Context:
    return Context(0, 0, Split.EXPLAIN, source, (1, 2, 3), ("a", " b", "\n"), activations)


_SAMPLE = Material(
    (_sample(Source.TOP, (0.0, 2.0, 1.0)), _sample(Source.SAMPLED, (1.0, 0.0, 0.0))),
    (_sample(Source.HARD, (0.0, 0.0, 0.0)),),
    OutputTokens((" c", "d"), ("\t",)),
)
