"""Label sets read back with the tools that users have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from labeler.errors import InputError, NotFoundError, StorageError
from labeler.export.card import build_card, card_markdown
from labeler.export.export import export_label_set
from labeler.recipe import Recipe, ScorerConfig
from labeler.records import Score
from labeler.store import Store, open_store
from labeler.store.people.reviews import add_review
from labeler.terms import Verdict
from tests.results import EXPORTED, failed, labeled, manifest, silent

FORMATS = ("jsonl", "csv", "parquet")
HOSTILE = 'says "hi",\nthen =SUM(A1) ünïcode ⏎ \\ </script> \u202e'


def read(path: Path, kind: str) -> pd.DataFrame:
    frame = {
        "jsonl": lambda: pd.read_json(path, lines=True),
        "csv": lambda: pd.read_csv(path),
        "parquet": lambda: pd.read_parquet(path),
    }
    return frame[kind]().set_index("feature_index")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "labeler.db"))
    label_set = store.label_set_for(manifest(), "/evidence", Recipe.from_names("openai:m"))
    store.save(
        label_set.id, [labeled(0, text=HOSTILE), labeled(1, None), silent(2), failed(3), labeled(4, 0.0, "=1+1")]
    )
    return store


@pytest.mark.parametrize("kind", FORMATS)
def test_what_people_say_stands_beside_the_labels(store: Store, tmp_path: Path, kind: str) -> None:
    add_review(store, 1, 0, Verdict.CORRECTED, "ann", "a greeting")
    add_review(store, 1, 0, Verdict.REJECT, "ben")
    add_review(store, 1, 4, Verdict.ACCEPT, "ben")
    store.save(1, [labeled(4, text="another text than the one that was accepted")])
    export_label_set(store, 1, kind, tmp_path / "labels")
    frame = read(tmp_path / "labels", kind)
    assert frame.loc[0, ["label", "verdict", "person_label", "person"]].tolist() == [
        HOSTILE,
        "reject",
        "a greeting",
        "ann",
    ]
    assert frame.loc[[1, 2, 3, 4], ["verdict", "person_label", "person"]].isna().all(axis=None)
    card = build_card(store, 1)
    assert card["people"] == {"accepted": 1, "rejected": 1, "corrected": 0, "labels": 1}
    assert "rejected 1 and corrected 0" in card_markdown(card)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_read_back_is_what_was_labelled(store: Store, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"labels.{kind}"
    assert export_label_set(store, 1, kind, out) == 5
    frame = read(out, kind)
    assert set(frame.reset_index().columns) == {column.name for column in EXPORTED}
    assert frame.loc[0, "label"] == HOSTILE
    assert frame.loc[4, "label"] == "=1+1"
    assert frame.loc[0, "score"] == 0.5
    assert frame.loc[4, "score"] == 0.0
    assert frame.loc[0, "tokens_in"] == 3_000_000_000
    assert frame.loc[[1, 2, 3], "score"].isna().all()
    assert frame.loc[1, "score_reason"] == "the simulation is constant"
    assert frame["state"].tolist() == ["labeled", "labeled", "silent", "failed", "labeled"]
    assert frame.loc[3, "reason"] == "refused: no"
    assert pd.isna(frame.loc[3, "cost_usd"]), "an unknown price is not 0"


def test_columns_stand_in_the_agreed_order(store: Store, tmp_path: Path) -> None:
    export_label_set(store, 1, "csv", tmp_path / "labels.csv")
    header = (tmp_path / "labels.csv").read_text().splitlines()[0]
    assert header.startswith(
        "subject,hookpoint,sae,label_set_id,feature_index,state,label,explainer,simulator,score,score_low,score_high,score_n,"
        "score_null_z,score_null_p,baseline_token_lookup,score_weighted,score_weighted_n,density,max_activation,n_firings,prompt_version,recipe_hash,"
        "tokens_in,tokens_out,cost_usd,created_at"
    )


def test_an_undefined_score_is_null_and_never_nan_or_zero(store: Store, tmp_path: Path) -> None:
    export_label_set(store, 1, "jsonl", tmp_path / "labels.jsonl")
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    assert "NaN" not in "".join(lines)
    assert json.loads(lines[1])["score"] is None
    assert list(json.loads(lines[0])) == [column.name for column in EXPORTED]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_order_of_saving_does_not_show(store: Store, tmp_path: Path, kind: str) -> None:
    other = open_store(str(tmp_path / "other.db"))
    other.label_set_for(manifest(), "/evidence", Recipe.from_names("openai:m"))
    for result in (labeled(4, 0.0, "=1+1"), failed(3), labeled(0, text=HOSTILE), silent(2), labeled(1, None)):
        other.save(1, [result])
    export_label_set(store, 1, kind, tmp_path / "one")
    export_label_set(other, 1, kind, tmp_path / "two")
    frames = [read(tmp_path / name, kind).drop(columns="created_at") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*frames)


def test_the_card_travels_with_the_labels(store: Store, tmp_path: Path) -> None:
    for kind in FORMATS:
        export_label_set(store, 1, kind, tmp_path / f"labels.{kind}")
        assert "Observational" in (tmp_path / f"labels.{kind}.card.md").read_text()
    inside = json.loads(pq.read_schema(tmp_path / "labels.parquet").metadata[b"labeler.card"])
    beside = json.loads((tmp_path / "labels.jsonl.card.json").read_text())
    assert inside == beside == build_card(store, 1)


def test_the_card_answers_what_a_referee_asks(store: Store) -> None:
    card = build_card(store, 1)
    text = card_markdown(card)
    for fact in (
        "tiny",
        "sha256:1",
        "layers.1",
        "a" * 64,
        "1,000 tokens",
        "openai:m",
        "max-activation-2",
        "sparse-2",
        "the same model",
        "4 documents",
        "seed 0",
        "cost unknown",
        "No score for 1: the simulation is constant",
        "| failed | 1 |",
        "| pending | 45 |",
        "L0 4.0",
        "50.0% of the scored labels beat the token look-up",
        "bootstrap-t",
        card["recipe"]["hash"],
    ):
        assert fact in text, fact
    json.dumps(card, allow_nan=False)


def test_the_card_says_how_good_the_sae_is(tmp_path: Path) -> None:
    quality = manifest()["quality"] | {
        "fvu": 0.2,
        "density_log10_edges": [-2.0, -1.6667, -1.3333, -1.0, -0.6667],
        "density_features": [1, 0, 4, 1200],
        "n_tokens_cross_entropy": 4096,
        "cross_entropy": 3.7,
        "cross_entropy_sae": 3.751,
        "cross_entropy_mean": 6.2,
        "cross_entropy_zero": 9.0,
        "cross_entropy_recovered": 0.9796,
        "cross_entropy_recovered_zero": 0.9904,
        "cross_entropy_reason": None,
    }

    def text(**changes: object) -> str:
        store = open_store(str(tmp_path / f"{len(changes)}.db"))
        store.label_set_for(manifest(quality=quality | changes), "/evidence", Recipe())
        card = build_card(store, 1)
        assert card["sae_quality"] == quality | changes
        return card_markdown(card)

    measured = text()
    for fact in (
        "FVU 0.200",
        "5 at 1e-02 to 1e-01, 1,200 at 1e-01 to 1e+00",
        "98.0% against the mean",
        "99.0% against zeros",
        "on 4,096 tokens",
        "3.751 reconstructed",
    ):
        assert fact in measured, fact
    assert "undefined: it does not say" in text(cross_entropy_recovered=None, cross_entropy_reason="it does not say")
    plain = open_store(str(tmp_path / "plain.db"))
    plain.label_set_for(manifest(), "/evidence", Recipe())
    assert "cross-entropy" not in card_markdown(build_card(plain, 1)), "not measured is not shown"


def test_the_card_of_look_up_labels_says_that_they_are_the_baseline(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lookup.db"))
    store.label_set_for(manifest(), "/evidence", Recipe())
    card = build_card(store, 1)
    assert card["results"]["share_beating_baseline"] is None
    assert "They are the baseline" in card_markdown(card)


def test_an_interrupted_export_leaves_the_old_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labels.jsonl"
    export_label_set(store, 1, "jsonl", out)
    before = out.read_bytes()

    def broken(*_: object, **__: object):  # type: ignore[no-untyped-def]
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labeler.export.export.encode_rows", broken)
    with pytest.raises(StorageError, match="No space left"):
        export_label_set(store, 1, "jsonl", out)
    assert out.read_bytes() == before
    assert list(tmp_path.glob("*.partial")) == []


def test_top_contexts_are_added_where_asked_for(planted_evidence: Path, tmp_path: Path) -> None:
    from labeler.evidence.store import EvidenceFolder

    store = open_store(str(tmp_path / "contexts.db"))
    store.label_set_for(EvidenceFolder(planted_evidence).manifest, str(planted_evidence), Recipe())
    store.save(1, [labeled(0), silent(5)])
    for kind in FORMATS:
        export_label_set(store, 1, kind, tmp_path / f"c.{kind}", top_contexts=2)
    row = json.loads((tmp_path / "c.jsonl").read_text().splitlines()[0])
    assert len(row["top_contexts"]) == 2
    assert max(row["top_contexts"][0]["activations"]) == 5.0
    assert "".join(row["top_contexts"][0]["tokens"]) == row["top_contexts"][0]["text"]
    assert pd.read_parquet(tmp_path / "c.parquet")["top_contexts"][0][0]["text"] == row["top_contexts"][0]["text"]
    assert json.loads(pd.read_csv(tmp_path / "c.csv")["top_contexts"][0]) == row["top_contexts"]


def test_what_cannot_be_exported_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose one of jsonl, csv, parquet"):
        export_label_set(store, 1, "xlsx", tmp_path / "x")
    with pytest.raises(NotFoundError, match="label set 9"):
        export_label_set(store, 9, "csv", tmp_path / "x")
    with pytest.raises(InputError, match="is a folder"):
        export_label_set(store, 1, "csv", tmp_path)


def test_only_an_intervention_is_called_causal(store: Store, tmp_path: Path) -> None:
    assert build_card(store, 1)["claim"].startswith("Observational")
    asked = replace(Recipe.from_names("openai:m"), scorers=(ScorerConfig("intervention", "m"),))
    label_set = store.label_set_for(manifest(), "/evidence", asked)
    score = Score("intervention", None, reason="no steered texts")
    store.save(label_set.id, [replace(labeled(0), scores=(*labeled(0).scores, score))])
    assert build_card(store, label_set.id)["claim"].startswith("Observational"), "asked for, and not one was run"
    done = replace(score, value=0.9, reason=None, n=16)
    store.save(label_set.id, [replace(labeled(1), scores=(*labeled(1).scores, done))])
    card = build_card(store, label_set.id)
    assert "1 features were turned up" in card["claim"]
    assert card["interventions"] == {"n": 1, "median": 0.9, "chance": 0.5, "undefined": {"no steered texts": 1}}
    text = card_markdown(card)
    assert "Intervention (causal): median 0.90 of 1 labels" in text
    assert "No intervention score for 1: no steered texts." in text
