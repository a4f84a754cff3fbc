"""The summary that tools for SAEBench's results read: checked against the fields and types of their schema (sae-bench 0.6.0)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any
from uuid import UUID

import pytest
from jsonschema import validate

from labeler.errors import InputError
from labeler.export.saebench import export_saebench
from labeler.recipe import Recipe, ScorerConfig
from labeler.records import Score
from labeler.store import Store, open_store
from tests.results import failed, labeled, manifest, silent

_TEXT = {"type": ["string", "null"]}
SCHEMA = {
    "type": "object",
    "required": [
        "eval_config",
        "eval_id",
        "datetime_epoch_millis",
        "eval_result_metrics",
        "sae_bench_commit_hash",
        "sae_lens_id",
        "sae_lens_release_id",
        "sae_lens_version",
        "sae_cfg_dict",
    ],
    "properties": {
        "eval_type_id": {"const": "autointerp"},
        "eval_id": {"type": "string"},
        "datetime_epoch_millis": {"type": "integer", "minimum": 1_500_000_000_000, "maximum": 9_999_999_999_999},
        "eval_config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                **{name: {"type": "string"} for name in ("model_name", "dataset_name", "llm_dtype")},
                **{
                    name: {"type": "integer"}
                    for name in (
                        "n_latents",
                        "random_seed",
                        "llm_context_size",
                        "total_tokens",
                        "max_tokens_in_explanation",
                        "n_top_ex_for_generation",
                        "n_iw_sampled_ex_for_generation",
                        "n_top_ex_for_scoring",
                        "n_random_ex_for_scoring",
                        "n_iw_sampled_ex_for_scoring",
                    )
                },
                "scoring": {"type": "boolean"},
            },
        },
        "eval_result_metrics": {
            "type": "object",
            "required": ["autointerp"],
            "properties": {
                "autointerp": {
                    "type": "object",
                    "required": ["autointerp_score", "autointerp_std_dev"],
                    "properties": {"autointerp_score": {"type": "number"}, "autointerp_std_dev": {"type": "number"}},
                }
            },
        },
        "eval_result_details": {"type": "array", "items": {"type": "object"}},
        "sae_bench_commit_hash": {"type": "string"},
        "sae_lens_id": _TEXT,
        "sae_lens_release_id": _TEXT,
        "sae_lens_version": _TEXT,
        "sae_cfg_dict": {"type": "object"},
        "eval_result_unstructured": {"type": "object"},
    },
}


def detected(feature: int, value: float | None, **rest: Any) -> Any:
    score = Score("detection", value, None if value is not None else "no reply could be read", n=40, **rest)
    return replace(labeled(feature), scores=(*labeled(feature).scores, score))


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "made.db"))
    recipe = replace(Recipe.from_names("openai:m"), scorers=(ScorerConfig("detection", "m"),))
    sae = manifest()["sae"] | {"path": "sae-lens:gpt2-small-res-jb/blocks.8.hook_resid_pre"}
    store.label_set_for(manifest(sae=sae), "/evidence", recipe)
    return store


def summary(store: Store, path: Path) -> dict[str, Any]:
    export_saebench(store, 1, path)
    return dict(json.loads(path.read_text("utf-8")))


def test_it_has_the_fields_and_types_that_are_expected(made: Store, tmp_path: Path) -> None:
    made.save(1, [detected(3, 0.9, low=0.8, high=0.95), detected(7, 0.5), detected(8, 0.7)])
    found = summary(made, tmp_path / "summary.json")
    validate(found, SCHEMA)
    assert found["eval_config"]["n_latents"] == 3
    assert (found["sae_lens_release_id"], found["sae_lens_id"]) == ("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert found["sae_cfg_dict"]["sha256"] == "a" * 64
    metrics = found["eval_result_metrics"]["autointerp"]
    assert metrics["autointerp_score"] == pytest.approx(0.7)
    assert metrics["autointerp_std_dev"] == pytest.approx(stdev([0.9, 0.5, 0.7]))
    assert found["eval_result_unstructured"]["3"] == {
        "latent": 3,
        "explanation": "the token `x`",
        "score": 0.9,
        "low": 0.8,
        "high": 0.95,
        "n": 40,
    }
    UUID(found["eval_id"])
    assert summary(made, tmp_path / "again.json") == found, "the same label set is the same evaluation"


def test_an_undefined_score_is_counted_and_in_no_mean(made: Store, tmp_path: Path) -> None:
    made.save(1, [detected(3, 0.9), detected(7, 0.7), detected(8, None), labeled(9), silent(10), failed(11)])
    found = summary(made, tmp_path / "summary.json")
    assert found["eval_result_metrics"]["autointerp"]["autointerp_score"] == pytest.approx(0.8)
    assert set(found["eval_result_unstructured"]) == {"3", "7"}
    (details,) = found["eval_result_details"]
    assert (details["n_scored"], details["n_labeled"], details["n_undefined"]) == (2, 4, 2)
    assert details["undefined"] == {"no reply could be read": 1}
    assert details["coverage"]["silent"] == 1
    assert "balanced accuracy" in details["measure"]


def test_one_score_has_no_spread(made: Store, tmp_path: Path) -> None:
    made.save(1, [detected(3, 0.9)])
    assert summary(made, tmp_path / "s.json")["eval_result_metrics"]["autointerp"]["autointerp_std_dev"] is None


def test_no_score_is_no_summary(made: Store, tmp_path: Path, run) -> None:  # type: ignore[no-untyped-def]
    made.save(1, [labeled(0), detected(1, None)])
    with pytest.raises(InputError, match="has no detection scores"):
        export_saebench(made, 1, tmp_path / "s.json")
    assert not list(tmp_path.glob("s.json*"))
    made.save(1, [detected(1, 0.75)])
    words = ("export", "--format", "saebench", "--out", tmp_path / "s.json", "--db", tmp_path / "made.db")
    assert run(*words).code == 0
    assert "no place for contexts" in run(*words, "--top-contexts", 1).err
