"""HARD contexts: they look alike, and the feature is silent on them for certain."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from labeler.evidence.choose import choose_evidence
from labeler.evidence.duplicates import NearDuplicates, shingles_of_all
from labeler.evidence.format import SPLITS
from labeler.evidence.hard import Silence, hard_windows, own_tokens
from labeler.evidence.store import EvidenceFolder, Windows
from labeler.recipe import ContextsConfig
from labeler.records import Context, FeatureEvidence, Source, Split
from tests.gathering import CONFIG as GATHERING
from tests.gathering import gather, without_directions
from tests.planted import CHARACTERS, N_FEATURES, Planted, meaning, plant

ASKS = ContextsConfig(explain_hard=10, held_out_hard=10, aside=("choose", "show", "compare"))
Q = 1 + CHARACTERS.index("Q")


@pytest.fixture(scope="module")
def evidence(planted_evidence: Path) -> EvidenceFolder:
    return EvidenceFolder(planted_evidence)


@pytest.fixture(scope="module")
def sometimes(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> EvidenceFolder:
    """Feature 0 fires on Q at even places of the corpus alone, as a feature that needs surroundings would."""
    from labeler.evidence.state import GatherState

    update = GatherState.update

    def at_even_places(self: GatherState, batch, token, feature, value, **more) -> None:  # type: ignore[no-untyped-def]
        window = batch.window_of_token[token]
        place = batch.window_positions[window] + token - batch.window_first_tokens[window]
        kept = (feature != 0) | (place % 2 == 0)
        update(self, batch, token[kept], feature[kept], value[kept], **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GatherState, "update", at_even_places)
        return EvidenceFolder(gather(planted, tmp_path_factory.mktemp("sometimes") / "evidence"))


def fires(folder: EvidenceFolder, feature: int, start: int, length: int) -> bool:
    """The truth, from the planted meaning."""
    own = [1 + CHARACTERS.index(c) for c in meaning(feature)]
    return bool(np.isin(folder.corpus.tokens[start : start + length], own).any())


def of(contexts: tuple[Context, ...]) -> list[Context]:
    return [c for c in contexts if c.source is Source.HARD]


def every_hard(chosen: FeatureEvidence) -> list[Context]:
    return [c for part in (*chosen.draws, chosen.of_held_out_documents) for c in of(part)]


def test_the_feature_is_silent_on_all_of_them(evidence: EvidenceFolder) -> None:
    n = 0
    for feature in range(N_FEATURES):
        for context in every_hard(choose_evidence(evidence, feature, ASKS)):
            assert not fires(evidence, feature, context.token_start, len(context.tokens))
            assert set(context.activations) == {0.0}
            assert context.weight is None
            n += 1
    assert n > 10 * N_FEATURES


def test_windows_that_hold_its_tokens_come_first(sometimes: EvidenceFolder) -> None:
    assert own_tokens(sometimes, 0) == [Q]
    for split in SPLITS:
        windows = hard_windows(sometimes, 0, split, np.random.default_rng(0))
        holds = (windows.token_ids == Q).any(axis=1)
        assert holds[:10].all()
        assert not holds[np.argmin(holds) :].any()
        for start, length in zip(windows.position, windows.length, strict=True):
            places = start + np.flatnonzero(np.asarray(sometimes.corpus.tokens[start : start + length]) == Q)
            assert (places % 2 == 1).all()
    chosen = choose_evidence(sometimes, 0, ASKS)
    assert len(of(chosen.explain)) == len(of(chosen.held_out)) == 10
    assert all(Q in c.token_ids for c in of(chosen.explain))
    # Two fifths of the held-out documents hold no ten of them that overlap no context chosen before.
    held = [Q in c.token_ids for c in of(chosen.held_out)]
    assert held == sorted(held, reverse=True)
    assert sum(held) >= 4


def test_then_windows_on_which_a_near_feature_fires(evidence: EvidenceFolder) -> None:
    """Feature 8 fires on `a`, and its nearest neighbour by decoder direction, 2, on `a`, `e` and `i`."""
    neighbours = np.load(evidence.folder / "neighbours.features.npy")[8].tolist()
    assert neighbours[0] == 2
    first = hard_windows(evidence, 8, Split.HELD_OUT, np.random.default_rng(0)).take(range(5))
    for start, length in zip(first.position, first.length, strict=True):
        assert fires(evidence, 2, start, length)
        assert not fires(evidence, 8, start, length)


def test_what_evidence_proves_is_true(evidence: EvidenceFolder) -> None:
    proven = 0
    for feature in range(N_FEATURES):
        for split in SPLITS:
            silence = Silence(evidence, feature, split)
            for other in (0, 2, 3, 6, 9, 20):
                for source in (Source.TOP, Source.SAMPLED, Source.RANDOM):
                    windows = evidence.windows(other, source, split)
                    certain = silence.proven(windows)
                    proven += certain.sum()
                    for i in np.flatnonzero(certain):
                        assert not fires(evidence, feature, int(windows.position[i]), int(windows.length[i]))
    assert proven > 1000


def test_full_lists_prove_what_their_hashes_say_and_no_more(planted: Planted, tmp_path: Path) -> None:
    """With room for two contexts a feature, a window that is not among them may well be one more in which it fires."""
    from dataclasses import replace

    few = EvidenceFolder(gather(planted, tmp_path / "few", replace(GATHERING, n_top=(2, 2), n_sampled=(2, 2))))
    everywhere = few.windows(3, Source.RANDOM, Split.HELD_OUT)
    certain = Silence(few, 0, Split.HELD_OUT).proven(everywhere)
    silent = [not fires(few, 0, int(p), int(n)) for p, n in zip(everywhere.position, everywhere.length, strict=True)]
    assert 0 < certain.sum() < sum(silent) / 2
    assert not any(sure and not true for sure, true in zip(certain, silent, strict=True))
    assert Silence(few, 5, Split.HELD_OUT).proven(everywhere).all(), "a feature that never fires is silent everywhere"


def test_complete_lists_prove_all_there_is_to_prove(evidence: EvidenceFolder) -> None:
    """Feature 4 occurs three times: wherever it is not recorded, it is silent."""
    silence = Silence(evidence, 4, Split.EXPLAIN)
    windows = evidence.windows(3, Source.SAMPLED, Split.EXPLAIN)
    true = [not fires(evidence, 4, int(p), int(n)) for p, n in zip(windows.position, windows.length, strict=True)]
    assert silence.proven(windows).tolist() == true
    own = evidence.windows(4, Source.TOP, Split.EXPLAIN)
    assert len(own)
    assert not silence.proven(own).any()


def test_the_wall_between_documents_holds(evidence: EvidenceFolder) -> None:
    held_out = np.asarray(evidence.corpus.held_out)
    for feature in (0, 2, 6, 9):
        chosen = choose_evidence(evidence, feature, ASKS)
        assert not held_out[[c.document for c in of(chosen.explain)]].any()
        assert held_out[[c.document for c in of(chosen.held_out)]].all()
        documents = [{c.document for c in part} for part in (chosen.held_out, chosen.choose, chosen.show)]
        assert not documents[0] & documents[1]
        assert not documents[0] & documents[2]


def test_no_window_is_taken_twice_and_nothing_shown_repeats_what_is_scored(tmp_path: Path) -> None:
    planted = plant(tmp_path, n_documents=40)
    for path in planted.corpus.iterdir():
        path.write_text("bcd fgh jkl mnp rst vwy: xzb cdf" * 2 + path.read_text())
    folder = EvidenceFolder(gather(planted, tmp_path / "evidence"))
    for feature in (0, 2, 8):
        chosen = choose_evidence(folder, feature, ASKS)
        starts = sorted(c.token_start for c in chosen.held_out if c.source is not Source.SAMPLED)
        assert all(b - a >= folder.window_tokens for a, b in pairwise(starts))
        seen = NearDuplicates(0.5, shingles_of_all(folder, chosen.of_held_out_documents))
        assert not any(seen.has(grams) for grams in shingles_of_all(folder, chosen.explain))
        scored = NearDuplicates(0.5, shingles_of_all(folder, chosen.held_out))
        for part in (chosen.choose, chosen.show, chosen.compare):
            assert not any(scored.has(grams) for grams in shingles_of_all(folder, part))


def test_an_sae_without_neighbours_has_hard_windows_by_token_alone(sometimes: EvidenceFolder, tmp_path: Path) -> None:
    folder = EvidenceFolder(without_directions(sometimes.folder, tmp_path / "evidence", "neighbours.*.npy"))
    windows: Windows = hard_windows(folder, 0, Split.EXPLAIN, np.random.default_rng(0))
    assert len(windows)
    assert (windows.token_ids == Q).any(axis=1).all()
