"""A label set in the form of SAEBench's AutoInterp results (Karvonen et al. 2025), as far as its scores allow.

Their score of a latent is the accuracy of a judge who predicts from the label in which sequences it fires; ours is the balanced
accuracy of `detection`, which asks the same and for which a judge who always says no gets 0.5. The summary says so itself.
Only known values are written: a missing field of `eval_config` played no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from labeler import __version__
from labeler.errors import InputError
from labeler.export.card import build_card
from labeler.files import strict_json, whole_file
from labeler.records import State
from labeler.store import LabelSetInfo, Store
from labeler.store.label_sets.scan import scan_detection
from labeler.store.tables.label_sets import in_utc

_SCORE = "detection"
_MEASURE = (
    "autointerp_score is the mean, over the labels that have one, of labeler's detection score: balanced accuracy, so 0.5 is chance. "
    "SAEBench's own is plain accuracy, of 4 firing sequences in 14: the two are alike and not equal."
)


def export_saebench(store: Store, label_set_id: int, path: Path) -> int:
    """Write the summary and return the number of labels with a score.

    Raises InputError for a label set without a detection score: the metric would be undefined, and their format has no
    place for that.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file to write, such as {path / 'saebench.json'}")
    values, undefined = store.named_scores(label_set_id, _SCORE)
    if not values:
        raise InputError(
            f"label set {label_set_id} has no detection scores, and SAEBench's AutoInterp score is their mean; "
            "label with a recipe that asks for them, such as `--recipe standard`"
        )
    info = store.label_set(label_set_id)
    # The card has the SAE's name; its place in SAELens's registry stands in the manifest.
    sae_path = str(store.evidence(info.evidence_id)[0]["sae"]["path"])
    head = _summary(info, build_card(store, label_set_id), sae_path, values, undefined)
    with whole_file(path) as file:
        file.writelines(text.encode() for text in _texts(head, _latents(store, label_set_id)))
    return len(values)


def _texts(head: dict[str, Any], latents: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    yield strict_json(head, indent=1)[:-2] + ',\n "eval_result_unstructured": {'
    for number, (feature, latent) in enumerate(latents):
        yield f'{"," if number else ""}\n  "{feature}": {strict_json(latent)}'
    yield "\n }\n}\n"


def _summary(
    info: LabelSetInfo, card: dict[str, Any], sae_path: str, values: list[float], undefined: dict[str, int]
) -> dict[str, Any]:
    release, sae_id = _sae_lens_names(sae_path)
    return {
        "eval_type_id": "autointerp",
        "eval_config": _config(card),
        "eval_id": str(uuid5(NAMESPACE_URL, f"labeler:{card['evidence']['hash']}:{info.recipe_hash}")),
        "datetime_epoch_millis": round(in_utc(info.created_at).timestamp() * 1000),
        "eval_result_metrics": {
            "autointerp": {
                "autointerp_score": fmean(values),
                "autointerp_std_dev": stdev(values) if len(values) > 1 else None,
            }
        },
        "eval_result_details": [_details(card, values, undefined)],
        "sae_bench_commit_hash": f"none: made by labeler {__version__}, in the form of sae-bench 0.6",
        "sae_lens_id": sae_id,
        "sae_lens_release_id": release,
        "sae_lens_version": None,
        "sae_cfg_dict": {
            "architecture": card["sae"]["architecture"],
            "d_in": card["sae"]["d_in"],
            "d_sae": card["sae"]["n_features"],
            "model_name": card["subject"]["id"],
            "hookpoint": card["hookpoint"],
            "reads": card["reads"],
            "path": card["sae"]["path"],
            "format": card["sae"]["format"],
            "sha256": card["sae"]["sha256"],
        },
    }


def _config(card: dict[str, Any]) -> dict[str, Any]:
    recipe, contexts = card["recipe"], card["recipe"].get("contexts", {})
    known = {
        "model_name": card["subject"]["id"],
        "n_latents": card["coverage"][State.LABELED]["features"],
        "random_seed": recipe.get("seed"),
        "dataset_name": card["corpus"].get("spec"),
        "total_tokens": card["corpus"].get("n_tokens"),
        "llm_context_size": card["gathering"].get("sequence_tokens"),
        "llm_dtype": card["gathering"].get("dtype"),
        "scoring": True,
        "max_tokens_in_explanation": recipe["explainer"].get("max_tokens"),
        "n_top_ex_for_generation": contexts.get("explain_top"),
        "n_iw_sampled_ex_for_generation": contexts.get("explain_sampled"),
        "n_top_ex_for_scoring": contexts.get("held_out_top"),
        "n_random_ex_for_scoring": contexts.get("held_out_random"),
        "n_iw_sampled_ex_for_scoring": contexts.get("held_out_sampled"),
    }
    return {name: value for name, value in known.items() if value is not None}


def _details(card: dict[str, Any], values: list[float], undefined: dict[str, int]) -> dict[str, Any]:
    n_labeled = card["coverage"][State.LABELED]["features"]
    median = card["results"]["medians"].get(_SCORE)
    return {
        "measure": _MEASURE,
        "n_scored": len(values),
        "n_labeled": n_labeled,
        "n_undefined": n_labeled - len(values),
        "undefined": undefined,
        "median": median,  # the median of the labels, with its 95% interval
        "coverage": {state: c["features"] for state, c in card["coverage"].items()},
        "explainer": card["explainer"],
        "judges": [scorer for scorer in card["recipe"].get("scorers", ()) if scorer["kind"] == _SCORE],
        "recipe_hash": card["recipe"]["hash"],
        "claim": card["claim"],
    }


def _latents(store: Store, label_set_id: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the labels that have a score in SAEBench's form. The details count those without one."""
    for feature, label, scores in scan_detection(store, label_set_id):
        score = next(score for score in scores if score["name"] == _SCORE)
        rest = {"low": score.get("low"), "high": score.get("high"), "n": score.get("n")}
        yield feature, {"latent": feature, "explanation": label, "score": score["value"], **rest}


def _sae_lens_names(path: str) -> tuple[str | None, str | None]:
    """Return the release and the id in SAELens's registry, if the SAE was named by them."""
    release, slash, sae_id = path.removeprefix("sae-lens:").partition("/")
    return (release, sae_id) if path.startswith("sae-lens:") and slash else (None, None)
