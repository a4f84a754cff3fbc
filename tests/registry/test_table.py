"""One SAE of each kind in sae-lens' registry reads as sae-lens reads it, and the page of the documentation counts all."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import constants

from labeler.errors import FormatError, NotFoundError
from labeler.sae import load_sae, registry
from labeler.sae.registry import Registered, all_registered, as_registered
from tests.registry.specimens import kind_of, write
from tests.registry.table import HERE, page, rows_of

REDUCED = HERE / "registry.yaml"
ENTRIES = list(all_registered(REDUCED))
CENTERED: dict[str, object] = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
PAGE = Path(__file__).parents[2] / "docs" / "published-saes.md"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, no network, and sae-lens' registry with one SAE of each kind."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(registry, "registry_file", lambda: REDUCED)
    return cache


@pytest.mark.parametrize("entry", ENTRIES, ids=kind_of)
def test_each_kind_is_read_as_sae_lens_reads_it_or_refused_by_name(entry: Registered, offline: Path) -> None:
    (row,) = rows_of([entry], offline).values()
    assert row.misread == []
    if entry.converter == "temporal":
        assert "temporal SAE" in next(iter(row.refused))
    else:
        assert row.n_read == 1, row.refused


def test_a_wrong_place_and_wrong_activations_are_seen(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in ENTRIES if kind_of(e) == "gemma_2 mlp")
    monkeypatch.setattr("labeler.published.places.gemma_scope", lambda _: ("model.layers.0.mlp:output", None))
    (row,) = rows_of([entry], offline).values()
    assert "reads model.layers.0.mlp:output" in row.misread[0]
    monkeypatch.undo()
    wrong = {**vars(entry), "overrides": {"normalize_activations": "constant_norm_rescale"}}
    monkeypatch.setattr(registry, "registered", lambda _: Registered(**wrong))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(offline))
    monkeypatch.setattr("labeler.sae.hub.registered", lambda _: entry)
    (row,) = rows_of([entry], offline).values()
    assert "acts differ" in row.misread[0]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"normalize_activations": "layer_norm"}, "sets normalize_activations to 'layer_norm', which is not supported"),
        ({"normalize_activations": ["none"]}, r"sets normalize_activations to \['none'\], which is not supported"),
        ({"k": 3}, "registry sets k, which is not supported"),
        ({"model_from_pretrained_kwargs": {"rope": 1}}, "the subject was loaded with rope"),
    ],
)
def test_what_the_registry_says_and_we_cannot_apply_is_refused(
    overrides: dict[str, object], why: str, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = next(e for e in ENTRIES if kind_of(e) == "gemma_2 mlp")
    write(offline, entry)
    sae = load_sae(entry.name)
    monkeypatch.setattr(registry, "registered", lambda _: Registered(**{**vars(entry), "overrides": overrides}))
    with pytest.raises(FormatError, match=why):
        as_registered(sae, entry.name)


OVERRIDES: list[tuple[dict[str, object], dict[str, object], str, str]] = [
    # The keys of the file, the overrides, the hookpoint and the normalization that follow: overrides replace keys.
    ({"normalize_activations": "layer_norm"}, {"normalize_activations": "none"}, "blocks.1.hook_resid_pre", "none"),
    ({"normalize_activations": "layer_norm"}, {"dataset_path": "x"}, "blocks.1.hook_resid_pre", "layer_norm"),
    (CENTERED, {"hook_name": "blocks.2.hook_resid_pre"}, "blocks.2.hook_resid_pre|centered", "none"),
    (CENTERED, {"model_from_pretrained_kwargs": {}}, "blocks.1.hook_resid_pre", "none"),
    ({}, CENTERED, "blocks.1.hook_resid_pre|centered", "none"),
    (CENTERED, CENTERED, "blocks.1.hook_resid_pre|centered", "none"),
]


@pytest.mark.parametrize(("cfg", "overrides", "hookpoint", "normalisation"), OVERRIDES)
def test_overrides_stand_in_place_of_what_the_file_says(
    cfg: dict[str, object],
    overrides: dict[str, object],
    hookpoint: str,
    normalisation: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(HERE.parent / "golden" / "sae" / "saelens_standard", folder)
    hook = {"hook_name": "blocks.1.hook_resid_pre"}
    (folder / "cfg.json").write_text(json.dumps(hook | cfg))
    entry = Registered("a", "one", "owner/saes", "one", None, overrides, None)
    monkeypatch.setattr(registry, "registered", lambda _: entry)
    sae = as_registered(load_sae(str(folder)), entry.name)
    assert (sae.hookpoint, sae.normalisation) == (hookpoint, normalisation)


def test_without_sae_lens_a_release_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "registry_file", lambda: None)
    with pytest.raises(NotFoundError, match="not installed: pip install sae-lens"):
        load_sae("sae-lens:a/b")


def counts_of(page: str) -> dict[str, tuple[int, int, int]]:
    """(SAEs, read, misread) of each converter."""
    row = r"^\| `(\w+)` \| \d+ \| ([\d,]+) \| ([\d,]+) \| \d+ \| (\d+) \|"
    return {
        name: (int(n.replace(",", "")), int(read.replace(",", "")), int(misread))
        for name, n, read, misread in re.findall(row, page, re.MULTILINE)
    }


INSTALLED = registry.registry_file()


@pytest.mark.skipif(INSTALLED is None, reason="sae-lens, whose registry the page counts, is not installed")
def test_the_page_counts_what_the_installed_sae_lens_lists() -> None:
    assert INSTALLED is not None
    listed = Counter(entry.converter or "sae_lens" for entry in all_registered(INSTALLED))
    assert {name: n for name, (n, _, _) in counts_of(PAGE.read_text()).items()} == listed


def test_the_page_counts_every_converter(offline: Path) -> None:
    written = PAGE.read_text()
    counts = counts_of(written)
    assert set(counts) == {entry.converter or "sae_lens" for entry in ENTRIES}
    assert sum(n for n, _, _ in counts.values()) == 13_857
    assert sum(read for _, read, _ in counts.values()) >= 13_500
    assert sum(misread for _, _, misread in counts.values()) == 0
    # The text around the table is the command's.
    for paragraph in page(rows_of(ENTRIES[:1], offline)).split("\n\n"):
        assert paragraph in written or paragraph.startswith(("What is read", "| converter", "- `", "Refused"))
