"""What `labeler saes` says of a repository or folder, against what the readers say of the same files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import zeros

from labeler.errors import FormatError
from labeler.published.layouts import LAYOUTS
from labeler.sae import load_sae
from labeler.sae.formats import FORMATS
from tests.hub_server import Hub, connect, hub_at

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = GOLDEN / "published" / "hub"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repositories = tmp_path / "hub"
    for source in PUBLISHED.iterdir():
        shutil.copytree(source, repositories / source.name)
    shutil.copytree(GOLDEN / "published" / "circuit_tracer" / "ct_clt_relu", repositories / "mntss--clt")
    with hub_at(repositories) as served:
        connect(served, tmp_path / "cache", monkeypatch)
        yield served


def listed(run, *words: object) -> dict:  # type: ignore[no-untyped-def]
    done = run("saes", *words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("folder", [GOLDEN / "published", GOLDEN / "sae"], ids=lambda f: f.name)
def test_the_list_says_what_the_readers_say(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    found = listed(run, folder, "--limit", 100)
    assert found["n_found"] > 20
    for row in found["saes"]:
        sae = load_sae(row["sae"])
        assert (row["place"], row["format"]) == (sae.hookpoint, sae.source.format), row
        assert row["n_features"] == sae.n_features, row
    for kind in found["not_read"]:
        with pytest.raises(FormatError):
            load_sae(kind["first"])


def test_every_layout_has_a_reader_and_every_reader_that_names_its_files_a_layout() -> None:
    by_content = {"openai", "goodfire", "qresearch"}
    assert {layout.name for layout in LAYOUTS} - {""} == {form.NAME for form in FORMATS} - by_content


def test_a_repository_is_listed_by_names_configurations_and_headers(run, hub: Hub) -> None:  # type: ignore[no-untyped-def]
    found = listed(run, "google/gemma-scope-2-4b-pt")
    rows = {row["sae"]: (row["place"], row["n_features"], row["width"], row["l0"]) for row in found["saes"]}
    place = "model.layers.17.pre_feedforward_layernorm:output"
    name = "hf:google/gemma-scope-2-4b-pt/transcoder/layer_17_width_16k_l0_big"
    assert rows == {name: (place, 64, "16k", "big"), f"{name}_affine": (place, 64, "16k", "big")}
    assert all(file.endswith("config.json") for file in hub.downloaded)
    clt = listed(run, "hf:mntss/clt@main")
    assert [row["place"] for row in clt["saes"]] == [f"blocks.{n}.hook_resid_mid" for n in range(3)]
    assert {row["n_features"] for row in clt["saes"]} == {64}
    assert clt["sets"] == [{"sae": "hf:mntss/clt@main", "layers": [0, 1, 2]}]
    assert clt["saes"][1]["sae"] == "hf:mntss/clt/W_enc_1.safetensors@main"
    assert all(file.endswith((".json", ".yaml")) for file in hub.downloaded), "weights were downloaded"
    assert max(n for _, n in hub.ranges) <= 100_001
    assert listed(run, "hf:google/gemma-scope-2b-pt-att/layer_0")["saes"][0]["l0"] == "104"
    (goodfire,) = listed(run, "Goodfire/Llama-3.1-8B-Instruct-SAE-l19")["saes"]
    assert (goodfire["format"], goodfire["n_features"]) == ("goodfire", 64)
    assert hub.ranges[-1][1] <= 1 << 16


def test_a_repository_that_was_downloaded_is_listed_without_a_network(  # type: ignore[no-untyped-def]
    run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_sae("hf:mntss/clt/W_enc_1.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [row["sae"] for row in listed(run, "mntss/clt")["saes"]] == ["hf:mntss/clt"]
    missing = run("saes", "mntss/others")
    assert missing.code == 2
    assert "HF_HUB_OFFLINE is set, and the cache of this machine does not hold mntss/others: unset it" in missing.err


def test_the_table_has_the_name_to_type_and_the_next_command(run, hub: Hub) -> None:  # type: ignore[no-untyped-def]
    done = run("saes", "google/gemma-scope-2-4b-pt", "affine")
    head, row, *rest = done.out.splitlines()
    assert done.err == ""
    assert head.split() == ["PLACE", "FEATURES", "L0", "FORMAT", "SAE"]
    name = "hf:google/gemma-scope-2-4b-pt/transcoder/layer_17_width_16k_l0_big_affine"
    assert row.split() == ["model.layers.17.pre_feedforward_layernorm:output", "64", "big", "gemma_scope_2", name]
    assert "1 SAE with 'affine' in the name in google/gemma-scope-2-4b-pt" in rest
    assert rest[-1] == f"Next: labeler gather --sae {name} --subject MODEL --corpus TEXTS --out EVIDENCE"
    few = run("saes", "mntss/clt", "--limit", 1).out
    assert "3 SAEs in mntss/clt, of which these are the first 1: --limit N lists more" in few
    assert "layers 0-2 belong together: --sae hf:mntss/clt gathers all, and --layers 0 with it only one" in few
    assert run("saes", "mntss/clt", "layer_9").out == "no SAEs with 'layer_9' in the name in mntss/clt\n"


def test_a_list_that_the_hub_sends_in_pages_is_whole(run, hub: Hub) -> None:  # type: ignore[no-untyped-def]
    hub.page = 2
    assert [row["layer"] for row in listed(run, "mntss/clt")["saes"]] == [0, 1, 2]


def test_a_path_that_is_not_there_is_an_error(run, hub: Hub) -> None:  # type: ignore[no-untyped-def]
    done = run("saes", "mntss/clt/layer_3")
    assert done.code == 2
    assert "no such file or folder as layer_3 there; `labeler saes hf:mntss/clt` lists all" in done.err
    assert run("saes", "mntss/clt/features/").code == 2
    assert run("saes", "mntss/clt/W_enc_1.safetensors").out.count("hf:mntss/clt/W_enc_1.safetensors") == 2


def test_what_cannot_be_read_is_listed_by_its_reason(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "saes"
    odd = {
        "clt/sae.safetensors": {"cfg.json": {"n_targets": 3}},
        "batch/sae_weights.safetensors": {"cfg.json": {"architecture": "batchtopk"}},
        "class/ae.pt": {"config.json": {"trainer": {"dict_class": "CrossCoder"}}},
        "norm/sae_weights.safetensors": {"config.json": {"norm_activation": "batch-wise"}},
        "alone/sae.safetensors": {},
        "list/sae.safetensors": {"cfg.json": ["k"]},
        "model/model.safetensors": {},
        "damaged/other.safetensors": {},
    }
    for path, configs in odd.items():
        weights = folder / path
        weights.parent.mkdir(parents=True)
        save_file({"lm_head.weight": zeros(2, 2)}, weights)
        for name, value in configs.items():
            (weights.parent / name).write_text(json.dumps(value))
    (folder / "damaged" / "other.safetensors").write_bytes(b"no header")
    (folder / "text").mkdir()
    (folder / "text" / "paths.pth").write_text("/a/path\n")
    (folder / "empty").mkdir()
    (folder / "empty" / "weights.pt").touch()
    (folder / "arrays").mkdir()
    np.savez(folder / "arrays" / "tokens.npz", tokens=np.zeros(3))
    (folder / "zip").mkdir()
    (folder / "zip" / "params.npz").write_bytes(b"PK")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "paths.pth").write_text("/a/path\n")
    (folder / "pytorch_model.bin").touch()
    (folder / "optimizer.pt").touch()
    found = listed(run, folder)
    assert (found["saes"], found["n_found"]) == ([], len(odd) + 4)
    reasons = {Path(kind["first"]).name: kind["reason"] for kind in found["not_read"]}
    assert reasons.pop("damaged").startswith(
        f"{folder}/damaged/other.safetensors is damaged, not readable as safetensors"
    )
    n_of = {kind["reason"]: kind["n"] for kind in found["not_read"]}
    assert n_of["its tensors are those of no layout that is read"] == 2, "the arrays and the model"
    for name in ("text", "empty"):
        assert "is no file of torch, or damaged" in reasons.pop(name)
    assert "not readable as numpy's arrays" in reasons.pop("zip")
    assert reasons == {
        "clt": "of another library than sparsify: it needs n_targets",
        "batch": "architecture 'batchtopk' of SAELens",
        "class": "dict_class 'CrossCoder' of dictionary_learning",
        "norm": "norm_activation 'batch-wise', which cannot be reproduced for each token by itself",
        "alone": "no cfg.json beside the weights",
        "list": "list/cfg.json: expected an object, found list",
        "arrays": "its tensors are those of no layout that is read",
        "pytorch_model.bin": "ends in .bin; weights that are read end in .safetensors, .npz, .pt, .pth",
    }


def test_a_release_is_listed_by_its_ids(run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    registry = tmp_path / "pretrained_saes.yaml"
    folder = "800M-Slimpajama-0-OpenR1-Math-220k"
    saes = f"[{{id: l0r, path: {folder}/L0R}}, {{id: gone, path: {folder}/L9R}}]"
    registry.write_text(f"r1: {{repo_id: fnlp/Llama-Scope-R1-Distill, saes: {saes}}}")
    monkeypatch.setattr("labeler.sae.registry.registry_file", lambda: registry)
    found = listed(run, "sae-lens:r1")
    (row,) = found["saes"]
    assert found["not_read"] == [
        {"reason": "the repository does not hold its files", "n": 1, "first": "sae-lens:r1/gone"}
    ]
    assert (row["sae"], row["place"]) == ("sae-lens:r1/l0r", "blocks.1.hook_resid_post")
    assert "sae-lens lists no such release; it has r1" in run("saes", "sae-lens:r2").err


@pytest.mark.parametrize("where", ["", " ", "nothing", "./none/here", "/none/here", "~none", "hf:one"])
def test_a_place_that_is_none_says_what_to_give(run, where: str) -> None:  # type: ignore[no-untyped-def]
    done = run("saes", where)
    assert done.code == 2
    assert "hf:OWNER/REPO" in done.err or "write the full path" in done.err


def test_listing_loads_no_torch() -> None:
    code = (
        f"import sys; sys.argv = ['labeler', 'saes', {str(PUBLISHED)!r}]\n"
        "from labeler.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gemma_scope_2" in done.stdout
