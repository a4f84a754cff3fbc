"""The whole way for a published layout of each suite, as a user types it: `hf:` from the hub's cache, gather, label.

The files have the layouts and names of their publishers and lie in the cache as the hub puts them there, as links; subjects
are tiny and random. No hookpoint is given: names and files say it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from labeler.evidence.store import EvidenceFolder
from tests.hub_server import COMMIT
from tests.planted import CHARACTERS

D, F = 16, 24
Files = dict[str, Any]  # path in the repository -> tensors, or a configuration


# Biases are zero: hidden states of a random model are small, and a bias would decide alone what fires.
def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / 4


def _gemma_scope() -> Files:
    threshold = torch.full((F,), 1e-4)
    return {"W_enc": _random(D, F), "W_dec": _random(F, D), "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)} | {
        "threshold": threshold
    }


def _scope_2(*, affine: bool = False, n_layers: int = 0) -> Files:
    tensors = {name.lower(): value for name, value in _gemma_scope().items()}
    if affine:
        tensors["affine_skip_connection"] = _random(D, D)
    if n_layers:
        tensors["w_dec"] = _random(F, n_layers, D)
    return tensors


def _scope_2_config(reads: str, writes: str | None = None, *, affine: bool = False, kind: str = "sae") -> Files:
    return {
        "architecture": "jump_relu",
        "hf_hook_point_in": reads,
        "hf_hook_point_out": writes or reads,
        "affine_connection": affine,
        "type": kind,
    }


def _plain() -> Files:
    return {"W_enc": _random(F, D), "W_dec": _random(F, D), "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}


def _linear(encoder: str = "encoder", decoder: str = "decoder") -> Files:
    return {
        f"{encoder}.weight": _random(F, D),
        f"{encoder}.bias": torch.zeros(F),
        f"{decoder}.weight": _random(D, F),
        f"{decoder}.bias": _random(D),
    }


def _sparsify() -> Files:
    return {
        "encoder.weight": _random(F, D),
        "encoder.bias": torch.zeros(F),
        "W_dec": _random(F, D),
        "b_dec": torch.zeros(D),
    }


def _qwen_scope() -> Files:
    return {"W_enc": _random(F, D), "W_dec": _random(D, F), "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}


def _clt(n: int, n_layers: int) -> Files:
    encoder = {f"W_enc_{n}": _random(F, D), f"b_enc_{n}": torch.zeros(F), f"b_dec_{n}": _random(D)}
    return {
        f"W_enc_{n}.safetensors": encoder | {f"threshold_{n}": torch.full((F,), 1e-4)},
        f"W_dec_{n}.safetensors": {f"W_dec_{n}": _random(F, n_layers - n, D)},
    }


_NORM = {"norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 3.0, "out": 3.0}, "d_model": D}
_SCOPE_2 = "model.layers.1"
_NORM_IN, _NORM_OUT = f"{_SCOPE_2}.pre_feedforward_layernorm", f"{_SCOPE_2}.post_feedforward_layernorm"
_BRACES = "model.layers.{0,1}"
_KISSANE = "gpt2-small_L1_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096"
_BENCH = "gemma-2-2b_topk_width-2pow12/resid_post_layer_1/trainer_0"
_CLT_CONFIG = {
    "model_kind": "cross_layer_transcoder",
    "feature_input_hook": "hook_resid_mid",
    "feature_output_hook": "hook_mlp_out",
    "scan": "a-clt",
}
_SET_CONFIG = {
    "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "hook_mlp_out",
    "scan": "a-set",
}
_SHARDS = [f"sae_weights-0000{i}-of-00002.safetensors" for i in (1, 2)]


@dataclass(frozen=True)
class Layout:
    sae: str  # what is typed after `hf:`
    files: Files
    subject: str
    hookpoint: str
    reads: str = "output"
    repository: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "repository", "/".join(self.sae.split("/")[:2]))

    def __str__(self) -> str:
        return self.sae


def _gemma(kind: str, hookpoint: str, reads: str = "output", folder: str = "layer_1/width_16k/average_l0_82") -> Layout:
    files = {f"{folder}/params.npz": _gemma_scope()}
    return Layout(f"google/gemma-scope-2b-pt-{kind}/{folder}", files, "gemma2", hookpoint, reads)


def _gemma_2(path: str, reads: str, writes: str | None = None, *, affine: bool = False, config: bool = True) -> Layout:
    files = {f"{path}/params.safetensors": _scope_2(affine=affine)}
    if config:
        files[f"{path}/config.json"] = _scope_2_config(reads, writes, affine=affine)
    place, _, side = reads.rpartition(".")
    return Layout(f"google/gemma-scope-2-1b-pt/{path}", files, "gemma3_text", place, side)


LAYOUTS = (
    _gemma("res", _SCOPE_2),
    _gemma("mlp", _NORM_OUT),
    _gemma("att", f"{_SCOPE_2}.self_attn.o_proj", "input"),
    _gemma("transcoders", _NORM_IN),
    _gemma("res", "model.embed_tokens", folder="embedding/width_4k/average_l0_6"),
    _gemma_2("resid_post/layer_1_width_16k_l0_small", f"{_SCOPE_2}.output"),
    _gemma_2("resid_post/layer_1_width_65k_l0_big", f"{_SCOPE_2}.output", config=False),
    _gemma_2("mlp_out/layer_1_width_16k_l0_small", f"{_NORM_OUT}.output"),
    _gemma_2("attn_out/layer_1_width_16k_l0_small", f"{_SCOPE_2}.self_attn.o_proj.input"),
    _gemma_2("transcoder/layer_1_width_16k_l0_big", f"{_NORM_IN}.output", f"{_NORM_OUT}.output"),
    _gemma_2("transcoder/layer_1_width_16k_l0_big_affine", f"{_NORM_IN}.output", f"{_NORM_OUT}.output", affine=True),
    Layout(
        "google/gemma-scope-2-1b-pt/clt/width_262k_l0_medium_affine/params_layer_1.safetensors",
        {
            **{
                f"clt/width_262k_l0_medium_affine/params_layer_{n}.safetensors": _scope_2(affine=True, n_layers=2)
                for n in (0, 1)
            },
            "clt/width_262k_l0_medium_affine/config.json": _scope_2_config(
                f"{_BRACES}.pre_feedforward_layernorm.output",
                f"{_BRACES}.post_feedforward_layernorm.output",
                affine=True,
                kind="clt",
            ),
        },
        "gemma3_text",
        _NORM_IN,
    ),
    Layout(
        "google/gemma-scope-2-1b-pt/crosscoder/layer_0_1_width_65k_l0_medium/params_layer_1.safetensors",
        {
            **{
                f"crosscoder/layer_0_1_width_65k_l0_medium/params_layer_{n}.safetensors": _scope_2(n_layers=2)
                for n in (0, 1)
            },
            "crosscoder/layer_0_1_width_65k_l0_medium/config.json": _scope_2_config(
                f"{_BRACES}.output", kind="crosscoder"
            ),
        },
        "gemma3_text",
        _SCOPE_2,
    ),
    Layout(
        "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_8/layer1.sae.pt",
        {f"layer{n}.sae.pt": _qwen_scope() for n in (0, 1)},
        "qwen3",
        _SCOPE_2,
    ),
    Layout(
        "Qwen/SAE-Res-Qwen3.5-2B/layer1.sae.pt",
        {
            **{f"layer{n}.sae.pt": _qwen_scope() for n in (0, 1)},
            "config.json": {"k": 8, "hook_point": "blocks.{layer}.hook_resid_post"},
        },
        "qwen3",
        _SCOPE_2,
    ),
    *(
        Layout(
            f"fnlp/Llama3_1-8B-Base-LX{kind}-8x/Llama3_1-8B-Base-L1{kind}-8x",
            {
                f"Llama3_1-8B-Base-L1{kind}-8x/checkpoints/final.safetensors": _linear(),
                f"Llama3_1-8B-Base-L1{kind}-8x/hyperparams.json": _NORM
                | {"jump_relu_threshold": 1e-4, "hook_point_in": f"blocks.1.{hook}", "act_fn": "jumprelu"},
            },
            "llama",
            place,
        )
        for kind, hook, place in (
            ("R", "hook_resid_post", _SCOPE_2),
            ("M", "hook_mlp_out", f"{_SCOPE_2}.mlp"),
            ("A", "hook_attn_out", f"{_SCOPE_2}.self_attn"),
        )
    ),
    Layout(
        "fnlp/Llama-Scope-R1-Distill/800M-Slimpajama-0-OpenR1-Math-220k/L1R",
        {
            "800M-Slimpajama-0-OpenR1-Math-220k/L1R/sae_weights.safetensors": _linear()
            | {"log_jumprelu_threshold": torch.full((F,), -9.0)},
            "800M-Slimpajama-0-OpenR1-Math-220k/L1R/config.json": _NORM | {"hook_point_in": "blocks.1.hook_resid_post"},
        },
        "llama",
        _SCOPE_2,
    ),
    Layout(
        "OpenMOSS-Team/Llama-Scope-2/L1R",
        {
            "L1R/sae_weights.safetensors": {
                "W_E": _random(D, F),
                "W_D": _random(F, D),
                "b_E": torch.zeros(F),
                "b_D": _random(D),
                "activation_function.log_jumprelu_threshold": torch.full((F,), -9.0),
            },
            "L1R/config.json": {
                "sae_type": "sae",
                "act_fn": "jumprelu",
                "norm_activation": "inference",
                "hook_point_in": "blocks.1.hook_resid_post",
                "hook_point_out": "blocks.1.hook_resid_post",
                "d_model": D,
            },
        },
        "llama",
        _SCOPE_2,
    ),
    Layout(
        "OpenMOSS-Team/shards/L1R",
        {
            **{
                f"L1R/{name}": {k: v for i, (k, v) in enumerate(_linear().items()) if i // 2 == n}
                for n, name in enumerate(_SHARDS)
            },
            "L1R/sae_weights.safetensors.index.json": {
                "weight_map": {k: _SHARDS[i // 2] for i, k in enumerate(_linear())}
            },
            "L1R/config.json": {"act_fn": "relu", "hook_point_in": "blocks.1.hook_resid_post", "d_model": D},
        },
        "llama",
        _SCOPE_2,
    ),
    Layout(
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l1",
        {"Llama-3.1-8B-Instruct-SAE-l1.pth": _linear("encoder_linear", "decoder_linear")},
        "llama",
        _SCOPE_2,
    ),
    Layout(
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l1",
        {"DeepSeek-R1-Distill-Llama-8B-SAE-l1.pt": _linear()},
        "llama",
        _SCOPE_2,
    ),
    Layout(
        "mwhanna/qwen3-4b-transcoders/layer_1.safetensors",
        {**{f"layer_{n}.safetensors": _plain() for n in (0, 1)}, "config.yaml": _SET_CONFIG},
        "qwen3",
        f"{_SCOPE_2}.mlp",
        "input",
    ),
    Layout(
        "mwhanna/qwen3-14b-transcoders/layer_1.safetensors",
        {f"layer_{n}.safetensors": _plain() for n in (0, 1)},
        "qwen3",
        f"{_SCOPE_2}.mlp",
        "input",
    ),
    Layout(
        "mntss/clt-gemma-2-2b-2.5M/W_enc_1.safetensors",
        {**_clt(0, 2), **_clt(1, 2), "config.yaml": _CLT_CONFIG},
        "gemma2",
        _NORM_IN,
        "input",
    ),
    Layout(
        "EleutherAI/sae-pythia-70m-32k/layers.1",
        {
            "layers.1/sae.safetensors": _sparsify(),
            "layers.1/cfg.json": {"activation": "topk", "k": 8, "d_in": D},
            "layers.0/sae.safetensors": _sparsify(),
            "layers.0/cfg.json": {"activation": "topk", "k": 8, "d_in": D},
        },
        "gpt_neox",
        "gpt_neox.layers.1",
    ),
    Layout(
        "EleutherAI/skip-transcoder-Llama-3.2-1B-131k/layers.1.mlp/sae.safetensors",
        {
            "layers.1.mlp/sae.safetensors": _sparsify() | {"W_skip": _random(D, D)},
            "layers.1.mlp/cfg.json": {"activation": "topk", "k": 8, "d_in": D, "skip_connection": True},
        },
        "llama",
        f"{_SCOPE_2}.mlp",
        "input",
    ),
    Layout(
        f"canrager/saebench_gemma-2-2b_width-2pow12_date-1109/{_BENCH}",
        {
            f"{_BENCH}/ae.pt": {
                "_orig_mod.encoder.weight": _random(F, D),
                "_orig_mod.encoder.bias": torch.zeros(F),
                "_orig_mod.decoder.weight": _random(D, F),
                "_orig_mod.b_dec": torch.zeros(D),
                "k": torch.tensor(8),
            },
            f"{_BENCH}/config.json": {
                "trainer": {"dict_class": "AutoEncoderTopK", "layer": 1, "submodule_name": "resid_post_layer_1"}
            },
        },
        "gemma2",
        _SCOPE_2,
    ),
    Layout(
        f"ckkissane/attn-saes-gpt2-small-all-layers/{_KISSANE}.pt",
        {
            f"{_KISSANE}.pt": _gemma_scope() | {"threshold": None},
            f"{_KISSANE}_cfg.json": {"act_name": "blocks.1.attn.hook_z"},
        },
        "gpt2",
        "transformer.h.1.attn.c_proj",
        "input",
    ),
    Layout(
        "jbloom/GPT2-Small-SAEs/v5_32k_layer_1/sae_weights.safetensors",
        {
            "v5_32k_layer_1/sae_weights.safetensors": _gemma_scope() | {"threshold": None},
            "v5_32k_layer_1/cfg.json": {"hook_name": "blocks.1.hook_resid_pre", "d_in": D, "d_sae": F},
            "v5_32k_layer_1/sparsity.safetensors": {"sparsity": _random(F)},
        },
        "gpt2",
        "transformer.h.1",
        "input",
    ),
    Layout(
        "chanind/matching-pursuit/layer_1",
        {
            "layer_1/sae_weights.safetensors": {"W_dec": _random(F, D), "b_dec": torch.zeros(D)},
            "layer_1/cfg.json": {
                "architecture": "matching_pursuit",
                "max_iterations": 4,
                "residual_threshold": 1e-6,
                "metadata": {"hook_name": "blocks.1.hook_resid_post"},
            },
        },
        "llama",
        _SCOPE_2,
    ),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    numbers = np.random.default_rng(0)
    for i in range(24):
        (folder / f"{i}.txt").write_text("".join(numbers.choice(list(CHARACTERS), 80)))
    return folder


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny random model of a family, with two blocks, made once."""
    folder = tmp_path_factory.mktemp("subjects")

    def made(model_type: str) -> Path:
        if not (folder / model_type).exists():
            write_subject(model_type, folder / model_type)
        return folder / model_type

    return made


