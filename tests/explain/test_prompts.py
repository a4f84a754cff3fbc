"""Every explainer's prompt as whole text: a changed word is a changed version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labeler.errors import InputError
from labeler.explain.material import Material
from labeler.explain.methods import METHODS, explanation_prompt
from labeler.llm.prompt import Message, Prompt
from labeler.recipe import EXPLAINERS, ExplainerConfig, Recipe
from labeler.records import Context, OutputTokens, Source, Split

MAX_ACTIVATION = """\
A feature of a language model fires on some tokens of a text and is silent on the others. Below are contexts in which \
one feature fires, the strongest first, one a line. A token on which it fires is written <<token|r>>, with its \
strength r from 1 to 10 (0: barely). ¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a token of four.

Say what the feature detects, so that somebody who reads only your words can tell on which tokens of a new text it \
fires, and how strongly. Name the tokens and the strength of each, with the surroundings that they need; where no few \
tokens explain it, say what the marked ones have in common. Example: `size` alone or ending a name 8-10, ` size` 6-7, \
`count` 4-5.

Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>

Contexts:
¶⇥if<< size|10>> <<·×4|5>>
the<< cat|9>> sat
a dog<<.|0>>"""

TOKEN_ACTIVATION_PAIRS = """\
Each neuron of a neural network looks for one thing in short documents. Below are documents in which one neuron is \
active, each between <start> and <end>, one token a line as token<tab>activation. Activations go from 0 to 10; the \
higher, the better the token matches what the neuron looks for. ¶ is a line break, ⇥ a tab, · a token of one blank, \
·×4 a token of four.

Say in one sentence what the neuron looks for. Do not list examples of words.

Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>

Activations:
<start>
¶⇥\t0
if\t0
 size\t10
 \t0
    \t5
<end>
<start>
the\t0
 cat\t9
 sat\t0
<end>
<start>
a\t0
 dog\t0
.\t0
<end>"""

CONTRASTIVE = """\
A feature of a language model fires on some tokens of a text and is silent on the others. Below are first contexts in \
which one feature fires, the strongest first, one a line; a token on which it fires is written <<token|r>>, with its \
strength r from 1 to 10 (0: barely). Then come contexts that look alike, in all of which the feature is silent: they \
hold tokens on which it fires elsewhere, or what its nearest relatives fire on. ¶ is a line break, ⇥ a tab, · a token \
of one blank, ·×4 a token of four.

Say what the feature detects, so that somebody who reads only your words can tell on which tokens of a new text it \
fires, how strongly, and on which similar ones it does not. Name the tokens and the strength of each, with the \
surroundings that they need: what the first contexts have and the second have not. Example: `size` as an argument's \
name 8-10, ` size` after `self.` 6-7; not in comments.

Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>

Contexts in which it fires:
¶⇥if<< size|10>> <<·×4|5>>
the<< cat|9>> sat
a dog<<.|0>>

Contexts in which it is silent:
a fixed size¶
# the cat"""

OUTPUT_CENTRIC = """\
A feature of a language model fires on some tokens of a text, and then makes some next tokens more likely and others \
less. Below are the tokens that one feature promotes most and those that it suppresses most, read off its weights, \
the strongest first. Some of them are noise. ¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a token of four.

Say what the promoted tokens have in common, and so on what text the feature must fire: text after which such tokens \
come. Somebody who reads only your words should be able to tell on which tokens of a new text it fires. Example: the \
name of a module after `import`, before ` as`.

Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>

Promoted: ` =`, `\\x00`, `¶`
Suppressed: `the`"""

INPUT_AND_OUTPUT = """\
A feature of a language model fires on some tokens of a text, and then makes some next tokens more likely and others \
less. Below are first the tokens that one feature promotes most and those that it suppresses most, read off its \
weights; some of them are noise. Then come contexts in which the feature fires, the strongest first, one a line; a \
token on which it fires is written <<token|r>>, with its strength r from 1 to 10 (0: barely). ¶ is a line break, ⇥ a \
tab, · a token of one blank, ·×4 a token of four.

Say what the feature detects, so that somebody who reads only your words can tell on which tokens of a new text it \
fires, and how strongly. Name the tokens and the strength of each, with the surroundings that they need; where the \
promoted tokens tell what the contexts have in common, say that. Example: `size` alone or ending a name 8-10, before \
` =` or a number.

Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>

Promoted: ` =`, `\\x00`, `¶`
Suppressed: `the`

Contexts:
¶⇥if<< size|10>> <<·×4|5>>
the<< cat|9>> sat
a dog<<.|0>>"""

TEMPLATE = """\
{{ legend }}
{% for c in contexts %}
{{ c.marked }} {{ "%.1f"|format(c.peak) }}
{% endfor %}
Silent: {% for c in hard %}[{{ c.text }}]{% endfor %}

Promoted {{ promoted|join(" ") }}, suppressed {{ suppressed|join(" ") }}
{% for token, r in contexts[0].pairs if r %}{{ token }}={{ r }} {% endfor %}

LABEL: ?"""

