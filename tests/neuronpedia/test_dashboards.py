from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import FormatError, NotFoundError
from labeler.evidence.directions import read_output
from labeler.evidence.store import EvidenceFolder
from labeler.neuronpedia.dashboards import read_dashboards
from labeler.records import Source, Split


def context(peak: float, contains: float, at: int = 2) -> dict[str, Any]:
    tokens = [" the", " old", " brigade", ".", "\n"]
    values = [0.0] * 5
    values[at] = peak
    low, high = (-1, 2.214) if contains == -1 else (0.0, 1.1)
    return {"bin_min": low, "bin_max": high, "bin_contains": contains, "tokens": tokens, "values": values}


def feature(index: int) -> dict[str, Any]:
    """As the runner writes it, less the lists of correlated neurons."""
    return {
        "feature_index": index,
        "neuron_alignment_indices": [217],
        "neuron_alignment_values": [0.112],
        "neg_str": ["sequence", "ogen"],
        "neg_values": [-0.707, -0.674],
        "pos_str": [" Brigade"],
        "pos_values": [3.753],
        "frac_nonzero": 0.0002,
        "freq_hist_data_bar_values": [0.023, 0.067],
        "freq_hist_data_bar_heights": [47, 3],
        "logits_hist_data_bar_heights": [5, 35, 1],
        "logits_hist_data_bar_values": [-1.0, 0.0, 1.0],
        "n_prompts_total": 100,
        "n_tokens_in_prompt": 5,
        "dataset": "Skylion007/openwebtext",
        "activations": [context(2.211, -1), context(2.214, -1), context(0.5, 0.0003), context(0.0, 0.9997)],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "gpt2-small_res-jb_blocks.0.hook_resid_pre_24576"
    out.mkdir()
    for number, indices in enumerate([(0, 2), (5,)]):
        batch = {"model_id": "gpt2-small", "layer": 0, "sae_set": "res-jb", "sae_id_suffix": None}
        (out / f"batch-{number}.json").write_text(json.dumps({**batch, "features": [feature(i) for i in indices]}))
    (out / "run_settings.json").write_text("{}")
    return out


def change(folder: Path, number: int, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / f"batch-{number}.json"
    batch = json.loads(path.read_text())
    edit(batch)
    path.write_text(json.dumps(batch))


def test_batches_are_evidence(folder: Path, tmp_path: Path) -> None:
    manifest = read_dashboards(folder, tmp_path / "evidence")
    assert (manifest["subject"]["id"], manifest["hookpoint"]) == ("gpt2-small", "0-res-jb")
    assert manifest["corpus"]["spec"] == "Skylion007/openwebtext"
    evidence = EvidenceFolder(tmp_path / "evidence")
    assert evidence.n_features == 6
    top = evidence.contexts(evidence.windows(2, Source.TOP, Split.EXPLAIN), Source.TOP, Split.EXPLAIN)
    assert [c.peak for c in top] == pytest.approx([2.214, 2.211]), "the highest first"
    assert top[0].tokens == (" the", " old", " brigade", ".", "\n")
    drawn = evidence.windows(2, Source.SAMPLED, Split.HELD_OUT)
    assert drawn.peak.tolist() == [0.5, 0.0]
    statistics = evidence.statistics(2)
    assert statistics.density == 0.0002
    assert statistics.max == pytest.approx(2.214)
    assert statistics.n_firing_windows_by_split == {Split.EXPLAIN: 2, Split.HELD_OUT: 1}
    output = read_output(evidence, 2)
    assert output is not None
    assert [(evidence.vocabulary.text(t), v) for t, v in output.promoted] == [(" Brigade", pytest.approx(3.753))]
    assert len(output.suppressed) == 2
    assert (output.histogram, output.low, output.high) == ((5, 35, 1), -1.5, 1.5)
    missing = evidence.statistics(1)
    assert (missing.density, missing.max, missing.n_firings) == (None, None, None), "a feature that they skipped"
    assert read_output(evidence, 1).promoted == ()  # type: ignore[union-attr]


def test_a_batch_may_be_of_an_older_form(folder: Path, tmp_path: Path) -> None:
    def edit(batch: dict[str, Any]) -> None:
        for one in batch["features"]:
            for key in ("dataset", "logits_hist_data_bar_values", "pos_str", "frac_nonzero", "n_prompts_total"):
                del one[key]

    for number in (0, 1):
        change(folder, number, edit)
    manifest = read_dashboards(folder, tmp_path / "evidence")
    assert manifest["corpus"]["spec"] == "unknown"
    evidence = EvidenceFolder(tmp_path / "evidence")
    assert evidence.statistics(2).density is None
    output = read_output(evidence, 2)
    assert output is not None
    assert (output.promoted, output.histogram) == ((), ())


BAD: dict[str, Callable[[Path], object]] = {
    r"batch-0\.json: is missing": lambda f: (f / "batch-0.json").unlink(),
    r"batch-1\.json, line 1: not JSON, or cut": lambda f: (f / "batch-1.json").write_text(
        (f / "batch-1.json").read_text()[:-500]
    ),
    r"batch-1\.json.*the same 'feature_index' 2 as in batch-0\.json": lambda f: change(
        f, 1, lambda b: b["features"][0].update(feature_index=2)
    ),
    r"batch-1\.json.*is of gpt2-small/7-res-jb": lambda f: change(f, 1, lambda b: b.update(layer=7)),
    r"batch-1\.json.*a list of 'features'": lambda f: change(f, 1, lambda b: b.pop("features")),
    r"batch-0\.json.*not lists of equal length": lambda f: change(
        f, 0, lambda b: b["features"][1]["activations"][0].update(tokens=["a"])
    ),
    r"batch-0\.json.*'activations' is no list": lambda f: change(f, 0, lambda b: b["features"][1].pop("activations")),
    r"batch-0\.json.*'feature_index' is None": lambda f: change(f, 0, lambda b: b["features"][0].pop("feature_index")),
    "holds no activations": lambda f: [
        change(f, n, lambda b: [x.update(activations=[]) for x in b["features"]]) for n in (0, 1)
    ],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_batches_are_refused_by_name(folder: Path, tmp_path: Path, message: str) -> None:
    BAD[message](folder)
    with pytest.raises(FormatError, match=message):
        read_dashboards(folder, tmp_path / "evidence")
    assert not list(tmp_path.glob("evidence*"))


def test_the_command(folder: Path, tmp_path: Path, run: Any) -> None:
    ran = run("import", "saedashboard", folder, "--out", tmp_path / "evidence", "--window", 4)
    assert ran.code == 0, ran.err
    assert "6 contexts to explain from, 6 held out" in ran.out
    assert len(EvidenceFolder(tmp_path / "evidence").windows(2, Source.TOP, Split.EXPLAIN).token_ids[0]) == 4
    with pytest.raises(NotFoundError, match=r"batch-<n>\.json"):
        read_dashboards(tmp_path, tmp_path / "other")
