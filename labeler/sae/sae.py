"""A sparse autoencoder, or transcoder: hidden states in, feature activations out, and back.

Every architecture is one linear map, with its input prepared and its output selected:

    x = normalize(hidden) - b_dec (where centered);  z = x W_enc^T + b_enc;  activations = select(z)
    reconstruction = undo(activations W_dec + b_dec) (+ hidden W_skip^T for skip transcoders)

Files in which the decoder's norm scales activations have that folded into W_enc, b_enc and W_dec when they are read.

A feature of a cross-layer transcoder or a crosscoder writes to several places: W_dec then holds its directions side by
side, and what one place gets is the sum over all layers that write there (evidence/reconstruction.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from labeler.errors import MismatchError
from labeler.sae.matrices import over, times

_CHUNK_TOKENS = 256  # so that the pre-activations of a chunk stay in cache between the product and the selection
_CHUNK_VALUES = 1 << 25  # and so that those of a million features still fit in memory
_EPS = 1e-5


@dataclass(frozen=True)
class Source:
    """The origin of an SAE, for the provenance of everything made with it."""

    path: Path
    format: str
    sha256: str  # of the weight file
    revision: str | None = None  # the hub commit, for files that came from a hub


@dataclass(frozen=True)
class SparseActivations:
    """The features that fire, ordered by token and, within a token, by feature."""

    token: Tensor  # [n] int64
    feature: Tensor  # [n] int64
    value: Tensor  # [n] above 0


@dataclass(frozen=True)
class Selection:
    """The rule by which pre-activations become activations."""

    kind: str  # relu, topk, abstopk, groupmax, threshold, gated, pursuit
    k: int = 0  # topk, abstopk: features a token; groupmax: groups; pursuit: most steps
    threshold: Tensor | None = None  # [n_features], or a scalar; pursuit: the residual's norm that ends it
    stops_at_known: bool = True  # pursuit: a step that adds no feature to a token is its last
    gate_bias: Tensor | None = None  # gated: [n_features]
    magnitude_scale: Tensor | None = None  # gated: exp(r_mag), [n_features]
    magnitude_bias: Tensor | None = None  # gated: [n_features]


@dataclass(frozen=True)
class Part:
    """One layer's features of a cross-layer transcoder or a crosscoder whose layers were trained together."""

    whole: Path  # the folder that holds all layers
    layer: int  # that its features read
    writes_to: tuple[int, ...]  # the layers that its features write to, in the order of the decoder
    written_by: tuple[int, ...]  # the layers whose features write to this one

    @property
    def own(self) -> int:
        """The place of its own layer among those that it writes to."""
        return self.writes_to.index(self.layer)


