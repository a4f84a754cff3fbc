"""A user's own prompt: a Jinja template that the recipe carries, rendered where it can reach nothing but the evidence.

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
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from labeler.errors import InputError
from labeler.explain.material import Material, marked, request, unmarked
from labeler.llm.prompt import Prompt
from labeler.llm.spelling import LEGEND, in_line
from labeler.recipe import ExplainerConfig
from labeler.records import Context, OutputTokens, Source, Split
from labeler.score.quantise import quantise

VARIABLES = ("contexts", "hard", "promoted", "suppressed", "legend")
_OUTPUT = frozenset({"promoted", "suppressed"})


def template_prompt(material: Material, config: ExplainerConfig) -> Prompt:
    """Raises InputError where the template cannot be rendered."""
    return request(_render(config.template or "", material), config)


def variables_of(template: str) -> frozenset[str]:
    """Which of VARIABLES a template names. Raises InputError for one that is not there, or no template at all."""
    try:
        named = find_undeclared_variables(_environment().parse(template))
    except TemplateError as error:
        raise InputError(f"the explainer's template cannot be read: {error}{_line(error)}") from None
    unknown = sorted(named - {*VARIABLES})
    if unknown:
        raise InputError(
            f"the explainer's template names {', '.join(map(repr, unknown))}, which is not there: "
            f"known are {', '.join(VARIABLES)}"
        )
    return frozenset(named)


def reads_output(template: str) -> bool:
    return bool(variables_of(template) & _OUTPUT)


def check_template(template: str, *, has_hard: bool) -> None:
    """Render the template on a made-up feature, so that what cannot work is known before anything is paid for.

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
    try:
        return _compiled(template).render(
            contexts=[_row(c, maximum) for c in material.firing],
            hard=[_row(c, maximum) for c in material.hard],
            promoted=[in_line(token) for token in output.promoted],
            suppressed=[in_line(token) for token in output.suppressed],
            legend=LEGEND,
        )
    # A template runs expressions of its own: whatever they raise is the template's mistake.
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"the explainer's template cannot be rendered: {error}{_line(error)}") from None


def _row(context: Context, maximum: float) -> dict[str, Any]:
    ratings = quantise(context.activations, maximum).tolist()
    return {
        "marked": marked(context, maximum),
        "text": unmarked(context),
        "pairs": [(in_line(token), r) for token, r in zip(context.tokens, ratings, strict=True)],
        "peak": context.peak,
    }


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


def _line(error: BaseException) -> str:
    number = getattr(error, "lineno", None)
    return f" (line {number})" if number else ""


def _sample(source: Source, activations: tuple[float, ...]) -> Context:
    return Context(0, 0, Split.EXPLAIN, source, (1, 2, 3), ("a", " b", "\n"), activations)


_SAMPLE = Material(
    (_sample(Source.TOP, (0.0, 2.0, 1.0)), _sample(Source.SAMPLED, (1.0, 0.0, 0.0))),
    (_sample(Source.HARD, (0.0, 0.0, 0.0)),),
    OutputTokens((" c", "d"), ("\t",)),
)
