"""What the golden files do not reach: several chunks, bfloat16, and odd hidden states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from labeler.sae import SAE, load_sae
from labeler.sae.load import to
from labeler.sae.sae import Selection, Source

GOLDEN = Path(__file__).parents[1] / "golden" / "sae"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_sae(selection: Selection, n_features: int = 640, d: int = 24) -> SAE:
    return SAE(
        random(n_features, d, seed=1) / d**0.5,
        random(n_features, seed=2) / 10,
        random(n_features, d, seed=3),
        random(d, seed=4),
        selection,
        "made up",
        Source(Path("made-up"), "test", ""),
        centred=True,
    )


N = 640
SELECTIONS = [
    Selection("relu"),
    Selection("topk", k=8),
    Selection("groupmax", k=8),
    Selection("threshold", threshold=torch.tensor(0.8)),
    Selection("threshold", threshold=torch.tensor(-1.0)),  # BatchTopK that stopped before its threshold was learnt
    Selection("threshold", threshold=random(N, seed=5)),
    Selection("gated", gate_bias=random(N, seed=6), magnitude_scale=random(N, seed=7).exp(), magnitude_bias=random(N)),
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: s.kind)
@pytest.mark.parametrize("n_tokens", [0, 1, 512, 1100])
def test_sparse_is_dense_without_the_zeros(selection: Selection, n_tokens: int) -> None:
    sae, hidden = make_sae(selection), random(n_tokens, 24, seed=8) * 2
    sparse = sae.encode_sparse(hidden)
    # Dense in the chunks of the sparse pass: products of other shapes may differ in the last bit.
    dense = torch.cat([sae.encode(part) for part in hidden.split(512)]) if n_tokens else sae.encode(hidden)
    token, feature = torch.nonzero(dense, as_tuple=True)
    assert torch.equal(sparse.token, token)
    assert torch.equal(sparse.feature, feature)
    assert torch.equal(sparse.value, dense[token, feature])
    torch.testing.assert_close(sae.decode_sparse(sparse, n_tokens), sae.decode(dense), atol=1e-4, rtol=1e-4)


def test_tokens_on_which_nothing_fires_decode_to_the_bias() -> None:
    sae = make_sae(Selection("threshold", threshold=torch.tensor(1e9)))
    sparse = sae.encode_sparse(random(3, 24))
    assert len(sparse.value) == 0
    torch.testing.assert_close(sae.decode_sparse(sparse, 3), sae.b_dec.expand(3, -1))


def test_bfloat16_is_for_the_encoder_alone() -> None:
    exact = make_sae(Selection("threshold", threshold=random(N, seed=5).abs()))
    rounded, hidden = to(exact, torch.bfloat16, "cpu"), random(200, 24, seed=8)
    assert rounded.w_enc.dtype == torch.bfloat16
    assert rounded.selection.threshold is not None
    assert rounded.w_dec.dtype == rounded.b_dec.dtype == rounded.selection.threshold.dtype == torch.float32
    torch.testing.assert_close(rounded.encode(hidden).float().sum(), exact.encode(hidden).sum(), rtol=0.01, atol=0)
    sparse = rounded.encode_sparse(hidden.bfloat16())
    reconstruction = rounded.decode_sparse(sparse, 200)
    error = (reconstruction - exact.decode(exact.encode(hidden))).norm() / reconstruction.norm()
    assert error < 0.05


def test_a_bias_that_bfloat16_cannot_hold_is_subtracted_before_rounding() -> None:
    """The last bits of 1000.25 are lost in bfloat16, and a feature that reads them would be lost with them."""
    sae = replace(make_sae(Selection("relu"), n_features=1, d=1), w_enc=torch.ones(1, 1), b_enc=torch.zeros(1))
    sae = to(replace(sae, b_dec=torch.tensor([1000.0])), torch.bfloat16, "cpu")
    assert sae.encode(torch.tensor([[1000.25]])).item() == 0.25


@pytest.mark.parametrize("name", ["saelens_topk_constant_norm_rescale", "saelens_topk_layer_norm"])
def test_hidden_states_of_zeros_stay_finite(name: str) -> None:
    sae, hidden = load_sae(str(GOLDEN / name)), torch.zeros(2, 16)
    assert torch.isfinite(sae.decode(sae.encode(hidden), hidden)).all()


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_a_transcoder_does_not_undo_the_normalisation_of_its_input(normalisation: str) -> None:
    sae = replace(make_sae(Selection("relu")), centred=False, is_transcoder=True, normalisation=normalisation)
    sae = replace(sae, w_dec=random(N, 10), b_dec=random(10, seed=1))  # writes vectors of another width
    hidden = random(5, 24) * 3
    activations = sae.encode(hidden)
    torch.testing.assert_close(sae.decode(activations, hidden), activations @ sae.w_dec + sae.b_dec)


def test_decoding_that_needs_the_hidden_states_asks_for_them() -> None:
    sae = load_sae(str(GOLDEN / "saelens_topk_layer_norm"))
    with pytest.raises(ValueError, match="needs the hidden states"):
        sae.decode(torch.zeros(1, 64))
