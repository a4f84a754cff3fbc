"""One feature as in Neuronpedia's `GET /api/feature/{model}/{source}/{index}`, from labeler's evidence and label sets.

The keys are the columns of their tables; an unknown list is empty, as it is there. Explanations and
activations also carry `modelId`, `source`/`layer` and `index`, which their Python package reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import orjson

from labeler.errors import DamagedError, InputError
from labeler.evidence.directions import read_neighbours
from labeler.evidence.store import EvidenceFolder
from labeler.neuronpedia.layout import BOT, TOP, Place, place_of, time_text
from labeler.neuronpedia.rows import FeatureRows, Names, Row, explanation_row, score_rows
from labeler.neuronpedia.write import labeled_results
from labeler.store import LabelSetInfo, Store
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.choice import default_set

NOT_FOUND = "The model, source, or feature you specified is not available."
_SHA = 8  # characters of an SAE's hash after a source's name, to tell SAEs of one name apart

# Columns of their tables that labeler has no values for: empty, false and null are their defaults.
_UNKNOWN: Row = {
    "hasVector": False,
    "vector": [],
    "vectorLabel": None,
    "vectorDefaultSteerStrength": 10,
    "hookName": None,
    "neuron_alignment_indices": [],
    "neuron_alignment_values": [],
    "neuron_alignment_l1": [],
    "correlated_neurons_indices": [],
    "correlated_neurons_pearson": [],
    "correlated_neurons_l1": [],
    "correlated_features_indices": [],
    "correlated_features_pearson": [],
    "correlated_features_l1": [],
    "decoder_weights_dist": [],
    "umap_cluster": None,
    "umap_log_feature_sparsity": None,
    "umap_x": None,
    "umap_y": None,
    "lists": [],
    "comments": [],
}
_UNKNOWN_OF_ACTIVATION: Row = {
    "dfaValues": [],
    "dfaTargetIndex": None,
    "dfaMaxValue": None,
    "lossValues": [],
    "logitContributions": None,
    "qualifyingTokenIndex": None,
}


def mirror_feature(
    store: Store, folder_of: Callable[[str], EvidenceFolder], model: str, source: str, index: str
) -> bytes | None:
    """Return the answer as JSON, or None for an unknown model, source or feature.

    `source` is `<layer>-<set>` as in the export; of several SAEs with one name it is the newest, and
    `<layer>-<set>-<8 characters of the SAE's SHA-256>` is any of them. Without a readable evidence folder the facts
    and activations are missing, and what the database knows is there.
    """
    found = _find(store, model, source)
    if found is None or not re.fullmatch(r"\d{1,9}", index, re.ASCII):
        return None
    place, sae_id, n_features = found
    if int(index) >= n_features:
        return None
    sets = [store.label_set(s) for s in reversed(catalogue.sets_of(store, sae_id))]
    speaks = default_set(store, sae=sae_id, feature=int(index))
    sets.sort(key=lambda s: s.id != speaks)  # Neuronpedia's pages show the first
    answer = {
        **_frame(place, index, sets[0].created_at if sets else None),
        **_facts(folder_of, sets, place, int(index)),
        "explanations": _explanations(store, sets, place, int(index)),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _find(store: Store, model: str, source: str) -> tuple[Place, int, int] | None:
    for sae in catalogue.places_of_saes(store):
        place = place_of(sae.subject, sae.hookpoint, sae.path)
        if place is None or place.model != model:
            continue
        named = replace(place, set=f"{place.set}-{sae.sha256[:_SHA]}")
        for known in (place, named):
            if known.source == source:
                return known, sae.id, sae.n_features
    return None


def _facts(folder_of: Callable[[str], EvidenceFolder], sets: list[LabelSetInfo], place: Place, index: int) -> Row:
    """Return the facts of a feature from the newest evidence that is readable here."""
    for label_set in sets:
        try:
            folder = folder_of(label_set.evidence_path)
            rows = FeatureRows(folder, place, label_set.created_at)
        except DamagedError:
            raise
        except InputError:  # its folder is not on this machine
            continue
        near = read_neighbours(folder, index)
        return {
            **rows.feature(index),
            "topkCosSimIndices": [feature for feature, _ in near],
            "topkCosSimValues": [cosine for _, cosine in near],
            "activations": sorted(
                (_activation(row, place) for row in rows.activations(index)), key=lambda row: -float(row["maxValue"])
            ),
        }
    return {"activations": []}


def _activation(row: Row, place: Place) -> Row:
    # Their table marks the TOP group by -1, but their package refuses that and accepts null.
    top = dict.fromkeys(("binMin", "binMax", "binContains")) if row["binContains"] == TOP else {}
    return {**row, **top, **_UNKNOWN_OF_ACTIVATION, "source": place.source}


def _frame(place: Place, index: str, made: datetime | None) -> Row:
    created = None if made is None else time_text(made)
    owned = {"creatorId": BOT, "createdAt": created, "visibility": "PUBLIC"}
    return {
        **_UNKNOWN,
        "modelId": place.model,
        "layer": place.source,
        "index": str(int(index)),
        "sourceSetName": place.set,
        "creatorId": BOT,
        "createdAt": created,
        "maxActApprox": None,
        "frac_nonzero": None,
        "freq_hist_data_bar_heights": [],
        "freq_hist_data_bar_values": [],
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "pos_str": [],
        "pos_values": [],
        "neg_str": [],
        "neg_values": [],
        "topkCosSimIndices": [],
        "topkCosSimValues": [],
        "creator": {"name": "labeler"},
        "model": {"id": place.model, "displayName": place.model, "displayNameShort": place.model, **owned},
        "source": {"id": place.source, "modelId": place.model, "setName": place.set, **owned},
        "sourceSet": {"modelId": place.model, "name": place.set, "creatorName": "labeler", "urls": [], **owned},
    }


def _explanations(store: Store, sets: list[LabelSetInfo], place: Place, index: int) -> list[Row]:
    """Return the explanations of all label sets, in their order, each with its scores."""
    answers = []
    for label_set in sets:
        names = Names.of(store.recipe_of(label_set.id))
        for result in labeled_results(store, label_set.id, only=index):
            row = explanation_row(place, names, result)
            scores = list(score_rows(names, row["id"], result))
            del row["embedding"]
            answers.append({**row, "source": place.source, "scores": scores, "triggeredByUser": None})
    return answers
