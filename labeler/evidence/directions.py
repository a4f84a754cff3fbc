"""Read a feature's decoder direction without any text: the tokens it promotes, and the features nearest to it.

    output.tokens.npy      [n_features, 2 * 10] token ids: the 10 most promoted, then the 10 most suppressed
    output.logits.npy      [n_features, 2 * 10] their logits
    output.histogram.npy   [n_features, 40] uint32, logits over the vocabulary in equal bins
    output.range.npy       [n_features, 2] lowest and highest logit: the edges of the histogram
    output.places.tokens.npy, output.places.logits.npy   [n_features, P * 2 * 10] the same for each of P places, where a
                           feature writes to several
    neighbours.features.npy, neighbours.cosines.npy   [n_features, 10], nearest first

The logits are the "logit lens" of nostalgebraist (2020): the decoder row, times the weight of the final norm, through
the unembedding. The norm's division is left out, since it scales all logits of a feature alike. Where a feature writes to
several layers, its row is what reaches the output by itself: a transcoder's writes add up, and of an autoencoder's, which
describe one stream at several depths, the last counts (`SAE.decoder_directions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labeler.errors import DamagedFeatureError
from labeler.evidence.manifest import is_listed
from labeler.evidence.progress import Progress, no_progress
from labeler.files import save_npy

if TYPE_CHECKING:  # the files are read without torch
    from torch import Tensor, nn

    from labeler.evidence.store import EvidenceFolder
    from labeler.sae import SAE
    from labeler.subject.model import Subject

OUTPUT, NEIGHBOURS = "output.tokens.npy", "neighbours.cosines.npy"  # each written last of its kind
PLACES = "output.places.tokens.npy"
N_TOKENS = 10
N_NEIGHBOURS = 10
N_BINS = 40
_BLOCK = 1024
_MANY_VALUES = 1 << 29  # of decoders with several places: 2 GB
_MANY_ON_CPU, _MANY_ON_GPU = 1 << 17, 1 << 21  # features whose neighbors take some minutes


@dataclass(frozen=True)
class Output:
    """The output side of one feature: the tokens that its decoder direction promotes and suppresses."""

    promoted: tuple[tuple[int, float], ...]  # (token id, logit), highest first
    suppressed: tuple[tuple[int, float], ...]  # lowest first
    histogram: tuple[int, ...]
    low: float
    high: float


@dataclass(frozen=True)
class PlaceOutput:
    """The tokens that one of a feature's decoder directions promotes and suppresses, and the place that it writes to."""

    place: str
    promoted: tuple[tuple[int, float], ...]  # (token id, logit), highest first
    suppressed: tuple[tuple[int, float], ...]


def has_output(folder: Path) -> bool:
    return is_listed(folder, OUTPUT)


def has_neighbours(folder: Path) -> bool:
    return is_listed(folder, NEIGHBOURS)


def neighbours_are_cheap(sae: SAE) -> bool:
    """Return True if n_features^2 cosines take only a few minutes on the device that holds the SAE."""
    many = _MANY_ON_GPU if sae.b_dec.is_cuda else _MANY_ON_CPU
    if sae.n_places > 1 and sae.w_dec.numel() > _MANY_VALUES:
        return False
    return bool(sae.n_features * sae.n_places**0.5 <= many)  # a cosine over P places takes P times as long


def write_output(folder: Path, subject: Subject, sae: SAE, on_progress: Progress = no_progress) -> None:
    """Write the output side of each feature, one block of features at a time.

    Nothing is written where the SAE writes into a space that the subject's unembedding does not read.
    """
    unembedding = _unembedding(subject)
    if unembedding is None:
        return
    directions = sae.decoder_directions()
    if unembedding.shape[1] == directions.shape[1]:
        if sae.n_places > 1:
            _write_places(folder, sae, unembedding, on_progress)
        _write_output(folder, directions.to(unembedding.device), unembedding, on_progress)


def write_neighbours(folder: Path, sae: SAE, on_progress: Progress = no_progress) -> None:
    from labeler.sae.neighbours import nearest_neighbours

    features, cosines = nearest_neighbours(
        sae, k=N_NEIGHBOURS, on_features=lambda n: on_progress("neighbours", n, sae.n_features)
    )
    save_npy(folder / "neighbours.features.npy", features)
    save_npy(folder / "neighbours.cosines.npy", cosines)  # last: with it, all of this is done


def _unembedding(subject: Subject) -> Tensor | None:
    """Return [vocabulary, d] with the final norm's weight folded in; None for a subject without an unembedding."""
    head = subject.model.get_output_embeddings()
    if head is None:
        return None
    weight: Tensor = head.weight.detach().float()
    norm = _final_norm(subject.model)
    if norm is None:
        return weight
    gain: Tensor = norm.get_parameter("weight").detach().float()
    # Gemma's RMSNorm multiplies by 1 + weight.
    return weight * (1.0 + gain if "gemma" in subject.model_type else gain)


def _final_norm(model: nn.Module) -> nn.Module | None:
    for name in ("transformer.ln_f", "gpt_neox.final_layer_norm", "model.norm", "model.final_layernorm"):
        try:
            return model.get_submodule(name)
        except AttributeError:
            continue
    return None


def _write_places(folder: Path, sae: SAE, unembedding: Tensor, on_progress: Progress) -> None:
    """Write the tokens of each place, in the order of the places."""
    n = 2 * N_TOKENS
    arrays = {
        name: np.zeros((sae.n_features, sae.n_places * n), dtype=kind)
        for name, kind in (("tokens", np.int32), ("logits", np.float32))
    }
    for place in range(sae.n_places):
        for low in range(0, sae.n_features, _BLOCK):
            rows, columns = slice(low, low + _BLOCK), slice(place * n, (place + 1) * n)
            logits = sae.directions_to(place, rows) @ unembedding.T
            arrays["tokens"][rows, columns], arrays["logits"][rows, columns] = _extremes(logits)
        on_progress("logit lens", (place + 1) * sae.n_features, (sae.n_places + 1) * sae.n_features)
    for name, array in arrays.items():
        save_npy(folder / f"output.places.{name}.npy", array)


