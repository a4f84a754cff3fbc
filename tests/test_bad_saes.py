"""SAEs and shards that cannot be used, by way of the commands: one clear message, exit code 2, and nothing lost."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from labeler.errors import LabelerError
from labeler.sae import load_sae
from tests.gathering import gather
from tests.planted import Planted
from tests.sae_formats import Weights, sparsify
from tests.test_cli import gather_words


def cut_short(folder: Path) -> None:
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def with_nan(folder: Path) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["W_dec"][3, 4] = float("nan")
    save_file(tensors, folder / "sae_weights.safetensors")


def with_infinite_threshold(folder: Path) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["threshold"] = tensors["b_enc"] + float("inf")
    save_file(tensors, folder / "sae_weights.safetensors")
    change_cfg(folder, architecture="jumprelu")


def change_cfg(folder: Path, **changes: object) -> None:
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(cfg | changes))


def at_hook(name: str) -> Callable[[Path], None]:
    return lambda folder: change_cfg(folder, metadata={"hook_name": name})


def transcoder_to(name: str) -> Callable[[Path], None]:
    metadata = {"hook_name": "gpt_neox.embed_in", "hook_name_out": name}
    return lambda folder: change_cfg(folder, architecture="transcoder", apply_b_dec_to_input=False, metadata=metadata)


def words(planted: Planted, sae: Path, out: Path) -> list[object]:
    return [
        "gather",
        "--subject",
        planted.subject,
        "--sae",
        sae,
        "--corpus",
        planted.corpus,
        "--out",
        out,
        "--sequence-tokens",
        96,
    ]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_short, r"sae_weights.safetensors: damaged or cut short"),
        (with_nan, "decoder weight holds NaN or infinity"),
        (with_infinite_threshold, "threshold holds NaN or infinity"),
        (at_hook("blocks.7.hook_resid_post"), "hookpoint 'blocks.7.hook_resid_post' is not a module of this model"),
        (at_hook("model.layers.0"), "the nearest are gpt_neox.layers.0"),
        (transcoder_to("blocks.0.hook_q"), "hook name 'blocks.0.hook_q' does not translate"),
    ],
)
def test_an_sae_that_cannot_be_used_is_named_and_nothing_is_begun(
    run,
    planted: Planted,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    says: str,  # type: ignore[no-untyped-def]
) -> None:
    sae = shutil.copytree(planted.sae, tmp_path / "sae")
    spoil(sae)
    done = run(*words(planted, sae, tmp_path / "evidence"))
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "evidence").exists()


def test_a_truncated_sparsify_file_is_named(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    sae = sparsify("topk", "topk").write(tmp_path / "sae", Weights.of(planted.sae))
    (weights,) = sae.rglob("sae.safetensors")
    weights.write_bytes(weights.read_bytes()[:200])
    done = run(*words(planted, sae, tmp_path / "evidence"))
    assert done.code == 2
    assert f"{weights}: damaged or cut short" in done.err


def test_the_mended_sae_goes_on_where_the_broken_one_was_refused(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The message asks for another file, so the same command with it has to work."""
    sae, out = shutil.copytree(planted.sae, tmp_path / "sae"), tmp_path / "evidence"
    cut_short(sae)
    assert run(*words(planted, sae, out)).code == 2
    shutil.copy(planted.sae / "sae_weights.safetensors", sae)
    assert run(*words(planted, sae, out)).code == 0


@pytest.fixture
def halves(planted: Planted, tmp_path: Path) -> Path:
    for i in (1, 2):
        gather(planted, tmp_path / "evidence", shard=(i, 2))
    return tmp_path / "evidence"


def test_a_shard_that_is_gone_is_named_and_the_other_is_kept(run, halves: Path, planted: Planted) -> None:  # type: ignore[no-untyped-def]
    shutil.rmtree(halves / "shards" / "1-of-2")
    done = run("merge", halves)
    assert done.code == 2
    assert "1 of 2 shards never came back: 1-of-2" in done.err
    assert "labeler gather --shard" in done.err
    assert not (halves / "manifest.json").exists()
    gather(planted, halves, shard=(1, 2))  # what the message says to do
    assert run("merge", halves).code == 0


def test_a_shard_that_was_never_finished_is_missing_too(run, halves: Path) -> None:  # type: ignore[no-untyped-def]
    checkpoint = halves / "shards" / "2-of-2" / "checkpoint.json"
    checkpoint.write_text(json.dumps(json.loads(checkpoint.read_text()) | {"complete": False}))
    done = run("merge", halves)
    assert done.code == 2
    assert "never came back: 2-of-2" in done.err
    assert (halves / "shards" / "1-of-2" / "checkpoint.json").exists()


