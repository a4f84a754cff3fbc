"""Check that an evidence folder has everything that an explainer needs beside contexts."""

from __future__ import annotations

from labeler.errors import InputError
from labeler.evidence.store import EvidenceFolder
from labeler.explain import template
from labeler.recipe import ExplainerConfig, Recipe
from labeler.records import OutputTokens


def check_recipe(recipe: Recipe, folder: EvidenceFolder | None = None) -> None:
    """Find what cannot work before the first paid request. Raises InputError saying what to change."""
    config = recipe.explainer
    recipe.check_versions()
    if config.template is not None:
        template.check_template(config.template, has_hard=bool(recipe.contexts.explain_hard))
    if folder is not None and reads_output(config) and not folder.files.has("output.tokens.npy"):
        raise InputError(
            f"explainer {config.method!r} shows the tokens that a feature promotes, and {folder.folder} has none: its "
            "SAE writes into a space that the subject's unembedding does not read; choose another explainer"
        )


def reads_output(config: ExplainerConfig) -> bool:
    if config.template is not None:
        return template.reads_output(config.template)
    return config.method in ("output-centric", "input-and-output")


def output_tokens(folder: EvidenceFolder, feature_index: int) -> OutputTokens | None:
    # Here and not above: the module that writes these files needs torch, and only these recipes need the files.
    from labeler.evidence.directions import read_output

    output = read_output(folder, feature_index)
    if output is None:
        return None
    promoted, suppressed = (
        tuple(folder.vocabulary.text(token) for token, _ in side) for side in (output.promoted, output.suppressed)
    )
    return OutputTokens(promoted, suppressed)
