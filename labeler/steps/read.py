"""Read what one feature did, as far as the recipe asks for it; say why where that is too little for a label."""

from __future__ import annotations

from dataclasses import replace

from labeler.errors import DamagedFeatureError
from labeler.evidence.choose import choose_evidence, explain_windows
from labeler.evidence.steered import read_steered
from labeler.evidence.store import EvidenceFolder
from labeler.explain.lookup import explain_by_lookup
from labeler.explain.needs import output_tokens, reads_output
from labeler.recipe import ContextsConfig, Recipe
from labeler.records import FeatureEvidence, FeatureStatistics, LabeledFeature, Source, Split, State


def read_evidence(folder: EvidenceFolder, feature_index: int, recipe: Recipe) -> FeatureEvidence:
    """Return the contexts that the recipe asks for, and the look-up label that every other label is measured against.

    A silent or rare feature has neither, and comes with the reason.
    """
    if (reason := too_little(folder.statistics(feature_index), recipe.contexts)) is not None:
        return FeatureEvidence(feature_index, folder.statistics(feature_index), (), (), too_little=reason)
    evidence = choose_evidence(folder, feature_index, recipe.contexts, recipe.seed)
    windows = explain_windows(folder, feature_index, evidence.of_held_out_documents, recipe.contexts.near_duplicate)
    # An explainer sees none of the RANDOM windows.
    if not any(w.peak.any() for source, w in windows.items() if source is not Source.RANDOM):
        reason = State.RARE, "each EXPLAIN window that it is known to fire in repeats held-out text"
        return FeatureEvidence(feature_index, evidence.statistics, (), (), too_little=reason)
    output = output_tokens(folder, feature_index) if reads_output(recipe.explainer) else None
    steered = read_steered(folder.folder, feature_index) if recipe.intervenes else None
    lookup = explain_by_lookup(windows, folder.vocabulary)
    return replace(evidence, lookup=lookup, output=output, steered=steered)


def read_or_failed(folder: EvidenceFolder, feature_index: int, recipe: Recipe) -> FeatureEvidence:
    """Read the evidence; a feature with damaged evidence comes back as `failed`, with the file.

    Raises DamagedError where data that all features share are damaged.
    """
    try:
        return read_evidence(folder, feature_index, recipe)
    except DamagedFeatureError as error:
        statistics = folder.statistics_or_unknown(feature_index)
        return FeatureEvidence(feature_index, statistics, (), (), too_little=(State.FAILED, error.reason))


def unlabeled(evidence: FeatureEvidence, state: State, reason: str) -> LabeledFeature:
    """Return the result for a feature without a label: its state and the reason."""
    return LabeledFeature(evidence.feature_index, state, evidence.statistics, reason)


def too_little(statistics: FeatureStatistics, config: ContextsConfig) -> tuple[State, str] | None:
    """Return the state of a feature that cannot be labeled, with its reason; None for one that can."""
    if statistics.n_firings == 0:
        known = "" if statistics.n_tokens is None else f" on {statistics.n_tokens:,} tokens"
        return State.SILENT, f"never fired{known}"
    for split, least in zip(Split, config.least_firing_windows, strict=True):
        n = statistics.n_firing_windows_by_split[split]
        if n < least:
            return State.RARE, f"fires in {n} {split.replace('_', '-')} windows; at least {least} are needed"
    return None
