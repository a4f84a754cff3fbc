from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from labeler.errors import FormatError, InputError, NotFoundError
from labeler.evidence import store
from labeler.evidence.choose import choose_evidence, explain_windows
from labeler.evidence.duplicates import NearDuplicates, shingles, shingles_of_all
from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.plan import plan_labels
from labeler.llm.prices import Prices
from labeler.recipe import ContextsConfig, Recipe
from labeler.records import Context, Source, Split, State
from labeler.steps.null import NullLabels
from labeler.steps.read import read_evidence
from tests.gathering import gather
from tests.planted import CHARACTERS, Planted, plant

CONFIG = ContextsConfig()


@pytest.fixture(scope="module")
def evidence(planted_evidence: Path) -> EvidenceFolder:
    return EvidenceFolder(planted_evidence)


def of_source(contexts: tuple[Context, ...], source: Source) -> list[Context]:
    return [c for c in contexts if c.source is source]


def test_the_recipe_decides_how_many_contexts_there_are(evidence: EvidenceFolder) -> None:
    chosen = choose_evidence(evidence, 0, CONFIG)
    assert len(of_source(chosen.explain, Source.TOP)) == 20
    assert len(of_source(chosen.explain, Source.SAMPLED)) == 20
    assert len(of_source(chosen.held_out, Source.TOP)) == 10
    assert len(of_source(chosen.held_out, Source.RANDOM)) == 10
    assert len(of_source(chosen.held_out, Source.SAMPLED)) == 10


def test_no_document_is_on_both_sides(evidence: EvidenceFolder) -> None:
    held_out = np.asarray(evidence.corpus.held_out)
    for feature in (0, 2, 3):
        chosen = choose_evidence(evidence, feature, CONFIG)
        assert {c.document for c in chosen.explain} & {c.document for c in chosen.held_out} == set()
        assert {bool(held_out[c.document]) for c in chosen.explain} == {False}
        assert {bool(held_out[c.document]) for c in chosen.held_out} == {True}


def test_top_contexts_come_from_different_documents_while_there_are_enough(evidence: EvidenceFolder) -> None:
    chosen = choose_evidence(evidence, 3, CONFIG)
    documents = [c.document for c in of_source(chosen.held_out, Source.TOP)]
    assert len(set(documents)) == len(documents)


def test_choices_depend_on_the_seed_and_on_nothing_else(planted_evidence: Path) -> None:
    one, two = (choose_evidence(EvidenceFolder(planted_evidence), 0, CONFIG, seed=3) for _ in range(2))
    assert one == two
    assert one != choose_evidence(EvidenceFolder(planted_evidence), 0, CONFIG, seed=4)


