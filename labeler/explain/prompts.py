"""Write the text that an explainer reads, with one function for each method. Pure.

A method's version is in recipe.EXPLAINERS: changing a word here changes the version there. The fixed part comes first,
so that an endpoint's prefix cache holds it for every feature.
"""

from __future__ import annotations

from labeler.explain.material import Material, lines, marked, request, unmarked
from labeler.llm.prompt import Prompt
from labeler.llm.spelling import LEGEND, in_line
from labeler.quantise import quantise
from labeler.recipe import ExplainerConfig
from labeler.records import Context

_FORMAT = """\
Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>
"""

# The advice is what told good labels from bad ones when they were simulated: the tokens by name, and how strongly each
# fires.
MAX_ACTIVATION = f"""\
A feature of a language model fires on some tokens of a text and is silent on the others. Below are contexts in which \
one feature fires, the strongest first, one a line. A token on which it fires is written <<token|r>>, with its \
strength r from 1 to 10 (0: barely). {LEGEND}

Say what the feature detects, so that somebody who reads only your words can tell on which tokens of a new text it \
fires, and how strongly. Name the tokens and the strength of each, with the surroundings that they need; where no few \
tokens explain it, say what the marked ones have in common. Example: `size` alone or ending a name 8-10, ` size` 6-7, \
`count` 4-5.

{_FORMAT}
Contexts:
"""

TOKEN_ACTIVATION_PAIRS = f"""\
Each neuron of a neural network looks for one thing in short documents. Below are documents in which one neuron is \
active, each between <start> and <end>, one token a line as token<tab>activation. Activations go from 0 to 10; the \
higher, the better the token matches what the neuron looks for. {LEGEND}

Say in one sentence what the neuron looks for. Do not list examples of words.

{_FORMAT}"""

CONTRASTIVE = f"""\
A feature of a language model fires on some tokens of a text and is silent on the others. Below are first contexts in \
which one feature fires, the strongest first, one a line; a token on which it fires is written <<token|r>>, with its \
strength r from 1 to 10 (0: barely). Then come contexts that look alike, in all of which the feature is silent: they \
hold tokens on which it fires elsewhere, or what its nearest relatives fire on. {LEGEND}

Say what the feature detects, so that somebody who reads only your words can tell on which tokens of a new text it \
fires, how strongly, and on which similar ones it does not. Name the tokens and the strength of each, with the \
surroundings that they need: what the first contexts have and the second have not. Example: `size` as an argument's \
name 8-10, ` size` after `self.` 6-7; not in comments.

{_FORMAT}
Contexts in which it fires:
"""

OUTPUT_CENTRIC = f"""\
A feature of a language model fires on some tokens of a text, and then makes some next tokens more likely and others \
less. Below are the tokens that one feature promotes most and those that it suppresses most, read off its weights, \
the strongest first. Some of them are noise. {LEGEND}

Say what the promoted tokens have in common, and so on what text the feature must fire: text after which such tokens \
come. Somebody who reads only your words should be able to tell on which tokens of a new text it fires. Example: the \
name of a module after `import`, before ` as`.

{_FORMAT}
"""

INPUT_AND_OUTPUT = f"""\
A feature of a language model fires on some tokens of a text, and then makes some next tokens more likely and others \
less. Below are first the tokens that one feature promotes most and those that it suppresses most, read off its \
weights; some of them are noise. Then come contexts in which the feature fires, the strongest first, one a line; a \
token on which it fires is written <<token|r>>, with its strength r from 1 to 10 (0: barely). {LEGEND}

Say what the feature detects, so that somebody who reads only your words can tell on which tokens of a new text it \
fires, and how strongly. Name the tokens and the strength of each, with the surroundings that they need; where the \
promoted tokens tell what the contexts have in common, say that. Example: `size` alone or ending a name 8-10, before \
` =` or a number.

{_FORMAT}
"""

_REPEATED_BELOW = 0.2  # share of tokens that fire


def max_activation(material: Material, config: ExplainerConfig) -> Prompt:
    """Show contexts with the firing tokens marked and rated, strongest peak first."""
    return request(MAX_ACTIVATION + _firing(material), config)


def token_activation_pairs(material: Material, config: ExplainerConfig) -> Prompt:
    """Show all tokens in the layout of Bills et al. 2023, for comparability with labels made that way.

    All tokens with their activations, and, where fewer than a fifth fire, those that do once more without the others.
    Their examples of other neurons are left out, and the instruction is ours.
    """
    maximum = material.maximum
    text = f"{TOKEN_ACTIVATION_PAIRS}\nActivations:\n{_records(material.firing, maximum, only_firing=False)}"
    ratings = [r for c in material.firing for r in quantise(c.activations, maximum).tolist()]
    if sum(r > 0 for r in ratings) < _REPEATED_BELOW * len(ratings):
        text += f"\n\nThe same activations without the zeros:\n{_records(material.firing, maximum, only_firing=True)}"
    return request(text, config)


def contrastive(material: Material, config: ExplainerConfig) -> Prompt:
    """Show contexts in which the feature fires, then HARD ones in which it does not."""
    silent = lines([unmarked(c) for c in material.hard])
    return request(f"{CONTRASTIVE}{_firing(material)}\n\nContexts in which it is silent:\n{silent}", config)


def output_centric(material: Material, config: ExplainerConfig) -> Prompt:
    """Show tokens that the feature promotes and suppresses (Gur-Arieh et al.

    2025, "VocabProj"), without any context.
    """
    return request(OUTPUT_CENTRIC + _output(material), config)


def input_and_output(material: Material, config: ExplainerConfig) -> Prompt:
    """Show both sides of the feature in one request (Gur-Arieh et al. 2025, "Ensemble Raw")."""
    return request(f"{INPUT_AND_OUTPUT}{_output(material)}\n\nContexts:\n{_firing(material)}", config)


def _firing(material: Material) -> str:
    if not material.firing:
        raise ValueError("an explanation needs at least one context")
    maximum = material.maximum
    return "\n".join(marked(c, maximum) for c in material.firing)


def _records(contexts: tuple[Context, ...], maximum: float, *, only_firing: bool) -> str:
    if not contexts:
        raise ValueError("an explanation needs at least one context")
    return "\n".join(_record(c, maximum, only_firing) for c in contexts)


def _record(context: Context, maximum: float, only_firing: bool) -> str:
    rated = zip(context.tokens, quantise(context.activations, maximum).tolist(), strict=True)
    rows = [f"{in_line(token)}\t{r}" for token, r in rated if r > 0 or not only_firing]
    return "\n".join(("<start>", *rows, "<end>"))


def _output(material: Material) -> str:
    if material.output is None:
        raise ValueError("this method needs the tokens that the feature promotes")
    promoted, suppressed = (
        ", ".join(f"`{in_line(token)}`" for token in side)
        for side in (material.output.promoted, material.output.suppressed)
    )
    return f"Promoted: {promoted}\nSuppressed: {suppressed}"