@dataclass(frozen=True, eq=False)
class SAE:
    """Tensors as they are multiplied; frozen after loading. Shapes: F = n_features, P = places that a feature writes to.

    The encoder may be bfloat16, which halves the cost of the product; all else is float32. Decoders with several places
    stay as the file holds them, mapped into memory and not copied: they can be larger than the memory.
    """

    w_enc: Tensor  # [F, d_in]
    b_enc: Tensor  # [F], in the dtype of w_enc
    w_dec: Tensor  # [F, d_out], or [F, P * d_out of a place]
    b_dec: Tensor  # as wide as w_dec
    selection: Selection
    architecture: str  # as the file calls it
    source: Source
    centred: bool = False  # b_dec is subtracted from the input
    normalisation: str = "none"  # none, layer_norm, constant_norm_rescale
    rescaled: bool = False  # the file asked for decoder rows of norm 1, and encoder rows times what they had
    w_skip: Tensor | None = None  # [d_out, d_in]; with several places it writes to the own one
    hookpoint: str | None = None  # as the file says
    output_hookpoint: str | None = None  # what a transcoder reconstructs, as the file says
    is_transcoder: bool = False
    reads_input: bool = False  # the module's input is read, not its output
    prepend_bos: bool | None = None
    remarks: tuple[str, ...] = ()  # what a reader of the card should know of how the file was read
    scales_input: bool = False  # trained on hidden states scaled to a norm, which a registry may state
    input_scale: float = 1.0  # the scale that is folded into the weights
    writes: tuple[str, ...] = ()  # the P places, where a feature writes to several, as the file says
    part: Part | None = None
    scan: str | None = None  # the name of its set in attribution graphs
    lacks_scale: bool = False  # the files do not give that scale, so that only a registry can
    # Tokens that it was not trained on, as SAELens says it: ids, or True for the tokenizer's special tokens; and the slice
    # of positions in a sequence that it was trained on.
    excluded_tokens: bool | tuple[int, ...] = False
    positions: tuple[int | None, ...] | None = None
    gates: Tensor | None = None  # [P, F] a feature writes to a place where its activation is above this

    @property
    def d_in(self) -> int:
        return int(self.w_enc.shape[1])

    @property
    def n_features(self) -> int:
        return int(self.w_enc.shape[0])

    @property
    def n_places(self) -> int:
        return max(1, len(self.writes))

    @property
    def d_out(self) -> int:
        """The width of what is reconstructed: of a layer of a set, what its own place holds."""
        return int(self.w_dec.shape[1]) // (self.n_places if self.part else 1)

    def decoder_directions(self) -> Tensor:
        """Return the direction of each feature at the subject's output, [n_features, d_out].

        What a transcoder writes to several places adds up in the residual stream. An autoencoder writes the same stream at
        several depths, of which the last is nearest to the output.
        """
        if not self.writes:
            return self.w_dec
        first = 0 if self.is_transcoder else self.n_places - 1
        directions = self.directions_to(first)
        for place in range(first + 1, self.n_places):
            directions = directions + self.directions_to(place)
        return directions

    def directions_to(self, place: int, features: slice = slice(None)) -> Tensor:
        """Return the directions that features write to one of their places, [features, d], in float32."""
        return self._decoder_of(place)[features].to(self.b_dec)

    def _decoder_of(self, place: int) -> Tensor:
        width = int(self.w_dec.shape[1]) // self.n_places
        return self.w_dec[:, place * width : (place + 1) * width]

    def encode(self, hidden: Tensor) -> Tensor:
        """Feature activations, [tokens, d_in] -> [tokens, n_features]."""
        if self.selection.kind == "pursuit":
            return self._pursue(self._prepared(hidden))
        z = self._pre_activations(hidden)
        if self.selection.k:
            values, indices = _pick(z, self.selection)
            return torch.zeros_like(z).scatter_(1, indices, values)
        return torch.where(self._is_open(z), self._magnitude(z).relu(), 0.0)

    def encode_sparse(self, hidden: Tensor) -> SparseActivations:
        """Those activations that are above 0, never made dense: [tokens, d_in] -> entries.

        The few negative activations of an `abstopk` SAE are left out: a feature is said to fire where it is above 0.
        """
        parts = list(self._sparse_chunks(hidden))
        return SparseActivations(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def _sparse_chunks(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        chunk = min(_CHUNK_TOKENS, max(1, _CHUNK_VALUES // self.n_features))
        # One buffer for all chunks: fresh ones leave holes in the heap, several times their size.
        room = self.w_enc.new_empty(min(chunk, len(hidden)), self.n_features)
        for low in range(0, max(len(hidden), 1), chunk):
            x = self._prepared(hidden[low : low + chunk])
            if self.selection.kind == "pursuit":
                activations = self._pursue(x)
                token, feature = torch.nonzero(activations, as_tuple=True)
                yield token + low, feature, activations[token, feature]
                continue
            z = torch.addmm(self.b_enc, x, self.w_enc.T, out=room[: len(x)])
            if self.selection.k:
                values, indices = _pick(z, self.selection)
                indices, order = indices.sort(dim=1)
                values = values.gather(1, order)
                token, place = torch.nonzero(values > 0, as_tuple=True)
                yield token + low, indices[token, place], values[token, place]
            else:
                token, feature = torch.nonzero(self._is_open(z), as_tuple=True)
                value = self._magnitude(z[token, feature], feature)
                fires = value > 0
                yield token[fires] + low, feature[fires], value[fires]

    def decode(self, activations: Tensor, hidden: Tensor | None = None) -> Tensor:
        """[tokens, n_features] -> [tokens, d_out]; `hidden` where a normalisation or a skip connection needs it."""
        given = activations.to(self.b_dec.dtype)
        if self.gates is None:
            return self._finish(given @ self.w_dec.to(self.b_dec) + self.b_dec, hidden)
        written = [given * (given > gate) @ self.directions_to(place) for place, gate in enumerate(self.gates)]
        return self._finish(torch.cat(written, dim=1) + self.b_dec, hidden)

    def decode_sparse(self, sparse: SparseActivations, n_tokens: int, hidden: Tensor | None = None) -> Tensor:
        """The same from entries ordered by token, without making them dense."""
        summed = torch.cat([self.written(sparse, n_tokens, place) for place in range(self.n_places)], dim=1)
        return self._finish(summed + self.b_dec, hidden)

    def written(self, sparse: SparseActivations, n_tokens: int, place: int = 0) -> Tensor:
        """Return what features write to one of their places, [tokens, d], without bias and skip connection."""
        counts = torch.bincount(sparse.token, minlength=n_tokens)
        offsets = counts.cumsum(0) - counts
        value, decoder, feature = sparse.value.to(self.b_dec.dtype), self._decoder_of(place), sparse.feature
        if self.gates is not None:
            value = value * (value > self.gates[place][feature])
        if self.writes:  # of a decoder that may not fit in memory, only the rows that are needed
            used, feature = feature.unique(return_inverse=True)
            decoder = decoder[used.to(decoder.device)].to(self.b_dec)
        return F.embedding_bag(feature, decoder, offsets, mode="sum", per_sample_weights=value)

    def own_offset(self, hidden: Tensor) -> Tensor:
        """Return what the own place of a layer gets beside the features of all layers: bias and skip connection."""
        assert self.part is not None
        offset: Tensor = self.b_dec.reshape(self.n_places, -1)[self.part.own]
        return offset if self.w_skip is None else offset + hidden.to(offset.dtype) @ self.w_skip.T

    @torch.no_grad()
    def reconstruct(self, hidden: Tensor, sparse: SparseActivations) -> Tensor:
        """Return [tokens, d_out] from the whole code: `sparse` leaves out the negative activations of `abstopk`."""
        if self.selection.kind != "abstopk":
            return self.decode_sparse(sparse, len(hidden), hidden)
        chunk = max(1, _CHUNK_VALUES // self.n_features)
        return torch.cat([self.decode(self.encode(part), part) for part in hidden.split(chunk)])

    def _pursue(self, x: Tensor) -> Tensor:
        """Return activations by matching pursuit (Mallat and Zhang 1993), [tokens, d_in] -> [tokens, n_features].

        Each step adds the feature whose decoder row fits best to what is left of the vector, and takes it away from that.
        """
        s = self.selection
        assert s.threshold is not None
        residual = x.to(self.b_dec.dtype)
        activations = residual.new_zeros(len(x), self.n_features)
        is_done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(s.k):
            best = (residual.to(self.w_enc.dtype) @ self.w_enc.T).relu().argmax(dim=1)
            rows = self.w_dec[best]
            value = torch.where(is_done, 0.0, (residual * rows).sum(-1).relu())
            is_known = (value == 0) | (activations.gather(1, best[:, None])[:, 0] != 0)
            activations.scatter_add_(1, best[:, None], value[:, None])
            residual = residual - value[:, None] * rows
            if s.stops_at_known:
                is_done = is_done | is_known
            is_done = is_done | (residual.norm(dim=-1) < s.threshold)
            if is_done.all():
                break
        return activations

    def _pre_activations(self, hidden: Tensor) -> Tensor:
        return F.linear(self._prepared(hidden), self.w_enc, self.b_enc)

    def _prepared(self, hidden: Tensor) -> Tensor:
        """Return [tokens, d_in] as the encoder's product takes it: normalized, centered, in its dtype."""
        if hidden.shape[-1] != self.d_in:
            raise MismatchError(
                f"the SAE reads vectors of {self.d_in} and was given vectors of {hidden.shape[-1]}: "
                "give the SAE's own subject and hookpoint"
            )
        x = hidden.to(self.b_dec.dtype)
        if self.normalisation == "layer_norm":
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.std(-1, keepdim=True) + _EPS)
        elif self.normalisation == "constant_norm_rescale":
            x = x / _rms(x)
        if self.centred:
            x = x - self.b_dec
        return x.to(self.w_enc.dtype)

    def _is_open(self, z: Tensor) -> Tensor:
        """Return flags where pre-activations `z` [tokens, n_features] pass to the activations, if they are above 0."""
        s = self.selection
        if s.kind == "threshold":
            assert s.threshold is not None
            return z > s.threshold
        if s.kind == "gated":
            assert s.gate_bias is not None
            return z > -s.gate_bias
        return z > 0

    def _magnitude(self, z: Tensor, feature: Tensor | slice = slice(None)) -> Tensor:
        """Return the size of the activation where its feature is open, before the ReLU; `feature` numbers the columns
        of `z`.
        """
        s = self.selection
        if s.kind == "gated":
            assert s.magnitude_scale is not None
            assert s.magnitude_bias is not None
            return z * s.magnitude_scale[feature] + s.magnitude_bias[feature]
        return z

    def _finish(self, out: Tensor, hidden: Tensor | None) -> Tensor:
        # What a transcoder writes is no multiple of what it reads: a normalisation is undone for autoencoders alone.
        undo = "none" if self.is_transcoder else self.normalisation
        if hidden is None:
            if undo != "none" or self.w_skip is not None:
                raise ValueError("this SAE needs the hidden states to decode: its input is normalised or skips ahead")
            return out
        x = hidden.to(out.dtype)
        if undo == "layer_norm":
            out = out * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True)
        elif undo == "constant_norm_rescale":
            out = out * _rms(x)
        if self.w_skip is None:
            return out
        if self.part is None:
            return out + x @ self.w_skip.T
        places = list(out.unflatten(1, (self.n_places, -1)).unbind(1))
        places[self.part.own] = places[self.part.own] + x @ self.w_skip.T
        return torch.cat(places, dim=1)


def rescaled(sae: SAE, scale_in: float, scale_out: float) -> SAE:
    """Return the SAE for unscaled hidden states; its file takes them times `scale_in` and gives them times `scale_out`.

    Activations and thresholds stay in the units of the file.
    """
    if scale_in == 1.0 and scale_out == 1.0:
        return sae
    skip = None if sae.w_skip is None else sae.w_skip * (scale_in / scale_out)
    return replace(
        sae,
        w_enc=times(sae.w_enc, scale_in),
        w_dec=over(sae.w_dec, scale_out),
        b_dec=sae.b_dec / scale_out,
        w_skip=skip,
        input_scale=sae.input_scale * scale_in,
        remarks=(*sae.remarks, f"the input is scaled by {scale_in:.6g}, folded into the encoder"),
    )


def _rms(x: Tensor) -> Tensor:
    """Return [tokens, 1], the norm over sqrt(d); for zeros a tiny number, so that they stay zeros."""
    norm: Tensor = x.norm(dim=-1, keepdim=True)
    return torch.clamp_min(norm / x.shape[-1] ** 0.5, 1e-12)


def _pick(z: Tensor, selection: Selection) -> tuple[Tensor, Tensor]:
    """(values, indices), [tokens, k] each, of the chosen features of each token."""
    kind, k = selection.kind, selection.k
    if kind == "abstopk":
        indices = z.abs().topk(k, dim=1, sorted=False).indices
        return z.gather(1, indices), indices
    if kind == "groupmax":
        width = z.shape[1] // k
        values, indices = z.relu().unflatten(1, (k, width)).max(dim=2)
        return values, indices + torch.arange(0, k * width, width, device=z.device)
    values, indices = z.topk(k, dim=1, sorted=False)
    return values.relu(), indices
