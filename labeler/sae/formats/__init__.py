"""One module per layout in which people publish SAEs: it recognizes its files by content, and reads them.

`docs/formats.md` lists the suites. A module has NAME, `recognizes(weights)` and `read(weights)`; add it to FORMATS. Where
a folder holds a file for each layer of one set, it also has `layer_in_set(weights)`.
"""

from collections.abc import Callable
from typing import Protocol, cast

from labeler.sae.formats import (
    circuit_tracer,
    cross_layer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    hook_z,
    llama_scope,
    openai,
    openmoss,
    qresearch,
    qwen_scope,
    saelens,
    sparsify,
    temporal,
)
from labeler.sae.sae import SAE
from labeler.sae.weights import Weights


class Format(Protocol):
    NAME: str
    recognizes: Callable[[Weights], bool]
    read: Callable[[Weights], SAE]


def layer_in_set(weights: Weights, form: Format) -> int | None:
    """Return the number of a file's layer, where the files of a folder are layers of one set."""
    number: int | None = getattr(form, "layer_in_set", lambda _: None)(weights)
    return number


# The more a layout says of itself, the earlier it is asked.
FORMATS = cast(
    "tuple[Format, ...]",
    (
        temporal,
        cross_layer,
        circuit_tracer,
        gemma_scope_2,
        gemma_scope,
        llama_scope,
        sparsify,
        saelens,
        openmoss,
        dictionary_learning,
        openai,
        goodfire,
        hook_z,
        qwen_scope,
        qresearch,
    ),
)
