"""Lens names against modules: on tiny models with real code, whose norms have gains that are not 1."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers

from labeler.errors import InputError, NotFoundError
from labeler.subject.hookpoints import Hookpoint, blocks_of, find_hookpoint, parse_hookpoint, reads_an_input
from labeler.subject.model import Subject

D, HEADS, LAYERS, VOCABULARY = 16, 2, 3, 32
_COMMON = {
    "hidden_size": D,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "head_dim": 8,
    "pad_token_id": 0,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": D, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCABULARY}),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "llama": ("LlamaConfig", _COMMON),
    "mistral": ("MistralConfig", _COMMON),
    "qwen2": ("Qwen2Config", _COMMON),
    "qwen3": ("Qwen3Config", _COMMON),
    "gemma": ("GemmaConfig", _COMMON),
    "gemma2": ("Gemma2Config", _COMMON),
    "gemma3_text": ("Gemma3TextConfig", _COMMON),
    "phi3": ("Phi3Config", _COMMON),
    "cohere": ("CohereConfig", _COMMON),
    "olmo2": ("Olmo2Config", _COMMON),
    "mixtral": ("MixtralConfig", {**_COMMON, "num_local_experts": 2}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": D,
            "num_layers": 2,
            "num_heads": HEADS,
            "vocab_size": VOCABULARY,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
}
RMS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
IDS = torch.arange(1, 13).view(2, 6)


@cache
def subject(family: str) -> Subject:
    name, values = CONFIGS[family]
    config = getattr(transformers, name)(**values)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Gains and biases that are not what they begin as, so that reading the wrong side of a norm shows.
            scale = 0.3 if "norm" in parameter_name or "ln_" in parameter_name else 0.15
            parameter.add_(torch.randn(parameter.shape) * scale)
    return Subject(family, "tiny", model, None, "cpu")


def read(family: str, name: str) -> torch.Tensor:
    s = subject(family)
    place = s.hookpoint(name)
    return s.hidden(IDS, [place])[place]


@pytest.mark.parametrize("family", CONFIGS)
def test_residual_streams_are_found_in_any_model(family: str) -> None:
    states = subject(family).model(IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(read(family, "blocks.1.hook_resid_pre"), states[1])
    torch.testing.assert_close(read(family, "blocks.0.hook_resid_post"), states[1])


@pytest.mark.parametrize("family", [*RMS, "gpt2"])
def test_what_is_written_adds_up_to_the_residual_stream(family: str) -> None:
    """resid_mid - resid_pre is what attention writes, and resid_post - resid_mid what the MLP writes: after all norms."""
    before, middle, after = (read(family, f"blocks.1.hook_resid_{x}") for x in ("pre", "mid", "post"))
    torch.testing.assert_close(read(family, "blocks.1.hook_attn_out"), middle - before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read(family, "blocks.1.hook_mlp_out"), after - middle, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", RMS)
def test_the_normed_input_is_taken_before_the_gain(family: str) -> None:
    middle = read(family, "blocks.1.hook_resid_mid")
    normed = middle / (middle.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(read(family, "blocks.1.ln2.hook_normalized"), normed, atol=1e-4, rtol=1e-3)
    place = subject(family).hookpoint("blocks.1.ln2.hook_normalized")
    plain = Hookpoint(place.path)
    with_gain = subject(family).hidden(IDS, [plain])[plain]
    assert not torch.allclose(with_gain, normed, atol=1e-2)


@pytest.mark.parametrize("family", [*RMS, "gpt2"])
def test_heads_and_mlp_are_read_at_inputs(family: str) -> None:
    blocks = blocks_of(subject(family).model)
    z, hidden = read(family, "blocks.1.attn.hook_z"), read(family, "blocks.1.mlp.hook_post")
    assert z.shape[-1] == D
    down = subject(family).model.get_submodule(f"{blocks}.1." + ("mlp.c_proj" if family == "gpt2" else "mlp.down_proj"))
    mlp = f"{blocks}.1.mlp"
    written = subject(family).hidden(IDS, [Hookpoint(mlp)])[Hookpoint(mlp)]
    torch.testing.assert_close(down(hidden), written, atol=1e-5, rtol=1e-4)
    given = read(family, "blocks.1.mlp.hook_in")
    torch.testing.assert_close(subject(family).model.get_submodule(mlp)(given), written, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "name", "says"),
    [
        ("llama", "blocks.1.hook_mlp_in", "residual before the norm in TransformerLens"),
        ("gpt2", "blocks.1.ln2.hook_normalized", "depends on how TransformerLens loaded the model"),
        ("gpt_neox", "blocks.1.hook_resid_mid", "has no such place"),
        ("llama", "blocks.1.attn.hook_q", "has no such place"),
        ("cohere", "blocks.1.hook_mlp_out", "'cohere' block were not checked"),
        ("llama", "hook_embed", "give the embedding module"),
    ],
)
def test_a_name_that_could_be_the_wrong_vector_is_refused(family: str, name: str, says: str) -> None:
    with pytest.raises(NotFoundError, match=says):
        subject(family).hookpoint(name)


def test_a_side_is_written_after_a_colon() -> None:
    assert parse_hookpoint("model.layers.1:input") == ("model.layers.1", "input", "")
    model = subject("llama").model
    assert find_hookpoint(model, "layers.1:input", model_type="llama") == Hookpoint("model.layers.1", "input")
    assert str(Hookpoint("model.layers.1", "input")) == "model.layers.1:input"
    with pytest.raises(InputError, match="expected PATH, PATH:input or PATH:output"):
        parse_hookpoint("model.layers.1:middle")


def test_the_centered_residual_stream_has_no_mean() -> None:
    centered = read("gpt2", "blocks.1.hook_resid_pre|centered")
    plain = read("gpt2", "blocks.1.hook_resid_pre")
    torch.testing.assert_close(centered, plain - plain.mean(-1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("blocks.0.hook_resid_post", False), ("blocks.0.attn.hook_z", True), ("m.o_proj:input", True), ("m.mlp", False)],
)
def test_inputs_are_known_by_their_names(name: str, expected: bool) -> None:
    assert reads_an_input(name) == expected