def test_a_damaged_shard_is_named_and_nothing_is_merged(run, halves: Path) -> None:  # type: ignore[no-untyped-def]
    (state,) = (halves / "shards" / "2-of-2").glob("state-*.npz")
    state.write_bytes(state.read_bytes()[:1000])
    done = run("merge", halves)
    assert done.code == 2, done.err
    assert str(state) in done.err
    assert "damaged" in done.err
    assert not (halves / "manifest.json").exists()


def test_shards_of_different_cuts_are_refused(run, halves: Path, planted: Planted) -> None:  # type: ignore[no-untyped-def]
    gather(planted, halves, shard=(1, 3))
    done = run("merge", halves)
    assert done.code == 2
    assert "shards of different cuts (1-of-2, 1-of-3, 2-of-2)" in done.err


def _config(text: str) -> Callable[[Path], None]:
    return lambda sae: (sae / "cfg.json").write_text(text) and None


def _fifo(name: str) -> Callable[[Path], None]:
    def make(sae: Path) -> None:
        (sae / name).unlink()
        os.mkfifo(sae / name)

    return make


def _device(sae: Path) -> None:
    (sae / "sae_weights.safetensors").unlink()
    (sae / "sae_weights.safetensors").symlink_to("/dev/zero")


def _header(size: int, header: bytes) -> Callable[[Path], None]:
    return lambda sae: (sae / "sae_weights.safetensors").write_bytes(size.to_bytes(8, "little") + header) and None


def _openai(**tensors: object) -> Callable[[Path], None]:
    def make(sae: Path) -> None:
        for path in sae.iterdir():
            path.unlink()
        torch.save({"latent_bias": torch.zeros(4), "pre_bias": torch.zeros(4), **tensors}, sae / "0.pt")

    return make


def _raw_pickle(sae: Path) -> None:
    for path in sae.iterdir():
        path.unlink()
    (sae / "0.pt").write_bytes(pickle.dumps({"encoder.weight": Path("x")}))


