"""Which files are asked of a hub, on a server of ours that speaks its API."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from labeler.errors import InputError, NotFoundError
from labeler.sae import load_layers, load_sae
from labeler.sae.load import is_set_of_layers
from tests.hub_server import COMMIT, Hub, connect, hub_at

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = GOLDEN / "published" / "hub"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Repositories in the layouts of their publishers, with files beside the SAEs that no one needs."""
    repositories = tmp_path / "hub"
    for source in PUBLISHED.iterdir():
        shutil.copytree(source, repositories / source.name)
    set_of_layers = repositories / "mntss--clt"
    shutil.copytree(GOLDEN / "published" / "circuit_tracer" / "ct_clt_relu", set_of_layers)
    (set_of_layers / "features").mkdir()
    (set_of_layers / "features" / "layer_0.bin").write_bytes(b"0" * 1000)
    saes = repositories / "owner--saes"
    shutil.copytree(GOLDEN / "sae" / "sparsify_topk" / "layers.1", saes / "layers.1")
    shutil.copytree(GOLDEN / "sae" / "gemma", saes / "layer_2" / "width_64")
    shutil.copytree(PUBLISHED / "Qwen--SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", repositories / "Qwen--newer" / "sub")
    (repositories / "Qwen--newer" / "config.json").write_text('{"k": 3, "hook_point": "blocks.0.hook_resid_post"}')
    for folder in repositories.iterdir():
        (folder / "README.md").write_text("A card.")
        (folder / "optimizer_state.safetensors").write_bytes(b"0" * 1000)
    with hub_at(repositories) as served:
        connect(served, tmp_path / "cache", monkeypatch)
        yield served


CLT = "hf:mntss/clt"
BENCH = "gemma-2-2b_topk_width-2pow12_date-1109/resid_post_layer_12/trainer_0"
KISSANE = "gpt2-small_L0_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v9"
SCOPE_2 = "transcoder/layer_17_width_16k_l0_big"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("hf:owner/saes/layers.1", ["layers.1/cfg.json", "layers.1/sae.safetensors"]),
        ("hf:owner/saes/layers.1/sae.safetensors", ["layers.1/cfg.json", "layers.1/sae.safetensors"]),
        ("hf:owner/saes/layer_2", ["layer_2/width_64/params.npz"]),
        (f"hf:google/gemma-scope-2-4b-pt/{SCOPE_2}", [f"{SCOPE_2}/config.json", f"{SCOPE_2}/params.safetensors"]),
        (
            "hf:fnlp/Llama3_1-8B-Base-LXA-8x",
            ["Llama3_1-8B-Base-L0A-8x/checkpoints/final.safetensors", "Llama3_1-8B-Base-L0A-8x/hyperparams.json"],
        ),
        (
            "hf:fnlp/Llama3_1-8B-Base-LXA-8x/Llama3_1-8B-Base-L0A-8x/checkpoints/final.safetensors",
            ["Llama3_1-8B-Base-L0A-8x/checkpoints/final.safetensors", "Llama3_1-8B-Base-L0A-8x/hyperparams.json"],
        ),
        ("hf:Qwen/newer/sub/layer0.sae.pt", ["config.json", "sub/layer0.sae.pt"]),
        ("hf:Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", ["layer0.sae.pt"]),
        ("hf:Goodfire/Llama-3.1-8B-Instruct-SAE-l19", ["Llama-3.1-8B-Instruct-SAE-l19.pth"]),
        (
            "hf:canrager/saebench_gemma-2-2b_width-2pow12_date-1109",
            [f"{BENCH}/ae.pt", f"{BENCH}/config.json"],
        ),
        ("hf:ckkissane/attn-saes-gpt2-small-all-layers", [f"{KISSANE}.pt", f"{KISSANE}_cfg.json"]),
        ("hf:mwhanna/qwen3-4b-transcoders/layer_0.safetensors", ["config.yaml", "layer_0.safetensors"]),
        (f"{CLT}/W_enc_1.safetensors@main", ["W_dec_1.safetensors", "W_enc_1.safetensors", "config.yaml"]),
    ],
)
def test_only_the_files_of_the_sae_are_asked_for(hub: Hub, name: str, files: list[str]) -> None:
    sae = load_sae(name)
    assert sorted(hub.downloaded) == files
    assert sae.source.revision == COMMIT


def test_a_configuration_at_the_root_of_the_repository_is_read(hub: Hub) -> None:
    assert load_sae("hf:Qwen/newer").selection.k == 3
    assert load_sae("hf:Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50").selection.k == 50