def _extremes(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and logits, [features, 2 * N_TOKENS] each: the most promoted, then the most suppressed."""
    k = min(N_TOKENS, logits.shape[1])
    tokens, values = np.zeros((len(logits), 2 * N_TOKENS), np.int32), np.zeros((len(logits), 2 * N_TOKENS), np.float32)
    for begin, best in ((0, logits.topk(k)), (N_TOKENS, logits.topk(k, largest=False))):
        tokens[:, begin : begin + k] = best.indices.cpu().numpy()
        values[:, begin : begin + k] = best.values.cpu().numpy()
    return tokens, values


def _write_output(folder: Path, directions: Tensor, unembedding: Tensor, on_progress: Progress) -> None:
    import torch

    width = {"tokens": 2 * N_TOKENS, "logits": 2 * N_TOKENS, "histogram": N_BINS, "range": 2}
    kinds = {"tokens": np.int32, "logits": np.float32, "histogram": np.uint32, "range": np.float32}
    arrays = {n: np.zeros((len(directions), width[n]), dtype=kinds[n]) for n in width}
    for low in range(0, len(directions), _BLOCK):
        logits = directions[low : low + _BLOCK].float() @ unembedding.T
        rows = slice(low, low + len(logits))
        arrays["tokens"][rows], arrays["logits"][rows] = _extremes(logits)
        lowest, highest = logits.amin(1, keepdim=True), logits.amax(1, keepdim=True)
        arrays["range"][rows] = torch.cat([lowest, highest], 1).cpu().numpy()
        bins = ((logits - lowest) / (highest - lowest).clamp_min(1e-30) * N_BINS).long().clamp_(0, N_BINS - 1)
        counts = torch.zeros(len(logits), N_BINS, dtype=torch.long, device=logits.device)
        counts.scatter_add_(1, bins, torch.ones_like(bins))
        arrays["histogram"][rows] = counts.cpu().numpy()
        on_progress("logit lens", min(low + _BLOCK, len(directions)), len(directions))
    for name, array in reversed(arrays.items()):  # the tokens last: with them, all of this is done
        save_npy(folder / f"output.{name}.npy", array)


def read_output(folder: EvidenceFolder, feature_index: int) -> Output | None:
    """Return the output side of a feature; None where the subject has none or the pass did not write it.

    Raises DamagedFeatureError.
    """
    if not folder.files.has(OUTPUT):
        return None
    tokens, logits, (low, high) = (
        _row(folder, f"output.{name}", feature_index) for name in ("tokens", "logits", "range")
    )
    promoted, suppressed = _sides(folder, OUTPUT, feature_index, tokens, logits)
    if low != low:  # NaN: evidence that others have gathered, without this feature's histogram
        return Output(promoted, suppressed, (), 0.0, 0.0)
    histogram = tuple(_row(folder, "output.histogram", feature_index))
    return Output(promoted, suppressed, histogram, low, high)


def read_places(folder: EvidenceFolder, feature_index: int) -> tuple[PlaceOutput, ...]:
    """Return the output side of a feature at each place that it writes to; nothing where that is one place.

    Raises DamagedFeatureError.
    """
    if not folder.files.has(PLACES):
        return ()
    tokens, logits = (_row(folder, f"output.places.{name}", feature_index) for name in ("tokens", "logits"))
    n = 2 * N_TOKENS
    return tuple(
        PlaceOutput(place, *_sides(folder, PLACES, feature_index, tokens[i : i + n], logits[i : i + n]))
        for place, i in zip(folder.manifest.get("writes", ()), range(0, len(tokens), n), strict=False)
    )


_Side = tuple[tuple[int, float], ...]


def _sides(
    folder: EvidenceFolder, name: str, feature_index: int, tokens: list[int], logits: list[float]
) -> tuple[_Side, _Side]:
    """Return what is promoted and suppressed, of a row of twice N_TOKENS."""
    if any(token >= len(folder.vocabulary) for token in tokens):
        raise DamagedFeatureError(folder.folder, name, f"feature {feature_index} has a token outside the vocabulary")
    pairs = list(zip(tokens, logits, strict=True))
    promoted, suppressed = (tuple(p for p in side if p[0] >= 0) for side in (pairs[:N_TOKENS], pairs[N_TOKENS:]))
    return promoted, suppressed


def read_neighbours(folder: EvidenceFolder, feature_index: int) -> tuple[tuple[int, float], ...]:
    """Return (feature index, cosine of the decoder directions) of the nearest features, nearest first.

    Raises DamagedFeatureError.
    """
    if not folder.files.has(NEIGHBOURS):
        return ()
    features, cosines = (_row(folder, f"neighbours.{name}", feature_index) for name in ("features", "cosines"))
    if any(f >= folder.n_features for f in features):
        raise DamagedFeatureError(
            folder.folder, "neighbours.features.npy", f"feature {feature_index} has a neighbour that is no feature"
        )
    return tuple(zip(features, cosines, strict=True))


def _row(folder: EvidenceFolder, name: str, feature_index: int) -> list[Any]:
    row = folder.files.row(f"{name}.npy", feature_index)
    # Evidence that others have gathered holds NaN for what it leaves out; no one writes an infinite number.
    if bool(np.isinf(row).any()):
        raise DamagedFeatureError(folder.folder, f"{name}.npy", f"feature {feature_index} has an infinite number")
    return list(row.tolist())
