"""One SAE of each kind in sae-lens' registry reads as sae-lens reads it, and the page of the documentation counts all."""

from __future__ import annotations

import re
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


def test_without_sae_lens_a_release_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "registry_file", lambda: None)
    with pytest.raises(NotFoundError, match="not installed: pip install sae-lens"):
        load_sae("sae-lens:a/b")


def test_the_page_counts_every_converter(offline: Path) -> None:
    written = PAGE.read_text()
    counts = {
        name: (int(n.replace(",", "")), int(read.replace(",", "")), int(misread))
        for name, n, read, misread in re.findall(
            r"^\| `(\w+)` \| \d+ \| ([\d,]+) \| ([\d,]+) \| [^|]* \| (\d+) \|", written, re.MULTILINE
        )
    }
    assert set(counts) == {entry.converter or "sae_lens" for entry in ENTRIES}
    assert sum(n for n, _, _ in counts.values()) == 13_857
    assert sum(read for _, read, _ in counts.values()) >= 13_500
    assert sum(misread for _, _, misread in counts.values()) == 0
    # The text around the table is the command's.
    for paragraph in page(rows_of(ENTRIES[:1], offline)).split("\n\n"):
        assert paragraph in written or paragraph.startswith(("What is read", "| converter"))
