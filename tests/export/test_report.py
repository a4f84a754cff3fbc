"""The report: safe with hostile texts, complete in one file, and saying the numbers of the records."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from labeler.export.charts import HEIGHT, density_chart, score_chart
from labeler.export.report import COLUMNS, SHOWN, write_report
from labeler.numbers import number, share
from labeler.records import (
    HISTOGRAM_EDGES,
    Context,
    FeatureStatistics,
    Label,
    LabeledFeature,
    Score,
    Simulation,
    Source,
    Split,
    State,
    Usage,
)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--"
MANIFEST = {
    "subject": {"id": "tiny-lm", "revision": "sha256:0123456789abcdef"},
    "hookpoint": "model.layers.3",
    "reads": "output",
    "sae": {"path": "saes/tiny", "architecture": "topk", "n_features": 64},
    "corpus": {"spec": "letters", "n_tokens": 5000, "n_documents": 12},
    "quality": {"l0": 16.0, "explained_variance": 0.905, "dead_share": 0.0, "rare_share": 0.007},
}


def statistics(n_firings: int = 40) -> FeatureStatistics:
    histogram = [0] * (len(HISTOGRAM_EDGES) + 1)
    histogram[25] = n_firings
    splits = {Split.EXPLAIN: n_firings // 2, Split.HELD_OUT: n_firings - n_firings // 2}
    return FeatureStatistics(
        5000,
        n_firings,
        160,
        n_firings,
        splits,
        {Split.EXPLAIN: 96, Split.HELD_OUT: 64},
        mean=2.0,
        max=8.0,
        histogram=tuple(histogram),
    )


def context(
    tokens: tuple[str, ...], activations: tuple[float, ...], source: Source, split: Split, start: int
) -> Context:
    return Context(start, 7, split, source, tuple(range(len(tokens))), tokens, activations)


def held_out(source: Source = Source.TOP, start: int = 0, tokens: tuple[str, ...] = ("a", "\n", " Q")) -> Simulation:
    return Simulation(context(tokens, (0.0, 0.0, 3.14159), source, Split.HELD_OUT, start), (0.0, 1.0, 9.0))


def labeled(
    index: int,
    score: Score,
    *,
    text: str = "the letter Q",
    explainer: str = "openai:m",
    simulations: tuple[Simulation, ...] = (),
) -> LabeledFeature:
    return LabeledFeature(
        index,
        State.LABELED,
        statistics(),
        None,
        Label(text, explainer),
        (score,),
        simulations or (held_out(),),
        Usage(2, 100, 10, 0.01),
    )


def scored(value: float, baseline: float | None = 0.5, p: float | None = 0.04) -> Score:
    return Score("simulation", value, None, value - 0.1, value + 0.05, 20, 1, 3.3, p, 20, baseline, 0.02)


class Page(HTMLParser):
    """A page as a browser reads it: elements, attributes, texts of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.text = ""
        self._inside: str | None = None
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.text += " "
        self._inside = f"{tag}#{attributes.get('id') or ''}" if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside] = self.raw.get(self._inside, "") + data
        else:
            self.text += data

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [dict(zip(COLUMNS, row, strict=True)) for row in json.loads(self.raw["script#data"])["rows"]]

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw["script#details"])
        return found

    def words(self) -> str:
        return " ".join(self.text.split())


def page(tmp_path: Path, *features: LabeledFeature, **options: Any) -> Page:
    options = {"manifest": MANIFEST, "card": {}} | options
    write_report(tmp_path / "report.html", features=features, **options)
    return Page(tmp_path / "report.html")


