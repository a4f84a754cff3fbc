"""The card of a label set: one page that says how the labels were made and how good they are.

It is JSON for machines, and Markdown for people."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from importlib.resources import files
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined

from labeler.evidence.manifest import has_hashes
from labeler.evidence.store import BY_OTHERS
from labeler.export.markdown import escaped
from labeler.headline import headline
from labeler.names import with_names
from labeler.schema import in_order, score_columns
from labeler.store import Store
from labeler.store.base.columns import scores_in
from labeler.store.label_sets.written import people_say
from labeler.store.tables.label_sets import in_utc

_LOOKUP = (
    "These labels are token look-ups. They are the baseline that labels in words are measured against: they cannot beat it, "
    "and they say which tokens a feature fires on, not what it means."
)
_CLAIM = (
    "Observational: the labels say on which tokens features fire. No intervention was run, so nothing here says what a "
    "feature does to the model's output."
)
_CAUSAL = (
    "The intervention score is causal, and it alone: {n:,} features were turned up in the subject, and the score says how often "
    "the label tells what that made the subject write from what another feature, turned up as far, made it write. All "
    "else is observational: it says on which tokens features fire."
)
_SPLIT = "by the seeded hash of each document's content"
_SPLIT_BY_OTHERS = "as others drew them: from intervals of the activation, and not from its top"
_LIMITS = (
    "A label is a hypothesis about the corpus that was read; on other text a feature may do something else.",
    "Contexts are windows of a few dozen tokens: what depends on more distant text is not seen, neither by the explainer nor by the score.",
    "Each score rests on a few dozen held-out windows; its interval says how much it would move on others from the same corpus.",
    "Top-and-random scores flatter labels that are too broad; the weighted score estimates the correlation over the whole corpus.",
    "The null consists of look-up labels of other features: it says whether a label does better than an unrelated one, not whether it is right.",
)


def build_card(store: Store, label_set_id: int) -> dict[str, Any]:
    """Build the card as strict JSON: undefined numbers and unknown costs are null, never NaN or 0."""
    info, recipe = store.label_set(label_set_id), store.recipe_of(label_set_id)
    manifest, summary = with_names(store.manifest_of(label_set_id)), store.summary(label_set_id)
    by_others = manifest.get(BY_OTHERS)
    is_lookup = recipe["explainer"]["kind"] == "lookup"
    imported = manifest.get("imported")
    interventions = _interventions(store, label_set_id, recipe)
    if imported and not (interventions and interventions["n"]):
        # Rows of older exports hold no intervention scores, so the card of the original label set keeps its word.
        interventions = imported["card"].get("interventions")
    results = {**asdict(summary), "histogram": list(summary.histogram)}
    if is_lookup:
        results["share_beating_baseline"] = None  # these labels are the baseline
    return {
        "label_set": label_set_id,
        "name": info.name,
        "imported": _imports(imported) if imported else [],
        "created_at": in_utc(info.created_at).isoformat(timespec="seconds"),
        "claim": _CAUSAL.format(n=interventions["n"]) if interventions and interventions["n"] else _CLAIM,
        "notice": _LOOKUP if is_lookup else None,
        "subject": {**manifest["subject"], "id": info.subject},
        "hookpoint": manifest["hookpoint"],
        "reads": manifest["reads"],
        **({"writes": manifest["writes"]} if manifest.get("writes") else {}),
        "sae": {**manifest["sae"], "path": info.sae},
        "sae_quality": manifest["quality"],
        "self_check": manifest.get("self_check"),  # None: evidence of an earlier version
        "corpus": manifest["corpus"],
        "splits": {**manifest["splits"], "how": _SPLIT_BY_OTHERS if by_others else _SPLIT},
        "by_others": by_others,  # facts that the gatherers of the evidence do not give
        "gathering": manifest["config"],
        "evidence": {
            "hash": imported["card"]["evidence"]["hash"] if imported else manifest["hash"],
            "created_at": manifest["created_at"],
            "versions": manifest["versions"],
            "checked": imported["card"]["evidence"].get("checked") if imported else has_hashes(manifest),
        },
        "recipe": recipe,
        "labels_by_others": recipe.get(BY_OTHERS),
        "explainer": info.explainer,
        "simulator": info.simulator,
        "same_model": info.explainer == info.simulator,
        "coverage": {
            state: {"features": n, "share": n / summary.n_features if summary.n_features else None}
            for state, n in summary.counts.items()
        },
        "results": results,
        "scores": _scores(store, label_set_id),
        "interventions": interventions,
        "people": people_say(store, label_set_id),
        "limits": list(_LIMITS),
    }


def _imports(imported: dict[str, Any]) -> list[dict[str, Any]]:
    """List the imports that the labels went through, the oldest first."""
    came = {name: value for name, value in imported.items() if name != "card"}
    card = imported["card"]
    return [*card.get("imported", []), {**came, "label_set": card["label_set"]}]


def _scores(store: Store, label_set_id: int) -> dict[str, dict[str, Any]]:
    """Say of each score that results have, which column of an export holds it, what it means and its range."""
    with store.database.reading() as connection:
        names = in_order(scores_in(connection, label_set_id))
    columns = {name: score_columns(name)[0] for name in names}
    return {name: {"column": c.name, "meaning": c.meaning, "range": c.range} for name, c in columns.items()}


def _interventions(store: Store, label_set_id: int, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Sum up the results of the recipe's interventions, or return None for a recipe without any."""
    if not any(scorer["kind"] == "intervention" for scorer in recipe.get("scorers", ())):
        return None
    values, reasons = store.named_scores(label_set_id, "intervention")
    return {"n": len(values), "median": median(values) if values else None, "chance": 0.5, "undefined": reasons}


def card_markdown(card: dict[str, Any]) -> str:
    """Write the card as Markdown, for people."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False, finalize=escaped
    )
    environment.filters.update(number=_number, share=_share, count=_count, decades=_decades, headline=headline)
    template = (files("labeler.export") / "templates" / "card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(card=card)


def _number(value: float | None, digits: int = 2) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1%}"


def _decades(quality: dict[str, Any]) -> str:
    """Write the density histogram in words, per decade: `12 at 1e-05 to 1e-04, 40 at 1e-04 to 1e-03`."""
    by_decade: Counter[int] = Counter()
    edges, counts = quality.get("density_log10_edges") or (), quality.get("density_features") or ()
    for edge, n in zip(edges, counts, strict=False):  # there is one more edge than counts
        by_decade[math.floor(edge + 1e-3)] += n
    parts = [f"{n:,} at {10.0**d:.0e} to {10.0 ** (d + 1):.0e}" for d, n in sorted(by_decade.items()) if n]
    return ", ".join(parts) or "unknown"


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