RENDERED = """\
¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a token of four.
¶⇥if<< size|10>> <<·×4|5>> 2.0
the<< cat|9>> sat 1.9
a dog<<.|0>> 0.1
Silent: [a fixed size¶][# the cat]
Promoted  = \\x00 ¶, suppressed the
 size=10     =5 
LABEL: ?"""  # noqa: W291

WHOLE = {
    "max-activation": MAX_ACTIVATION,
    "token-activation-pairs": TOKEN_ACTIVATION_PAIRS,
    "contrastive": CONTRASTIVE,
    "output-centric": OUTPUT_CENTRIC,
    "input-and-output": INPUT_AND_OUTPUT,
    "template": RENDERED,
}


def context(tokens: list[str], activations: list[float], source: Source = Source.TOP) -> Context:
    ids = tuple(range(len(tokens)))
    return Context(0, 0, Split.EXPLAIN, source, ids, tuple(tokens), tuple(activations))


CONTEXTS = [
    context(["a", " fixed", " size", "\n"], [0.0] * 4, Source.HARD),
    context(["the", " cat", " sat"], [0.0, 1.9, 0.1]),
    context(["a", " dog", "."], [0.0, 0.05, 0.1]),
    context(["\n\t", "if", " size", " ", "    "], [0.0, -3.0, 2.0, 0.0, 1.0]),
    context(["# the", " cat"], [0.0, 0.0], Source.HARD),
]
OUTPUT = OutputTokens((" =", "\x00", "\n"), ("the",))


def config(method: str) -> ExplainerConfig:
    template = TEMPLATE if method == "template" else None
    return ExplainerConfig("openai", "gpt-x", EXPLAINERS[method], template=template)


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_prompt(method: str) -> None:
    expected = Prompt("gpt-x", (Message("user", WHOLE[method]),), 200, 0.0, None, purpose="explain")
    assert explanation_prompt(Material.of(CONTEXTS, OUTPUT), config(method)) == expected
    assert explanation_prompt(Material.of(CONTEXTS[::-1], OUTPUT), config(method)).messages[0].content != ""


def test_every_method_of_a_recipe_is_here() -> None:
    assert {*METHODS} == {*EXPLAINERS} - {"lookup"}
    assert {*WHOLE} == {*METHODS}
    assert Recipe.from_names("openai:gpt-x").explainer.method == "max-activation"


def test_a_prompt_of_another_version_is_not_written_under_its_name() -> None:
    with pytest.raises(InputError, match="'max-activation-0', and this version of labeler writes 'max-activation-2'"):
        explanation_prompt(Material.of(CONTEXTS), replace(config("max-activation"), prompt_version="max-activation-0"))


def test_activations_are_repeated_without_the_zeros_where_few_tokens_fire() -> None:
    """As in Bills et al. 2023: where fewer than a fifth of the tokens fire, after quantising."""
    few = Material.of([context(["a", "b", "c", "d", "e", "f"], [0.0, 4.0, 0.0, 0.0, 0.0, 0.3])])
    text = explanation_prompt(few, config("token-activation-pairs")).messages[0].content
    assert text.endswith("f\t0\n<end>\n\nThe same activations without the zeros:\n<start>\nb\t10\n<end>")
    many = Material.of([context(["a", "b", "c", "d", "e"], [0.0, 4.0, 0.0, 0.0, 0.0])])
    assert "without the zeros" not in explanation_prompt(many, config("token-activation-pairs")).messages[0].content


def test_a_context_in_which_the_feature_is_silent_has_no_mark() -> None:
    shown = Material.of([context(["x"], [1.0]), context(["y", "z"], [0.0, -1.0])])
    assert explanation_prompt(shown, config("max-activation")).messages[0].content.endswith("\n<<x|10>>\nyz")


def test_without_hard_contexts_the_contrast_says_so() -> None:
    shown = explanation_prompt(Material.of(CONTEXTS[1:2]), config("contrastive")).messages[0].content
    assert shown.endswith("Contexts in which it is silent:\n(none was found)")


def test_contexts_are_lines() -> None:
    material = Material.of([context(["a\r\n\u2028", "\x0b"], [1.0, 0.0])] * 3)
    shown = explanation_prompt(material, config("max-activation")).messages[0].content
    assert len(shown.partition("Contexts:\n")[2].splitlines()) == 3


@pytest.mark.parametrize("method", ["max-activation", "token-activation-pairs", "contrastive", "input-and-output"])
def test_there_must_be_something_to_explain(method: str) -> None:
    with pytest.raises(ValueError, match="at least one context"):
        explanation_prompt(Material.of([], OUTPUT), config(method))
