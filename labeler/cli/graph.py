"""`labeler graph` labels the nodes of an attribution graph, from a database or a running service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from labeler.cli.app import app
from labeler.cli.options import Database, Json, Url, check_out_file, say, store_at
from labeler.errors import InputError

if TYPE_CHECKING:
    from labeler.client import Client
    from labeler.export.graph import Found, Labels, Report
    from labeler.export.scans import KnownSae
    from labeler.store import Store

_SHOWN = 3  # nodes named per reason


@app.command()
def graph(
    graph: Annotated[Path, typer.Argument(help="A graph file of circuit-tracer.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The graph with its labels.")],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            metavar="SET|LAYER=SET",
            help="A label set for a layer; once for each layer. Without LAYER=, the hookpoint of the set says the layer. "
            "Default: those of the SAEs that the graph names.",
        ),
    ] = None,
    relabel: Annotated[bool, typer.Option("--relabel", help="Replace labels that nodes have already.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace --out if it exists.")] = False,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out labels with a lower score, or without one.")
    ] = None,
    db: Database = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Write labels into an attribution graph for its viewer, and say which nodes got none and why."""
    from labeler.export.graph import label_nodes
    from labeler.files import read_json, write_atomically

    if out.exists() and not force:
        raise InputError(f"{out} is there already: name another --out, or replace it with --force")
    check_out_file(out)
    read = read_json(graph)
    with sources(db, url) as source:
        by_layer = _by_layer(labels, source) if labels else _found_by_scan(read, source)
        report = label_nodes(read, by_layer, relabel=relabel, min_score=min_score)
    write_atomically(out, (json.dumps(read, indent=2, ensure_ascii=False) + "\n").encode())
    if as_json:
        typer.echo(json.dumps(_described(report, by_layer, out)))
    else:
        _tell(report, by_layer, out)


def _by_layer(given: Sequence[str], source: LabelSource) -> dict[int, Labels]:
    from labeler.export.graph import layer_of

    chosen: dict[int, Labels] = {}
    for words in given:
        layer, equals, label_set = words.rpartition("=")
        if not label_set.isdecimal() or (equals and not layer.isdecimal()):
            raise InputError(f"--labels {words!r}: expected the id of a label set, or LAYER=ID, such as 12=3")
        found = source.labels(int(label_set))
        place = int(layer) if layer else layer_of(found.hookpoint)
        if place in chosen:
            raise InputError(f"--labels: layer {place} has two label sets, {chosen[place].label_set} and {label_set}")
        chosen[place] = found
    return chosen


def _found_by_scan(graph: Any, source: LabelSource) -> dict[int, Labels]:
    """Return the default label set of each SAE that the graph names. Raises InputError where there is none."""
    from labeler.export.graph import check_graph
    from labeler.export.scans import none_found, saes_by_layer, scans_of

    check_graph(graph)
    scans = scans_of(graph)
    saes = saes_by_layer(scans, source.saes())
    if not saes:
        raise none_found(scans)
    return {layer: source.labels(source.default_set(sae.id)) for layer, sae in saes.items()}


class LabelSource(Protocol):
    """The place where label sets are: a database or a service."""

    def labels(self, label_set: int) -> Labels: ...
    def saes(self) -> Iterable[KnownSae]: ...
    def default_set(self, sae: int) -> int: ...


@contextmanager
def sources(db: str | None, url: str | None) -> Iterator[LabelSource]:
    """Open the service at `url`, or the database."""
    if url is not None:
        from labeler.client import Client

        with Client(url) as client:
            yield _OfService(client)
        return
    store = store_at(db)
    try:
        yield _OfDatabase(store)
    finally:
        store.close()


class _OfDatabase:
    def __init__(self, store: Store) -> None:
        self._store = store

    def labels(self, label_set: int) -> Labels:
        from labeler.export.graph import Labels
        from labeler.store.label_sets.catalogue import find_set
        from labeler.store.label_sets.queries import labels_at

        info = find_set(self._store, label_set)

        def look_up(features: Sequence[int]) -> Mapping[int, Found]:
            return _found(labels_at(self._store, [(info.id, feature) for feature in features]))

        return Labels(info.id, info.hookpoint, info.n_features, look_up)

    def saes(self) -> Iterable[KnownSae]:
        from labeler.export.scans import KnownSae
        from labeler.store.label_sets.catalogue import manifests_of_saes

        return [KnownSae.of(sae, manifest) for sae, manifest in manifests_of_saes(self._store).items()]

    def default_set(self, sae: int) -> int:
        from labeler.store.label_sets.choice import default_set

        chosen = default_set(self._store, sae=sae)
        assert chosen is not None, "only SAEs with label sets are listed"
        return chosen


class _OfService:
    def __init__(self, client: Client) -> None:
        self._client = client

    def labels(self, label_set: int) -> Labels:
        from labeler.export.graph import Labels

        info = self._client.set(label_set)

        def look_up(features: Sequence[int]) -> Mapping[int, Found]:
            pairs = [(info.sae_id, feature) for feature in features]
            found = self._client.lookup(pairs, sets=[info.id])
            return _found([None if label is None else label.model_dump() for label in found])

        return Labels(info.id, info.hookpoint, info.n_features, look_up)

    def saes(self) -> Iterable[KnownSae]:
        from labeler.export.scans import KnownSae

        evidence = {s.sae_id: s.evidence_id for s in self._client.sets()}
        return [KnownSae.of(sae, self._client.evidence_detail(of).manifest) for sae, of in evidence.items()]

    def default_set(self, sae: int) -> int:
        return self._client.default_set(sae=sae).id


def _found(rows: Sequence[Mapping[str, Any] | None]) -> dict[int, Found]:
    from labeler.export.graph import Found

    names = ("state", "label", "reason", "score")
    return {row["feature_index"]: Found(**{name: row[name] for name in names}) for row in rows if row is not None}


def _described(report: Report, by_layer: Mapping[int, Labels], out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "nodes": report.n_nodes,
        "labeled": report.n_labeled,
        "kept": report.n_kept,
        "without": report.without,
        "layers": {layer: {"label_set": of.label_set, "hookpoint": of.hookpoint} for layer, of in by_layer.items()},
    }


def _tell(report: Report, by_layer: Mapping[int, Labels], out: Path) -> None:
    from labeler.terminal import visible

    for layer, of in sorted(by_layer.items()):
        say(f"layer {layer}: label set {of.label_set}, {visible(of.hookpoint)}, {of.n_features:,} features")
    kept = f", {report.n_kept:,} keep the label they had" if report.n_kept else ""
    say(f"{report.n_labeled:,} of {report.n_nodes:,} nodes of features have a label now{kept}: {out}")
    for reason, n in report.reasons.most_common():
        nodes = [visible(node) for node, why in report.without.items() if why == reason][:_SHOWN]
        say(f"no label for {n:,}: {visible(reason)} ({', '.join(nodes)}{', ...' if n > _SHOWN else ''})")