def test_hostile_labels_tokens_and_reasons_stay_text(tmp_path: Path) -> None:
    token_soup = held_out(tokens=(HOSTILE, "\x1b[31m", "\ud800"))
    unscored = Score("simulation", None, HOSTILE)
    failed = LabeledFeature(2, State.FAILED, statistics(), HOSTILE)
    hostile_manifest = MANIFEST | {"subject": {"id": HOSTILE}}
    found = page(
        tmp_path,
        labeled(0, scored(0.7), text=HOSTILE, simulations=(token_soup,)),
        labeled(1, unscored),
        failed,
        manifest=hostile_manifest,
        card={"note": HOSTILE},
    )
    assert [tag for tag, _ in found.elements].count("script") == 3
    assert "img" not in {tag for tag, _ in found.elements}
    assert "<!--" not in found.source
    assert found.rows[0]["label"] == HOSTILE
    assert found.rows[1]["score_reason"] == HOSTILE
    assert found.rows[2]["reason"] == HOSTILE
    assert found.details["tokens"][:3] == [HOSTILE, "\x1b[31m", "\ud800"]


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    found = page(tmp_path, labeled(0, scored(0.7)))
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|import\(|fetch\(", found.source)
    assert not [
        (tag, a) for tag, a in found.elements if {"src", "href", "style"} & a.keys() or tag in ("link", "iframe")
    ]
    assert not [(tag, name) for tag, a in found.elements for name in a if name.startswith("on")]


def test_the_policy_admits_exactly_the_pages_own_style_and_script(tmp_path: Path) -> None:
    found = page(tmp_path, labeled(0, scored(0.7)))
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")

    def hashed(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert policy == (
        f"default-src 'none'; style-src '{hashed(found.raw['style#'])}'; script-src '{hashed(found.raw['script#'])}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_script_renders_text_only() -> None:
    script = (Path(__file__).parents[2] / "labeler/export/templates/report.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_rows_equal_the_records(tmp_path: Path) -> None:
    feature = labeled(3, scored(0.7123456789, baseline=0.123456789))
    row = page(tmp_path, feature).rows[0]
    score, s = feature.scores[0], feature.statistics
    assert row == {
        "feature_index": 3,
        "state": "labeled",
        "label": "the letter Q",
        "reason": None,
        "score": score.value,
        "score_reason": None,
        "low": score.low,
        "high": score.high,
        "n": 20,
        "n_failed": 1,
        "null_z": 3.3,
        "null_p": 0.04,
        "null_n": 20,
        "null_mean": 0.02,
        "baseline": score.baseline_token_lookup,
        "weighted": None,
        "weighted_reason": None,
        "density": s.density,
        "n_firings": 40,
        "n_firing_windows": 40,
        "mean": 2.0,
        "max": 8.0,
    }


def test_contexts_come_back_from_the_compact_form(tmp_path: Path) -> None:
    seen = context(("a", " Q"), (0.0, 7.98765), Source.TOP, Split.EXPLAIN, 900)
    unread = Simulation(context(("x",), (0.0,), Source.RANDOM, Split.HELD_OUT, 5), None, "malformed: 2 for 1")
    feature = labeled(3, scored(0.7), simulations=(held_out(), unread))
    details = page(tmp_path, feature, evidence_contexts=lambda _: (seen,)).details
    groups = {(g["source"], g["split"]): g["contexts"] for g in details["features"]["3"]["groups"]}
    texts = details["tokens"]
    [[document, ids, firing]] = groups["top", "explain"]
    assert (document, [texts[i] for i in ids], firing) == (7, ["a", " Q"], [1, 7.99])
    [[_, ids, firing, simulated]] = groups["top", "held_out"]
    assert ([texts[i] for i in ids], firing, simulated) == (["a", "\n", " Q"], [2, 3.14], [1, 1, 2, 9])
    assert groups["random", "held_out"][0][3] == "malformed: 2 for 1"
    assert len(texts) == len(set(texts))
    assert details["features"]["3"]["histogram"] == [[25, 40]]


def test_sampled_contexts_are_spread_over_weak_and_strong(tmp_path: Path) -> None:
    simulations = tuple(
        Simulation(context(("t",), (float(peak),), Source.SAMPLED, Split.HELD_OUT, peak), (1.0,))
        for peak in range(9, 0, -1)
    )
    [group] = page(tmp_path, labeled(0, scored(0.7), simulations=simulations)).details["features"]["0"]["groups"]
    peaks = [firing[1] for _, _, firing, _ in group["contexts"]]
    assert len(peaks) == SHOWN[Source.SAMPLED, Split.HELD_OUT]
    assert (peaks[0], peaks[-1], group["total"]) == (9, 1, 9)


def test_an_undefined_score_has_its_reason_and_is_never_zero(tmp_path: Path) -> None:
    undefined = labeled(0, Score("simulation", None, "the simulation is constant"))
    unmade = LabeledFeature(1, State.LABELED, statistics(), None, Label("x", "openai:m"))
    found = page(tmp_path, undefined, unmade, labeled(2, scored(0.8)), labeled(3, scored(0.6)))
    assert [(r["score"], r["score_reason"]) for r in found.rows[:2]] == [
        (None, "the simulation is constant"),
        (None, "no simulation score was made"),
    ]
    assert "2 undefined, not drawn: the simulation is constant (1); no simulation score was made (1)" in found.words()
    assert "Median score 0.70 " in found.words()
    assert "2 scored, 2 undefined" in found.words()


def test_tiles_count_what_they_say(tmp_path: Path) -> None:
    features = [labeled(i, scored(0.9 if i < 3 else 0.2, baseline=0.5)) for i in range(4)]
    silent = LabeledFeature(4, State.SILENT, statistics(0), "never fired")
    without_baseline = LabeledFeature(
        5, State.LABELED, statistics(), None, Label("x", "openai:m"), (scored(0.9, None),)
    )
    words = page(tmp_path, *features, silent, without_baseline).words()
    assert "5 of 6 labeled; the SAE has 64" in words
    assert "75% 3 of 4 labels score above it" in words
    assert "5 of 5 at a false-discovery rate of 5%; p cannot be below 0.048 with 20 null labels" in words
    assert "variance explained 90.5% never fired 0%" in words
    assert "$0.04 8 requests, 400 tokens in, 40 out" in words


def test_the_cross_entropy_recovered_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    assert "cross-entropy recovered" not in page(tmp_path, labeled(0, scored(0.7))).words()
    quality = MANIFEST["quality"] | {"cross_entropy_recovered": 0.974}  # type: ignore[operator]
    measured = page(tmp_path, labeled(0, scored(0.7)), manifest=MANIFEST | {"quality": quality})
    assert "cross-entropy recovered 97.4%" in measured.words()
    undefined = MANIFEST | {"quality": quality | {"cross_entropy_recovered": None}}
    assert "cross-entropy recovered —" in page(tmp_path, labeled(0, scored(0.7)), manifest=undefined).words()


def test_an_unknown_price_is_not_zero(tmp_path: Path) -> None:
    feature = LabeledFeature(0, State.FAILED, statistics(), "refused", usage=Usage(1, 10, 2, None))
    words = page(tmp_path, feature).words()
    assert "price unknown 1 requests" in words
    assert "$0.00" not in words


@pytest.mark.parametrize(("explainer", "said"), [("lookup", True), ("openai:m", False)])
def test_a_lookup_label_set_says_that_it_is_the_baseline(tmp_path: Path, explainer: str, said: bool) -> None:
    words = page(tmp_path, labeled(0, scored(0.5), explainer=explainer)).words()
    assert ("These labels are the baseline." in words) is said
    assert ("of 1 labels score above it" in words) is not said


def test_every_feature_has_its_details_in_the_order_of_features(tmp_path: Path) -> None:
    found = page(tmp_path, *(labeled(i, scored(i / 100)) for i in (7, 2, 30)))
    assert list(found.details["features"]) == ["2", "7", "30"]


def test_a_page_of_nothing_known_is_still_a_page(tmp_path: Path) -> None:
    words = page(tmp_path, manifest={}, card={}).words()
    assert "0 features and their labels" in words
    assert "variance explained —" in words


def test_score_chart_counts_every_score_once() -> None:
    chart = score_chart([0.0, 0.05, 0.1, 0.95, 1.0, -0.15])
    assert [bar.title for bar in chart.bars] == ["−0.2 to −0.1: 1", "0.0 to 0.1: 2", "0.1 to 0.2: 1", "0.9 to 1.0: 2"]
    assert [bar.height for bar in chart.bars] == [HEIGHT / 2, HEIGHT, HEIGHT / 2, HEIGHT]
    assert score_chart([-0.9]).ticks[0] == (0.0, "−1")


def test_density_chart_counts_every_density_once() -> None:
    chart = density_chart([0.001, 0.0012, 0.01, 1.0])
    assert [int(bar.title.rsplit(" ", 1)[1]) for bar in chart.bars] == [2, 1, 1]
    assert [text for _, text in chart.ticks] == ["0.1%", "1%", "10%", "100%", "1000%"][: len(chart.ticks)]


def test_numbers_as_shown() -> None:
    assert [number(x) for x in (0.714, -0.25, -0.001, None)] == ["0.71", "−0.25", "0.00", "—"]
    assert [share(x) for x in (0.0, 0.05, 0.4, 0.9053, 1.0, None)] == ["0%", "5%", "40%", "90.5%", "100%", "—"]
