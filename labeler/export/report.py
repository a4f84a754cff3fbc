"""A label set as one self-contained HTML page: no network, no other file, readable years from now.

The page is drawn from two JSON blocks: a row for every feature, and the contexts of each. It suits label sets of a few
thousand features, such as the demo's: all of them are in memory at once, and in the page. Everything that came from a
model or a corpus reaches the page as JSON text, and from there only as text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from labeler.export.charts import density_chart, score_chart
from labeler.files import write_atomically
from labeler.headline import headline
from labeler.numbers import count, number, share
from labeler.records import HISTOGRAM_EDGES, Context, LabeledFeature, Score, Source, Split, State, Usage
from labeler.score.null import benjamini_hochberg

ReadContexts = Callable[[int], Sequence[Context]]

FALSE_DISCOVERY_RATE = 0.05
# Contexts shown per feature, by source and split: enough to judge a label by eye at about 2 KB per feature.
SHOWN = {
    (Source.TOP, Split.EXPLAIN): 3,
    (Source.TOP, Split.HELD_OUT): 2,
    (Source.SAMPLED, Split.EXPLAIN): 2,
    (Source.SAMPLED, Split.HELD_OUT): 2,
    (Source.RANDOM, Split.EXPLAIN): 1,
    (Source.RANDOM, Split.HELD_OUT): 2,
    (Source.HARD, Split.EXPLAIN): 1,
    (Source.HARD, Split.HELD_OUT): 2,
}
COLUMNS = (
    "feature_index",
    "state",
    "label",
    "reason",
    "score",
    "score_reason",
    "low",
    "high",
    "n",
    "n_failed",
    "null_z",
    "null_p",
    "null_n",
    "null_mean",
    "baseline",
    "weighted",
    "weighted_reason",
    "density",
    "n_firings",
    "n_firing_windows",
    "mean",
    "max",
)

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    path: Path,
    manifest: Mapping[str, Any],
    card: Mapping[str, Any],
    features: Iterable[LabeledFeature],
    evidence_contexts: ReadContexts | None = None,
) -> None:
    """Write a label set as one HTML file.

    `features` is read once. `evidence_contexts` returns the contexts of a feature's evidence, to show what the explainer saw
    beside what the simulations already hold.
    Raises StorageError where `path` cannot be written.
    """
    summary, shown = Summary(), list[_Cut]()
    for feature in features:
        summary.add(feature)
        shown.append(_cut(feature))
    page = render(manifest, card, summary, embed_details(shown, evidence_contexts))
    # A lone surrogate cannot be UTF-8; inside the JSON its backslash escape is the same character again.
    write_atomically(path, page.encode("utf-8", errors="backslashreplace"))


# All features together


@dataclass
class Summary:
    """One row per feature, and the sums over all of them."""

    rows: list[list[Any]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    explainers: Counter[str] = field(default_factory=Counter)

    def add(self, feature: LabeledFeature) -> None:
        self.rows.append(_row(feature))
        self.usage += feature.usage
        if feature.label is not None:
            self.explainers[feature.label.explainer] += 1

    def column(self, name: str) -> list[Any]:
        i = COLUMNS.index(name)
        return [row[i] for row in self.rows]

    @property
    def is_lookup(self) -> bool:
        """Say whether every label is the look-up baseline itself."""
        return set(self.explainers) == {"lookup"}

    @property
    def states(self) -> dict[str, int]:
        counts = Counter(self.column("state"))
        return {state.value: counts[state.value] for state in State if counts[state.value]}

    @property
    def scores(self) -> list[float]:
        return [s for s in self.column("score") if s is not None]

    @property
    def undefined(self) -> dict[str, int]:
        """Count the labels without a score, by reason."""
        return dict(Counter(r for r in self.column("score_reason") if r is not None).most_common())

    @property
    def against_baseline(self) -> tuple[int, int]:
        """Count the labels that score above the look-up baseline, and those for which both scores are defined."""
        pairs = [
            (s, b)
            for s, b in zip(self.column("score"), self.column("baseline"), strict=True)
            if s is not None and b is not None
        ]
        return sum(s > b for s, b in pairs), len(pairs)

    @property
    def discoveries(self) -> tuple[int, int]:
        """Count the labels that beat labels of other features at the false-discovery rate, and the labels tested."""
        rates = [q for q in benjamini_hochberg(self.column("null_p")) if q is not None]
        return sum(q <= FALSE_DISCOVERY_RATE for q in rates), len(rates)

    @property
    def n_null(self) -> int:
        return max(self.column("null_n"), default=0)

    @property
    def least_p(self) -> float | None:
        """Return the smallest p-value possible with this many null labels. A small null hides discoveries."""
        return 1 / (1 + self.n_null) if self.n_null else None


def _row(feature: LabeledFeature) -> list[Any]:
    """Return the values of COLUMNS. A label without a score has a reason, and so has a feature without a label."""
    statistics, score, weighted = feature.statistics, feature.score("simulation"), feature.score("simulation_weighted")
    made = score or Score("simulation", None, "no simulation score was made")
    return [
        feature.feature_index,
        feature.state.value,
        feature.label and feature.label.text,
        feature.reason,
        _number(made.value),
        made.reason if feature.label is not None else None,
        _number(made.low),
        _number(made.high),
        made.n,
        made.n_failed,
        _number(made.null_z),
        _number(made.null_p),
        made.null_n,
        _number(made.null_mean),
        _number(made.baseline_token_lookup),
        weighted and _number(weighted.value),
        weighted and weighted.reason,
        statistics.density,
        statistics.n_firings,
        statistics.n_firing_windows,
        _number(statistics.mean),
        _number(statistics.max),
    ]


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# The contexts


@dataclass(frozen=True)
class _Cut:
    """A feature with the simulations that are shown, and with the scale and the number of all of them."""

    feature: LabeledFeature
    n_held_out: Counter[Source]
    highest_prediction: float


def _cut(feature: LabeledFeature) -> _Cut:
    simulations = feature.simulations
    predictions = (max(s.predicted, default=0.0) for s in simulations if s.predicted is not None)
    shown = [
        s
        for source in Source
        for s in _shown([s for s in simulations if s.context.source is source], source, Split.HELD_OUT)
    ]
    return _Cut(
        replace(feature, simulations=tuple(shown)),
        Counter(s.context.source for s in simulations),
        max(predictions, default=0.0),
    )


def _shown(members: Sequence[Any], source: Source, split: Split) -> list[Any]:
    """Choose the first contexts; of SAMPLED ones, which are sorted by peak, choose evenly from strong to weak."""
    n = min(SHOWN[source, split], len(members))
    if source is not Source.SAMPLED or n < 2:
        return list(members[:n])
    return [members[round(i * (len(members) - 1) / (n - 1))] for i in range(n)]


def embed_details(shown: Iterable[_Cut], evidence_contexts: ReadContexts | None) -> dict[str, Any]:
    """Return the contexts of features as JSON: token texts once, contexts as indices into them, sparse activations."""
    tokens: dict[str, int] = {}
    features = {}
    for cut in sorted(shown, key=lambda cut: cut.feature.feature_index):
        index = cut.feature.feature_index
        gathered = evidence_contexts(index) if evidence_contexts is not None else ()
        features[str(index)] = _detail(cut, gathered, tokens)
    return {"tokens": list(tokens), "features": features}


def _detail(cut: _Cut, gathered: Sequence[Context], tokens: dict[str, int]) -> dict[str, Any]:
    feature = cut.feature
    groups = []
    for source in Source:
        explain = [c for c in gathered if c.source is source and c.split is Split.EXPLAIN]
        shown = [_context(c, tokens) for c in _shown(explain, source, Split.EXPLAIN)]
        groups += [_group(source, Split.EXPLAIN, len(explain), shown)]
        shown = [
            [*_context(s.context, tokens), s.reason if s.predicted is None else _sparse(s.predicted)]
            for s in feature.simulations
            if s.context.source is source
        ]
        groups += [_group(source, Split.HELD_OUT, cut.n_held_out[source], shown)]
    return {
        "histogram": [[i, n] for i, n in enumerate(feature.statistics.histogram) if n],
        "scores": [[s.name, _number(s.value), s.reason, _number(s.low), _number(s.high), s.n] for s in feature.scores],
        "highest_prediction": cut.highest_prediction,
        "groups": [g for g in groups if g["contexts"]],
    }


def _group(source: Source, split: Split, total: int, contexts: list[Any]) -> dict[str, Any]:
    return {"source": source.value, "split": split.value, "total": total, "contexts": contexts}


def _context(context: Context, tokens: dict[str, int]) -> list[Any]:
    """Return [document, token indices, sparse activations]."""
    ids = [tokens.setdefault(text, len(tokens)) for text in context.tokens]
    return [context.document, ids, _sparse(context.activations)]


def _sparse(values: Sequence[float]) -> list[float]:
    """Return [place, value, place, value, ...] of all nonzero values, to 3 significant digits."""
    return [x for i, v in enumerate(values) if v for x in (i, _three_digits(v))]


def _three_digits(value: float) -> float:
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() else rounded


# The page


def render(manifest: Mapping[str, Any], card: Mapping[str, Any], summary: Summary, details: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "share": share, "number": number, "headline": headline}
    css, js = ((_TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    data = {"columns": COLUMNS, "rows": summary.rows, "edges": HISTOGRAM_EDGES, "is_lookup": summary.is_lookup}
    return environment.get_template("report.html.j2").render(
        css=Markup(css),
        js=Markup(js),
        policy=f"default-src 'none'; style-src '{_sha256(css)}'; script-src '{_sha256(js)}'; "
        "base-uri 'none'; form-action 'none'",
        data=_safe_json(data),
        details=_safe_json(details),
        about=about(manifest, card, summary),
        provenance=[("evidence", list(_flat(manifest))), ("label set", list(_flat(card)))],
        summary=summary,
        quality=_mapping(manifest.get("quality")),
        n_features=_mapping(manifest.get("sae")).get("n_features"),
        spread=_spread(summary.scores),
        score_chart=score_chart(summary.scores),
        density_chart=density_chart([d for d in summary.column("density") if d]),
        state_words=_STATE_WORDS,
        rate=FALSE_DISCOVERY_RATE,
    )


_STATE_WORDS = {
    "labeled": "have a label",
    "silent": "never fired",
    "rare": "too little evidence",
    "failed": "no usable answer",
    "pending": "not yet tried",
}


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _safe_json(value: Any) -> Markup:
    """Write JSON that no HTML parser can leave: `</script>` and `<!--` need a `<`, and there is none."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def about(manifest: Mapping[str, Any], card: Mapping[str, Any], summary: Summary) -> dict[str, str]:
    """Return the lines of the header: subject, SAE, corpus and models. Unknown ones are left out."""
    subject, sae, corpus = (_mapping(manifest.get(k)) for k in ("subject", "sae", "corpus"))
    recipe = _mapping(card.get("recipe"))
    lines = {
        "Subject": _joined(subject.get("id"), _short(subject.get("revision"))),
        "Hookpoint": _joined(manifest.get("hookpoint"), manifest.get("reads")),
        "Writes to": ", ".join(map(str, manifest.get("writes") or ())),
        "SAE": _joined(_name(sae.get("path")), sae.get("architecture"), _counted(sae.get("n_features"), "features")),
        "Corpus": _joined(
            _name(corpus.get("spec")),
            _counted(corpus.get("n_tokens"), "tokens"),
            _counted(corpus.get("n_documents"), "documents"),
        ),
        "Explainer": ", ".join(sorted(summary.explainers)) or _config_name(recipe.get("explainer")),
        "Simulator": _config_name(recipe.get("simulator")),
        "Recipe": str(recipe.get("hash") or ""),
        "Written": str(card.get("created_at") or datetime.now(UTC).isoformat(timespec="minutes")),
    }
    return {name: text for name, text in lines.items() if text}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _joined(*parts: Any) -> str:
    return " · ".join(str(p) for p in parts if p)


def _counted(n: Any, what: str) -> str:
    return f"{n:,} {what}" if isinstance(n, int) else ""


def _short(revision: Any) -> str:
    return str(revision).removeprefix("sha256:")[:12] if revision else ""


def _name(value: Any) -> str:
    return str(value).rstrip("/").rsplit("/", 1)[-1] if value else ""


def _config_name(config: Any) -> str:
    if isinstance(config, Mapping):
        return ":".join(str(config[k]) for k in ("kind", "model") if config.get(k))
    return str(config or "")


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, str):
            yield before + str(name), value
        else:
            yield before + str(name), json.dumps(value, default=str, ensure_ascii=False)


def _spread(scores: Sequence[float]) -> dict[str, float] | None:
    if not scores:
        return None
    low, _, high = quantiles(scores, n=4, method="inclusive") if len(scores) > 1 else (scores[0],) * 3
    return {"median": median(scores), "low": low, "high": high}