def test_design_weights_count_every_held_out_window_once(evidence: EvidenceFolder) -> None:
    for feature in (0, 2, 6, 9):
        chosen = choose_evidence(evidence, feature, CONFIG)
        weights = [c.weight for c in chosen.held_out if c.weight is not None]
        assert sum(weights) == pytest.approx(evidence.n_windows[Split.HELD_OUT])
        firing = [c.weight for c in chosen.held_out if c.stratum]
        assert sum(filter(None, firing)) == pytest.approx(evidence.n_firing_windows[1, feature])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_windows_than_deciles_stand_for_all_of_them(evidence: EvidenceFolder, n: int) -> None:
    config = ContextsConfig(held_out_sampled=n)
    sampled = of_source(choose_evidence(evidence, 2, config).held_out, Source.SAMPLED)
    assert sum(c.weight or 0.0 for c in sampled) == pytest.approx(evidence.n_firing_windows[1, 2])
    assert len({-(-(c.stratum or 0) * n // 10) for c in sampled}) == n, "one of each part"


def test_sampled_windows_are_of_other_documents_while_there_are_enough(evidence: EvidenceFolder) -> None:
    for feature in (0, 3):
        explain = choose_evidence(evidence, feature, CONFIG).explain
        top, sampled = ([c.document for c in of_source(explain, s)] for s in (Source.TOP, Source.SAMPLED))
        known = evidence.windows(feature, Source.SAMPLED, Split.EXPLAIN)
        others = set(evidence.corpus.document_of(known.position).tolist()) - set(top)
        assert len(sampled) == 20
        assert len(set(sampled) - set(top)) == min(20, len(others))


def test_of_the_documents_a_bounded_number_is_kept(planted_evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_FRACTIONS", 4)
    folder = EvidenceFolder(planted_evidence)
    assert len({folder.document_fraction(document, "part:0") for document in range(20)}) > 4
    assert folder._fraction.cache_info().currsize == 4  # type: ignore[attr-defined]


def test_the_weighted_mean_estimates_the_mean_of_the_whole_split(evidence: EvidenceFolder) -> None:
    """Over many seeds the design-weighted estimate of the share of firing tokens comes to the true one."""
    truth = np.isin(np.asarray(evidence.corpus.tokens), [1 + CHARACTERS.index(c) for c in "aei"])
    held_out = np.asarray(evidence.corpus.held_out)[evidence.corpus.document_of(np.arange(evidence.corpus.n_tokens))]
    expected = truth[held_out].sum()
    estimates = []
    for seed in range(60):
        chosen = choose_evidence(evidence, 2, CONFIG, seed=seed)
        estimates.append(
            sum(c.weight * sum(a > 0 for a in c.activations) for c in chosen.held_out if c.weight is not None)
        )
    assert np.mean(estimates) == pytest.approx(expected, rel=0.08)


def test_a_recipe_that_wants_fewer_gets_fewer(evidence: EvidenceFolder) -> None:
    chosen = choose_evidence(
        evidence, 0, ContextsConfig(explain_top=3, explain_sampled=0, held_out_top=2, held_out_random=4)
    )
    assert len(chosen.explain) == 3
    assert len(of_source(chosen.held_out, Source.RANDOM)) == 4


def test_near_duplicates_are_windows_that_share_most_eight_grams(evidence: EvidenceFolder) -> None:
    def grams(text: str) -> frozenset[int]:
        ids = np.array([[1 + CHARACTERS.index(c) for c in text]])
        return shingles(evidence, ids, np.array([len(text)]))[0]

    text = "the quick brown fox jumps over 3"
    seen = NearDuplicates(0.5)
    seen.add(grams(text))
    assert len(grams(text)) == 25
    assert seen.has(grams(text))
    assert seen.has(grams(text.upper().replace("3", "8")))
    assert seen.has(grams(text[3:] + "abc"))
    assert not seen.has(grams(text[16:] + "abcdefghijklmnop"))
    assert not seen.has(grams("a lazy dog sleeps in the warm su"))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> EvidenceFolder:
    """A corpus in which one paragraph stands in every document, and some documents are whole copies."""
    folder = tmp_path_factory.mktemp("copied")
    planted = plant(folder, n_documents=40)
    licence = "permission is hereby granted, Q free of charge! to any person obtaining a copy, to use Q it."
    texts = sorted(planted.corpus.iterdir())
    for path in texts:
        path.write_text(licence + path.read_text())
    for i in range(8):
        (planted.corpus / f"copy-{i}.txt").write_text(texts[i].read_text())
    return EvidenceFolder(gather(planted, folder / "evidence"))


def test_no_near_duplicate_window_is_on_both_sides(copied: EvidenceFolder) -> None:
    for feature in (0, 2, 6, 8):
        chosen = choose_evidence(copied, feature, CONFIG)
        scored = NearDuplicates(CONFIG.near_duplicate)
        for grams in shingles_of_all(copied, chosen.held_out):
            scored.add(grams)
        assert not any(scored.has(grams) for grams in shingles_of_all(copied, chosen.explain))
        windows = explain_windows(copied, feature, chosen.held_out, CONFIG.near_duplicate)
        for w in windows.values():
            assert not any(
                scored.has(g) for g, p in zip(shingles(copied, w.token_ids, w.length), w.peak, strict=True) if p
            )


def test_the_planted_duplicates_would_have_been_on_both_sides(copied: EvidenceFolder) -> None:
    """The check above can fail: without it, the copied paragraph is shown and scored."""
    chosen = choose_evidence(copied, 0, ContextsConfig(near_duplicate=1.1))
    scored = NearDuplicates(CONFIG.near_duplicate)
    for grams in shingles_of_all(copied, chosen.held_out):
        scored.add(grams)
    assert any(scored.has(grams) for grams in shingles_of_all(copied, chosen.explain))


def test_a_feature_that_fires_in_copied_text_alone_is_rare(copied: EvidenceFolder) -> None:
    recipe = Recipe()
    assert read_evidence(copied, 5, recipe).too_little == (
        State.RARE,
        "each EXPLAIN window that it is known to fire in repeats held-out text",
    )
    null = NullLabels(copied, recipe).for_feature(0)
    assert "`!`" not in {label.text for label in null}
    assert len(null) >= 20
    plan = asyncio.run(plan_labels(copied, [0, 5], Recipe.from_names("openai:any"), Prices()))
    assert (plan.n_rare, plan.n_asked) == (1, 1)


def test_copies_of_a_document_land_on_one_side(copied: EvidenceFolder) -> None:
    sides: dict[bytes, set[bool]] = {}
    corpus = copied.corpus
    for i in range(corpus.n_documents):
        text = np.asarray(corpus.tokens[corpus.document_starts[i] : corpus.document_starts[i + 1]]).tobytes()
        sides.setdefault(text, set()).add(bool(corpus.held_out[i]))
    assert len(sides) < corpus.n_documents
    assert all(len(s) == 1 for s in sides.values())


def test_a_feature_out_of_range_is_named(evidence: EvidenceFolder) -> None:
    with pytest.raises(InputError, match=r"feature 999 is out of range.*0 to 31"):
        evidence.statistics(999)


def test_a_folder_that_is_no_evidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        EvidenceFolder(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match=r"no manifest\.json"):
        EvidenceFolder(tmp_path)


def test_damaged_evidence_is_refused_by_name(planted: Planted, tmp_path: Path) -> None:
    folder = gather(planted, tmp_path / "evidence")
    values = folder / "contexts" / "top_explain.value.npy"
    values.write_bytes(values.read_bytes()[:200])
    with pytest.raises(FormatError, match="top_explain"):
        EvidenceFolder(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match=r"manifest\.json"):
        EvidenceFolder(folder)