def test_shards_come_with_their_index(hub: Hub) -> None:
    from safetensors.torch import load_file, save_file

    source = hub.folder / "fnlp--Llama-Scope-R1-Distill" / "800M-Slimpajama-0-OpenR1-Math-220k" / "L0R"
    folder = hub.folder / "owner--shards"
    folder.mkdir()
    config = (source / "config.json").read_text().replace("dataset-wise", "inference")
    (folder / "config.json").write_text(config)
    tensors = load_file(source / "sae_weights.safetensors")
    halves: list[dict[str, object]] = [{}, {}]
    for i, (name, value) in enumerate(sorted(tensors.items())):
        halves[i % 2][name] = value
    names = [f"sae_weights-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, folder / name)
    index = json.dumps({"weight_map": dict(zip("ab", names, strict=True))})
    (folder / "sae_weights.safetensors.index.json").write_text(index)
    assert load_sae("hf:owner/shards").n_features == 64
    assert sorted(hub.downloaded) == ["config.json", *names, "sae_weights.safetensors.index.json"]


def test_of_a_set_only_the_layers_that_are_asked_for_come(hub: Hub) -> None:
    assert is_set_of_layers(CLT)
    assert hub.downloaded == []
    assert [sae.part.layer for sae in load_layers(CLT, [2, 0]) if sae.part] == [0, 2]
    layers = ["W_dec_0.safetensors", "W_dec_2.safetensors", "W_enc_0.safetensors", "W_enc_2.safetensors"]
    assert sorted(hub.downloaded) == [*layers, "config.yaml"]
    assert len(load_layers(CLT)) == 3
    with pytest.raises(InputError, match="no layers 3, 5-6 there; it holds 0-2"):
        load_layers(CLT, [0, 3, 5, 6])
    with pytest.raises(InputError, match="not a folder with a file for each layer"):
        load_layers("hf:owner/saes/layers.1", [0])


def test_a_path_that_means_several_names_them_and_downloads_nothing(hub: Hub) -> None:
    with pytest.raises(
        InputError,
        match=r"holds 2 SAEs; name one of them: hf:owner/saes/layer_2/width_64, hf:owner/saes/layers.1; `labeler saes",
    ):
        load_sae("hf:owner/saes")
    with pytest.raises(InputError, match=r"none is called after 'h\.7'"):
        load_sae("hf:owner/saes", hookpoint="h.7")
    assert hub.downloaded == []
    assert load_sae("hf:owner/saes", hookpoint="gpt_neox.layers.1").hookpoint == "layers.1"


def test_a_path_that_is_not_there_shows_the_nearest(hub: Hub) -> None:
    with pytest.raises(
        NotFoundError, match=r"no such file or folder as layer\.1; name one that it holds: hf:owner/saes/layers\.1 and"
    ):
        load_sae("hf:owner/saes/layer.1")
    (hub.folder / "owner--cards").mkdir()
    (hub.folder / "owner--cards" / "README.md").touch()
    with pytest.raises(NotFoundError, match=r"holds no weights of an SAE .* but README.md"):
        load_sae("hf:owner/cards")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf:owner/none", "the hub shows no repository owner/none: compare the name"),
        ("hf:owner/saes/layers.1@v2", "has no revision 'v2'; give a branch"),
        ("hf:google/gemma-scope-2-4b-pt/transcoder/layer_17_width_16k_l0_big", "is gated: accept its terms"),
        ("hf:Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "refuses Goodfire/.* to this login"),
        ("hf:ckkissane/attn-saes-gpt2-small-all-layers", r"cannot be fetched from here .*HTTP 410\). Download gpt2"),
    ],
)
def test_each_refusal_says_what_to_do(hub: Hub, name: str, says: str) -> None:
    hub.refused = {
        "google/gemma-scope-2-4b-pt": (403, "GatedRepo"),
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l19": (403, ""),
        "ckkissane/attn-saes-gpt2-small-all-layers": (410, ""),
    }
    with pytest.raises(NotFoundError, match=says):
        load_sae(name)


def test_without_a_network_what_was_downloaded_is_found(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_sae("hf:owner/saes/layers.1")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    again = load_sae("hf:owner/saes/layers.1")
    assert (again.source.revision, again.source.sha256) == (first.source.revision, first.source.sha256)
    # A name means the same with and without a network, whatever the cache holds.
    with pytest.raises(InputError, match="holds 2 SAEs; name one of them"):
        load_sae("hf:owner/saes")
    with pytest.raises(NotFoundError, match=r"cannot be asked now, .* does not hold layer_2/width_64/params\.npz"):
        load_sae("hf:owner/saes/layer_2")
    with pytest.raises(
        NotFoundError, match=r"the hub cannot be asked now, and .* holds no such file or folder as layer_3"
    ):
        load_sae("hf:owner/saes/layer_3")
    with pytest.raises(NotFoundError, match=r"cannot be fetched from here \(\w+\)\. Download the SAE's files"):
        load_sae("hf:google/gemma-scope-2-4b-pt")


def test_a_set_of_which_the_cache_holds_a_part_is_not_taken_for_the_whole(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_layers(CLT, [1])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(load_layers(CLT, [1])) == 1
    assert is_set_of_layers(CLT)
    with pytest.raises(NotFoundError, match=r"does not hold W_enc_0\.safetensors, W_dec_0\.safetensors, W_enc_2"):
        load_layers(CLT)


def test_an_sae_at_the_root_is_not_placed_by_the_name_of_the_commit(hub: Hub) -> None:
    shutil.copytree(GOLDEN / "sae" / "sparsify_topk" / "layers.1", hub.folder / "owner--root")
    assert load_sae("hf:owner/root").hookpoint is None