def write_subject(model_type: str, folder: Path, n_layers: int = 2) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<|endoftext|>": 0} | {c: i for i, c in enumerate(CHARACTERS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    ends = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(vocabulary),
        hidden_size=D,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
        **({} if model_type in ("gpt2", "gpt_neox") else {"num_key_value_heads": 1, "head_dim": D // 2}),
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download(layout: Layout, cache: Path) -> None:
    """Put the files there as the hub's library does: content in `blobs`, and links to it below the commit."""
    repository = cache / f"models--{layout.repository.replace('/', '--')}"
    for folder in ("refs", "blobs"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for path, content in layout.files.items():
        link = repository / "snapshots" / COMMIT / path
        link.parent.mkdir(parents=True, exist_ok=True)
        written = repository / "blobs" / "new"
        _write(content, link.suffix, written)
        blob = written.rename(repository / "blobs" / hashlib.sha256(path.encode()).hexdigest())
        link.symlink_to(Path(*[".."] * (len(Path(path).parts) + 1)) / "blobs" / blob.name)


def _write(content: Files, suffix: str, path: Path) -> None:
    tensors = {name: value for name, value in content.items() if value is not None}
    if suffix in (".json", ".yaml"):
        path.write_text(json.dumps(content))  # which is YAML, too
    elif suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **{name: value.numpy() for name, value in tensors.items()})
    elif suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    else:
        torch.save(tensors, path)


def gather(run, subject: Path, sae: str, corpus: Path, out: Path, *more: object) -> None:  # type: ignore[no-untyped-def]
    words = ("gather", "--subject", subject, "--sae", sae, "--corpus", corpus, "--out", out)
    done = run(*words, "--sequence-tokens", 64, "--no-neighbours", "--force", *more)
    assert done.code == 0, done.err


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_published_sae_is_gathered_and_labeled_without_a_hookpoint(  # type: ignore[no-untyped-def]
    layout: Layout, run, subject: Callable[[str], Path], corpus: Path, cache: Path, tmp_path: Path
) -> None:
    download(layout, cache)
    evidence = tmp_path / "evidence"
    gather(run, subject(layout.subject), f"hf:{layout.sae}", corpus, evidence)
    manifest = EvidenceFolder(evidence).manifest
    assert (manifest["hookpoint"], manifest["reads"]) == (layout.hookpoint, layout.reads)
    assert manifest["sae"]["n_features"] == F
    done = run("label", evidence, "--features", "0-7", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["now"].get("labeled", 0) >= 4
    (listed,) = (row for row in json.loads(run("saes", f"hf:{layout.sae}", "--json").out)["saes"])
    assert listed["sae"].startswith(f"hf:{layout.repository}")


def test_a_set_of_the_hub_is_gathered_as_a_whole_or_by_layers(  # type: ignore[no-untyped-def]
    run, subject: Callable[[str], Path], corpus: Path, cache: Path, tmp_path: Path
) -> None:
    clt = next(layout for layout in LAYOUTS if layout.repository == "mntss/clt-gemma-2-2b-2.5M")
    download(clt, cache)
    gather(run, subject("gemma2"), f"hf:{clt.repository}", corpus, tmp_path / "all")
    assert len(list((tmp_path / "all").iterdir())) == 2
    gather(run, subject("gemma2"), f"hf:{clt.repository}", corpus, tmp_path / "one", "--layers", 0)
    assert EvidenceFolder(tmp_path / "one").manifest["hookpoint"] == "model.layers.0.pre_feedforward_layernorm"


def test_a_repository_of_several_asks_for_one_by_its_name(  # type: ignore[no-untyped-def]
    run, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    suite = next(layout for layout in LAYOUTS if layout.repository == "EleutherAI/sae-pythia-70m-32k")
    download(suite, cache)
    name = f"hf:{suite.repository}"
    # Before the subject is looked for, which can be large.
    words = ("gather", "--subject", tmp_path / "none", "--sae", name, "--corpus", corpus, "--out", tmp_path / "out")
    done = run(*words)
    assert done.code == 2
    assert f"holds 2 SAEs; name one of them: {name}/layers.0, {name}/layers.1; `labeler saes" in done.err


def test_every_reader_has_a_published_layout_here() -> None:
    from labeler.sae.formats import FORMATS

    # OpenAI's files are no repository of the hub, and temporal SAEs are refused.
    assert len(LAYOUTS) >= 27
    assert {form.NAME for form in FORMATS} - {"openai", "temporal"} == {
        "cross_layer",
        "circuit_tracer",
        "gemma_scope_2",
        "gemma_scope",
        "llama_scope",
        "sparsify",
        "saelens",
        "openmoss",
        "dictionary_learning",
        "goodfire",
        "hook_z",
        "qwen_scope",
        "qresearch",
    }
