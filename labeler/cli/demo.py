"""`labeler demo`: gather, label, export and report on the model that comes with the package."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from labeler.bundled import CORPUS, SAE, SUBJECT
from labeler.evidence.progress import Progress, step
from labeler.evidence.store import EvidenceFolder
from labeler.export.card import build_card
from labeler.export.export import export_label_set
from labeler.export.report import write_report
from labeler.names import with_names
from labeler.pipeline import gather_evidence
from labeler.recipe import GatherConfig, Recipe
from labeler.records import Context, LabeledFeature, State
from labeler.sae import load_sae
from labeler.store import Store, open_store
from labeler.subject.corpus import open_corpus
from labeler.subject.model import load_subject
from labeler.terminal import coverage_table, label_table, painted, quality_table, score_histogram
from labeler.views import explained, in_characters, read_result, read_results, result_in_characters

_SHOWN = 10


def gather_demo(out: Path, n_tokens: int, on_progress: Progress) -> Path:
    """The evidence of the demo's SAE on the standard library of this interpreter."""
    with step(on_progress, f"load {SUBJECT}"):
        subject, sae = load_subject(SUBJECT), load_sae(SAE)
    return gather_evidence(
        subject,
        sae,
        open_corpus(CORPUS),
        GatherConfig(n_tokens=n_tokens),
        out / "evidence",
        on_progress=on_progress,
    )


def finish_demo(out: Path, evidence: Path, database: str, label_set: int, console: Console) -> None:
    """Leave the exports, the card and the report in `out`, and show what there is to see."""
    store, folder = open_store(database), EvidenceFolder(evidence)
    for kind in ("jsonl", "csv", "parquet"):
        export_label_set(store, label_set, kind, out / f"labels.{kind}")
    _write_report(out, store, folder, label_set)
    _show(console, store, folder, label_set)


def _write_report(out: Path, store: Store, folder: EvidenceFolder, label_set: int) -> None:
    recipe = Recipe.from_dict(store.recipe_of(label_set))

    def contexts(feature_index: int) -> tuple[Context, ...]:
        return tuple(in_characters(c, folder.vocabulary) for c in explained(folder, feature_index, recipe))

    card = build_card(store, label_set)
    results = (result_in_characters(r, folder.vocabulary) for r in read_results(folder, store, label_set))
    write_report(out / "report.html", with_names(folder.manifest), card, results, contexts)


def _show(console: Console, store: Store, folder: EvidenceFolder, label_set: int) -> None:
    summary = store.summary(label_set)
    console.print(quality_table(folder.manifest["quality"]))
    console.print(coverage_table({State(s): n for s, n in summary.counts.items()}))
    scores = [row["score"] for row in store.rows(label_set) if row["score"] is not None]
    console.print(Text("\nScores on held-out documents", "bold"))
    console.print(score_histogram(scores, sum(summary.undefined.values())))
    for title, rows in (("best", store.best(label_set, _SHOWN)), ("worst", store.worst(label_set, _SHOWN))):
        features = [result_in_characters(read_result(folder, row), folder.vocabulary) for row in rows]
        console.print(label_table(features, f"\nThe {len(features)} {title} labels"))
        for feature in features:
            _show_context(console, feature)


def _show_context(console: Console, feature: LabeledFeature) -> None:
    strongest = max(feature.simulations, key=lambda s: s.context.peak, default=None)
    if strongest is not None:
        console.print(Text(f"{feature.feature_index:>5}  ", "dim"), end="")
        console.print(painted(strongest.context, feature.statistics.max or 0.0, plain=console.color_system is None))
