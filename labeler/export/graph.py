"""Labels for the nodes of an attribution graph (circuit-tracer's graph files; Ameisen et al. 2025).

A node of a transcoder feature has `node_id` LAYER_FEATURE_POSITION, and the viewer shows its `clerp`: there a label
goes. Nodes of tokens, errors and logits are not features, and stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labeler.errors import FormatError, InputError
from labeler.records import State

_FEATURE_TYPES = frozenset(("cross layer transcoder", "unexplored node"))  # the viewer treats the second like the first
_NODE_ID = re.compile(r"(\d{1,4})_(\d{1,9})_(\d{1,7})", re.ASCII)
_LAYER = re.compile(r"(?:^|\.)(\d+)(?=[.+]|$)", re.ASCII)


@dataclass(frozen=True)
class Found:
    """The entry of one feature in a label set."""

    state: str
    label: str | None
    reason: str | None
    score: float | None


@dataclass(frozen=True)
class Labels:
    """A label set that names the features of one layer."""

    label_set: int
    hookpoint: str
    n_features: int
    look_up: Callable[
        [Sequence[int]], Mapping[int, Found]
    ]  # only features that it knows; a service returns only labels


@dataclass(frozen=True)
class Report:
    """The result for each node of a feature: labeled, kept, or without a label and why."""

    n_nodes: int
    n_labeled: int
    n_kept: int  # nodes that had a label already
    without: dict[str, str]  # node_id: the reason why it has no label

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.without.values())


def layer_of(hookpoint: str) -> int:
    """Read the layer from a module path such as `model.layers.12.mlp:input`. Raises InputError if there is none."""
    numbers = _LAYER.findall(re.split("[ :|]", hookpoint)[0])
    if len(numbers) != 1:
        raise InputError(f"hookpoint {hookpoint!r} does not name its layer: write LAYER=SET")
    return int(numbers[0])


def check_graph(graph: Any) -> None:
    """Raise FormatError for a file that is no graph."""
    _nodes(graph)


def label_nodes(
    graph: dict[str, Any], labels: Mapping[int, Labels], *, relabel: bool = False, min_score: float | None = None
) -> Report:
    """Write labels into the graph's nodes, by layer. Present labels are kept, unless `relabel`.

    Raises FormatError for a file that is no graph.
    """
    nodes = [node for node in _nodes(graph) if node.get("feature_type") in _FEATURE_TYPES]
    open_nodes = [node for node in nodes if relabel or not node.get("clerp")]
    numbers = _is_numbered_by_pairs(graph)
    places = {node["node_id"]: _place(node, numbers) for node in open_nodes}
    found = _look_up(places.values(), labels)
    without: dict[str, str] = {}
    for node in open_nodes:
        answer = _label(places[node["node_id"]], labels, found, min_score)
        if isinstance(answer, _No):
            without[node["node_id"]] = answer.reason
        else:
            node["clerp"] = shown(answer)
    return Report(len(nodes), len(open_nodes) - len(without), len(nodes) - len(open_nodes), without)


def shown(label: str) -> str:
    """Escape a label for the viewer, which writes tooltips as HTML. A label is text from a model."""
    return label.replace("<", "‹")


@dataclass(frozen=True)
class _No:
    reason: str


def _nodes(graph: Any) -> list[dict[str, Any]]:
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not isinstance(graph.get("metadata"), dict):
        raise FormatError("expected an attribution graph of circuit-tracer: an object with metadata, nodes and links")
    for number, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("node_id"), str):
            raise FormatError(f"node {number} has no node_id: expected an attribution graph of circuit-tracer")
    return nodes


def _is_numbered_by_pairs(graph: dict[str, Any]) -> bool:
    """Say whether `feature` is the Cantor pairing of layer and index, as it is since version 1 of the format."""
    version = graph["metadata"].get("schema_version")
    return isinstance(version, int) and version >= 1


def _place(node: dict[str, Any], numbered_by_pairs: bool) -> tuple[int, int] | _No:
    """Return (layer, feature index) of a node."""
    match = _NODE_ID.fullmatch(node["node_id"])
    if match is None:
        return _No("its node_id is not LAYER_FEATURE_POSITION")
    layer, feature = int(match[1]), int(match[2])
    if str(node.get("layer")) != str(layer):
        return _No(f"its node_id is of layer {layer}, and its layer is {node.get('layer')}")
    if numbered_by_pairs and node.get("feature") != cantor(layer, feature):
        return _No("its node_id and its feature number are of different features")
    return layer, feature


def cantor(x: int, y: int) -> int:
    """Return the number of a feature in graph files: one for each (layer, index)."""
    return (x + y) * (x + y + 1) // 2 + y


def _look_up(places: Any, labels: Mapping[int, Labels]) -> dict[tuple[int, int], Found]:
    wanted: dict[int, set[int]] = {}
    for place in places:
        if not isinstance(place, _No) and place[0] in labels and place[1] < labels[place[0]].n_features:
            wanted.setdefault(place[0], set()).add(place[1])
    return {
        (layer, feature): found
        for layer, features in wanted.items()
        for feature, found in labels[layer].look_up(sorted(features)).items()
    }


def _label(
    place: tuple[int, int] | _No,
    labels: Mapping[int, Labels],
    found: Mapping[tuple[int, int], Found],
    min_score: float | None,
) -> str | _No:
    if isinstance(place, _No):
        return place
    layer, feature = place
    if layer not in labels:
        return _No(f"no label set was given for layer {layer}")
    of = labels[layer]
    if feature >= of.n_features:
        return _No(
            f"label set {of.label_set} (layer {layer}) is of an SAE with {of.n_features:,} features: is it of another SAE?"
        )
    result = found.get(place)
    if result is None:
        return _No(f"label set {of.label_set} (layer {layer}) has no label for it")
    if result.label is None:
        return _No(f"{result.state}: {result.reason}" if result.state != State.PENDING else "not labeled yet")
    if min_score is not None and (result.score is None or result.score < min_score):
        return _No(f"its label has no score of {min_score:g} or more")
    return result.label