_HUGE = b'{"W_enc":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda sae: change_cfg(sae, metadata=None), "give the module path with --hookpoint"),
        (lambda sae: change_cfg(sae, metadata=[1]), "cfg.json has metadata of type list; expected an object"),
        (
            lambda sae: change_cfg(sae, architecture="topk", activation_fn_kwargs=[4]),
            "activation_fn_kwargs of type list",
        ),
        (lambda sae: change_cfg(sae, architecture="topk", activation_fn_kwargs=None), "cfg.json: gives no k"),
        (
            lambda sae: change_cfg(sae, exclude_special_tokens="bos"),
            "exclude_special_tokens 'bos'; expected true, false or token ids",
        ),
        (lambda sae: change_cfg(sae, seqpos_slice=[1, 2, 0]), "seqpos_slice [1, 2, 0]; expected [start, stop]"),
        (_config("[" * 200_000), "cfg.json: nested deeper than 100 levels"),
        (_config('{"a":' * 300 + "1" + "}" * 300), "cfg.json: nested deeper than 100 levels"),
        (_config('{"k": ' + "9" * 5000 + "}"), "cfg.json: damaged, not JSON"),
        (_fifo("cfg.json"), "cfg.json is a FIFO; expected a regular file"),
        (_fifo("sae_weights.safetensors"), "sae_weights.safetensors is a FIFO; expected a regular file"),
        (_device, "sae_weights.safetensors is a device; expected a regular file"),
        (_header(2**62, b"{}"), "sae_weights.safetensors: damaged or cut short"),
        (_header(len(_HUGE), _HUGE), "sae_weights.safetensors: damaged or cut short"),
        (_raw_pickle, "0.pt: refused: it is damaged, or reading it would execute code"),
        (_openai(**{"encoder.weight": torch.zeros(1, 1).expand(10**6, 10**6)}), "the file holds fewer numbers"),
        (_openai(**{"encoder.weight": torch.zeros(4, 4).to_sparse()}), "is stored in a way that no SAE is"),
        (_openai(**{"encoder.weight": torch.zeros(10**6, 10**6, device="meta")}), "is stored in a way that no SAE is"),
    ],
)
def test_an_sae_that_means_harm_is_refused_with_the_cause(  # type: ignore[no-untyped-def]
    run, planted: Planted, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    sae = shutil.copytree(planted.sae, tmp_path / "sae")
    spoil(sae)
    done = run(*words(planted, sae, tmp_path / "evidence"))
    assert (done.code, says in done.err) == (2, True), done.err


def _sharded(values: object) -> Callable[[Path], None]:
    def make(sae: Path) -> None:
        (sae / "model.safetensors.index.json").write_text(json.dumps(values))

    return make


def _circuit_tracer(config: str) -> Callable[[Path], None]:
    def make(sae: Path) -> None:
        tensors = load_file(sae / "sae_weights.safetensors")
        for path in sae.iterdir():
            path.unlink()
        tensors["W_enc"] = tensors["W_enc"].T.contiguous()
        save_file(tensors, sae / "layer_0.safetensors")
        (sae / "config.yaml").write_text(config)

    return make


def _llama_scope(**changes: object) -> Callable[[Path], None]:
    def make(sae: Path) -> None:
        tensors = load_file(sae / "sae_weights.safetensors")
        for path in sae.iterdir():
            path.unlink()
        (sae / "checkpoints").mkdir()
        named = {
            "encoder.weight": tensors["W_enc"].T,
            "decoder.weight": tensors["W_dec"].T,
            "encoder.bias": tensors["b_enc"],
            "decoder.bias": tensors["b_dec"],
        }
        save_file({name: t.contiguous() for name, t in named.items()}, sae / "checkpoints" / "final.safetensors")
        values = {
            "d_model": 80,
            "jump_relu_threshold": 0.1,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": 1.0},
        } | changes
        (sae / "hyperparams.json").write_text(json.dumps(values))

    return make


def _long_name(sae: Path) -> None:
    path = sae / "sae_weights.safetensors"
    save_file({**load_file(path), "x" * 100_000: torch.zeros(1)}, path)


def _flat_decoder(sae: Path) -> None:
    path = sae / "sae_weights.safetensors"
    save_file({**load_file(path), "W_dec": torch.zeros(5, 4, 3)}, path)
    change_cfg(sae, architecture="topk", k=4, rescale_acts_by_decoder_norm=True)


_LAUGHS = 'l0: &l0 "ha"\n' + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_sharded({"weight_map": {"W_enc": "cfg.json"}}), "names files that hold no weights: cfg.json"),
        (_sharded({"weight_map": ["cfg.json"]}), "has no object `weight_map`"),
        (_sharded({"weight_map": {"a": {}, "b": 1}}), "names files that hold no weights"),
        (_sharded({"weight_map": {"a": "../sae_weights.safetensors"}}), "names files that are not there"),
        (_circuit_tracer(_LAUGHS + "model_kind: *l11"), "config.yaml: names a part again"),
        (_circuit_tracer("a: " + "[" * 30_000), "config.yaml: nested deeper than 100 levels"),
        (_circuit_tracer("a: 1\n" * 20_000), "config.yaml is larger than 64 KiB"),
        (_circuit_tracer("model_kind: transcoder_set"), "do not fit the layout that its files have (KeyError"),
        (_llama_scope(d_model=-1), "do not fit the layout that its files have (ValueError"),
        (_llama_scope(dataset_average_activation_norm={"in": 0}), "have (ZeroDivisionError"),
        (_llama_scope(jump_relu_threshold=[]), "have (TypeError"),
        (_flat_decoder, "do not fit the layout that its files have (RuntimeError"),
        (_openai(activation_state_dict=[1]), "have (AttributeError"),
        (_long_name, "it holds tensors that this format does not have: xxx"),
    ],
)
def test_an_sae_of_values_that_no_publisher_writes_is_refused_with_the_cause(
    planted: Planted, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    sae = shutil.copytree(planted.sae, tmp_path / "sae")
    spoil(sae)
    with pytest.raises(LabelerError) as raised:
        load_sae(str(sae))
    assert raised.value.exit_code == 2
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1_000


def test_a_long_value_of_a_stranger_is_not_repeated_whole(planted: Planted, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(planted.sae, tmp_path / "sae"))
    change_cfg(folder, architecture="x" * 50_000)
    with pytest.raises(LabelerError, match="is not supported") as refused:
        load_sae(str(folder))
    assert len(str(refused.value)) < 1_100


@pytest.mark.parametrize(("option", "says"), [("corpus", "corpus"), ("sae", "SAE")])
def test_a_path_to_nothing_is_named_before_the_subject_is_loaded(  # type: ignore[no-untyped-def]
    run, planted: Planted, tmp_path: Path, option: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("labeler.subject.model.load_subject", lambda name, **_: loaded.append(name))
    done = run(*gather_words(planted, tmp_path / "out", **{option: tmp_path / "nothing"}))
    assert (done.code, f"{says} '{tmp_path}/nothing': no such file or folder" in done.err) == (2, True)
    assert "load" not in done.err
    assert loaded == []
