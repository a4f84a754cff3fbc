"""Train an SAE on hidden states: ReLU with L1, ReLU with KL, TopK and BatchTopK, in one loop.

    hidden batches ──shuffled──► train_sae ──► TrainedSAE ──save──► a folder in SAELens format

All four objectives share the encoder, the decoder and the squared error; they differ in what makes them sparse:

    objective   activations                          and in the loss                         from
    l1          relu(z)                              λ Σ f / √d                              Bricken et al. 2023
    kl          relu(z)                              β Σ KL(ρ ‖ mean of tanh f) / d          Ng 2011
    topk        relu of the k highest z a token      1/32 of the error of dead features      Gao et al. 2024
    batchtopk   relu of the n·k highest z a batch    the same                                Bussmann et al. 2024

Decoder rows have unit norm (Bricken et al. 2023), so `l1` cannot be paid for by growing the decoder. Training sees the
input scaled to norm √d on average; the scale is folded back into the weights, so a trained SAE needs no normalisation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labeler.errors import InputError
from labeler.recipe import check_dtype
from labeler.sae.sae import SAE, Selection, Source
from labeler.sae.shuffling import rebatched

OBJECTIVES = ("l1", "kl", "topk", "batchtopk")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROGRESS_STEPS = 50
_THRESHOLD_RATE = 0.01  # of the running threshold of BatchTopK, as in SAELens
_MEAN_FLOOR = 1e-6  # of a feature's mean activation in the KL penalty, whose logarithm has no value at 0


@dataclass(frozen=True)
class TrainConfig:
    """Settings that decide a training run. Raises InputError where the values cannot work together."""

    n_features: int
    """Features of the SAE, commonly 4 to 64 times the width of the hidden states."""

    n_tokens: int
    """Tokens to train on; the schedule is laid out over them, and batches beyond them are not read."""

    objective: str = "topk"
    """l1, kl, topk or batchtopk (see the module's table)."""

    k: int = 32
    """topk: features that may fire on each token. batchtopk: the mean of them over a batch."""

    l1_coefficient: float = 0.1
    """λ of l1. Activations grow as √d, so Σ f / √d is of order 1 at any width; Bricken's λ is this one times √d."""

    kl_coefficient: float = 3.0
    """β of kl. The penalty sums over features, and the squared error over the d dimensions: both are divided by d."""

    target_density: float = 0.01
    """ρ of kl: the mean of tanh f that every feature is drawn to, close to the share of tokens on which it fires."""

    learning_rate: float = 1e-3
    """Of Adam, at the height of the schedule."""

    warmup_share: float = 0.05
    """Share of the steps over which the learning rate, λ and β rise from 0."""

    decay_share: float = 0.2
    """Share of the steps over which the learning rate falls to 0 at the end."""

    batch_tokens: int = 4096
    """Tokens a step. Give them in random order: see `shuffled`."""

    aux_coefficient: float = 1 / 32
    """Weight of the auxiliary loss of topk and batchtopk, by which dead features learn what the others leave over."""

    dead_steps: int = 150
    """A feature that has not fired for so many steps is dead."""

    seed: int = 0
    """Decides the first weights. With the same batches and one thread, the same seed gives the same SAE."""

    dtype: str = "float32"
    """Of the matrix products, float32 or bfloat16; weights and optimizer are float32 in any case."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective {self.objective!r}: choose one of {', '.join(OBJECTIVES)}")
        check_dtype(self.dtype)
        if not 1 <= self.k <= self.n_features:
            raise InputError(f"k is {self.k}: choose 1 to n_features, which is {self.n_features}")
        if not 1 <= self.batch_tokens <= self.n_tokens:
            raise InputError(f"batch_tokens is {self.batch_tokens}: choose 1 to n_tokens, which is {self.n_tokens}")
        if not 0 < self.target_density < 1:
            raise InputError(f"target_density is {self.target_density}: choose between 0 and 1")
        if min(self.warmup_share, self.decay_share) < 0 or self.warmup_share + self.decay_share > 1:
            raise InputError(
                f"warmup_share {self.warmup_share}, decay_share {self.decay_share}: choose shares of at most 1 together"
            )
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate is {self.learning_rate}: choose one above 0, such as 1e-3")

    @property
    def n_steps(self) -> int:
        return self.n_tokens // self.batch_tokens

    @property
    def fixes_l0(self) -> bool:
        """Return True if k fixes the sparsity; then a feature can die, and the auxiliary loss revives it."""
        return self.objective in ("topk", "batchtopk")

    def warmup(self, step: int) -> float:
        """Factor of the learning rate and of the sparsity penalty at the beginning, 0..1."""
        return min(1.0, (step + 1) / max(1.0, self.warmup_share * self.n_steps))

    def decay(self, step: int) -> float:
        """Factor of the learning rate at the end, 1..0."""
        return min(1.0, (self.n_steps - step) / max(1.0, self.decay_share * self.n_steps))


@dataclass(frozen=True)
class TrainProgress:
    """The progress of a run, on its latest batch, with the SAE as it would be saved now."""

    step: int
    n_tokens: int  # trained on so far
    loss: float
    l0: float  # features that fire, a token
    explained_variance: float | None  # 1 - squared error / variance; None where the batch does not vary
    dead_share: float  # of the features, not fired for `dead_steps` steps
    tokens_per_second: float


@dataclass(frozen=True)
class TrainedSAE:
    """The SAE in the units of the hidden states, and how it came to be."""

    sae: SAE
    config: TrainConfig
    final: TrainProgress

    def save(
        self,
        folder: Path,
        *,
        model_name: str,
        hook_name: str,
        context_size: int | None = None,
        prepend_bos: bool | None = None,
        dtype: str = "float32",
        trained_on: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `cfg.json` and `sae_weights.safetensors` as SAELens 6 does, tensors in `dtype` (also float16).

        `trained_on` says what the hidden states were, for a reader of the file.
        """
        from labeler.sae.formats.saelens import save_saelens

        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
        about = {
            "model_name": model_name,
            "hook_name": hook_name,
            "context_size": context_size,
            "prepend_bos": prepend_bos,
        }
        tensors = {name: value.to("cpu", DTYPES[dtype]) for name, value in _saelens_tensors(self.sae).items()}
        training = self.provenance() if trained_on is None else {**self.provenance(), "trained_on": dict(trained_on)}
        save_saelens(folder, tensors, _saelens_cfg(self.sae, {**about, "labeler_training": training}))

    def provenance(self) -> dict[str, Any]:
        """Return the configuration and final figures, by which a reader of the file can judge it."""
        return {"config": asdict(self.config), **asdict(self.final)}


def train_sae(
    hidden_batches: Iterable[Tensor],
    config: TrainConfig,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> TrainedSAE:
    """Train on hidden states [tokens, d_in], in batches of any size, on the device that they are on.

    Ends after `config.n_tokens` tokens, or earlier where the batches end. `on_progress` hears of every 50th step and of
    the last. Raises InputError where there is too little to train on, or where the loss stops being a number.
    """
    batches = rebatched(hidden_batches, config.batch_tokens)
    first = next(batches, None)
    if first is None:
        raise InputError(
            f"fewer than batch_tokens = {config.batch_tokens} hidden states: give more, or a smaller batch"
        )
    run = _Run(first, config)
    report = on_progress or (lambda _progress: None)
    for hidden in islice(chain([first], batches), config.n_steps):
        run.take_step(hidden)
        if run.step % _PROGRESS_STEPS == 0 and run.step < config.n_steps:
            report(run.progress(hidden))
    final = run.progress(hidden)
    report(final)
    return TrainedSAE(run.folded(), config, final)


class _Weights(nn.Module):
    """In units of the scaled input. At first: encoder = decoderᵀ, unit decoder rows, b_dec where the data lie."""

    def __init__(self, centre: Tensor, config: TrainConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        directions = F.normalize(torch.randn(config.n_features, len(centre), generator=generator), dim=1)
        directions = directions.to(centre.device)
        self.w_enc = nn.Parameter(directions.clone())  # [F, d]
        self.b_enc = nn.Parameter(centre.new_zeros(config.n_features))  # [F]
        self.w_dec = nn.Parameter(directions)  # [F, d]
        self.b_dec = nn.Parameter(centre.clone())  # [d]

    def pre_activations(self, x: Tensor) -> Tensor:
        return F.linear(x - self.b_dec, self.w_enc, self.b_enc)

    def reconstruct(self, activations: Tensor) -> Tensor:
        return activations @ self.w_dec + self.b_dec

    @torch.no_grad()
    def keep_decoder_steps_tangent(self) -> None:
        """Remove the gradient's component along each decoder row (Bricken et al. 2023): Adam would count it in."""
        assert self.w_dec.grad is not None
        along = (self.w_dec.grad * self.w_dec).sum(dim=1, keepdim=True)
        self.w_dec.grad -= along * self.w_dec

    @torch.no_grad()
    def keep_decoder_unit_norm(self) -> None:
        self.w_dec.copy_(F.normalize(self.w_dec, dim=1))


class _Run:
    """The moving parts of one run: weights, optimizer, and what is remembered from step to step."""

    def __init__(self, first: Tensor, config: TrainConfig) -> None:
        self.config, self.step, self.loss = config, 0, math.nan
        self.scale = _scale_to_root_d(first)
        self.weights = _Weights((first * self.scale).mean(dim=0), config)
        self.optimizer = torch.optim.Adam(self.weights.parameters(), lr=config.learning_rate)
        self.silent_steps = torch.zeros(config.n_features, dtype=torch.long, device=first.device)
        self.threshold = 0.0  # batchtopk: running mean of the least activation that was kept
        self.began = time.monotonic()

    @property
    def dead(self) -> Tensor:
        """[n_features] bool"""
        return self.silent_steps >= self.config.dead_steps

    def take_step(self, hidden: Tensor) -> None:
        config, weights = self.config, self.weights
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * config.warmup(self.step) * config.decay(self.step)
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            loss, activations = self._loss(hidden * self.scale)
        self._remember(loss, activations.detach())
        self.optimizer.zero_grad()
        loss.backward()
        weights.keep_decoder_steps_tangent()
        self.optimizer.step()
        weights.keep_decoder_unit_norm()

    def _loss(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The objective of the module's table, and the activations, [tokens, n_features]."""
        config = self.config
        z = self.weights.pre_activations(x)
        activations = _select(z, config)
        error = x - self.weights.reconstruct(activations)
        loss = error.square().mean()
        if config.fixes_l0:
            return loss + config.aux_coefficient * self._aux_loss(z, error.detach()), activations
        return loss + config.warmup(self.step) * _penalty(activations, x.shape[1], config), activations

    def _aux_loss(self, z: Tensor, error: Tensor) -> Tensor:
        """AuxK (Gao et al. 2024, A.2): the d/2 strongest dead features reconstruct the error, relative to its variance.

        Without a ReLU, so that a feature with nothing but negative pre-activations has a gradient too.
        """
        dead = self.dead.nonzero()[:, 0]
        if len(dead) == 0:
            return error.new_zeros(())
        strongest = z[:, dead].topk(min(len(dead), max(1, error.shape[1] // 2)), dim=1)
        activations = torch.zeros_like(z[:, dead]).scatter(1, strongest.indices, strongest.values)
        rest = error - activations @ self.weights.w_dec[dead]
        variance = (error - error.mean(dim=0)).square().mean()
        return rest.square().mean() / variance.clamp_min(1e-12)

    @torch.no_grad()
    def _remember(self, loss: Tensor, activations: Tensor) -> None:
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise InputError(
                f"the loss is {self.loss} at step {self.step}: look for NaN or infinity among the hidden states, "
                f"or choose a learning rate below {self.config.learning_rate}"
            )
        fired = (activations > 0).any(dim=0)
        self.silent_steps = torch.where(fired, 0, self.silent_steps + 1)
        if self.config.objective == "batchtopk" and bool(fired.any()):
            least = activations[activations > 0].min().item()
            self.threshold += max(_THRESHOLD_RATE, 1 / (self.step + 1)) * (least - self.threshold)
        self.step += 1

    @torch.no_grad()
    def progress(self, hidden: Tensor) -> TrainProgress:
        sae = self.folded()
        activations = sae.encode(hidden)
        error = (hidden - sae.decode(activations)).square().sum().item()
        variance = (hidden - hidden.mean(dim=0)).square().sum().item()
        n_tokens = self.step * self.config.batch_tokens
        return TrainProgress(
            self.step,
            n_tokens,
            self.loss,
            l0=(activations > 0).sum().item() / len(hidden),
            explained_variance=1 - error / variance if variance > 0 else None,
            dead_share=self.dead.float().mean().item(),
            tokens_per_second=n_tokens / max(time.monotonic() - self.began, 1e-9),
        )

    @torch.no_grad()
    def folded(self) -> SAE:
        """The SAE in the units of the hidden states: activations, biases and threshold are smaller by the scale."""
        w = self.weights
        n_features, d = w.w_enc.shape
        threshold = w.b_enc.new_full((n_features,), self.threshold / self.scale)
        selection, architecture = {
            "topk": (Selection("topk", k=self.config.k), "topk"),
            "batchtopk": (Selection("threshold", threshold=threshold), "jumprelu"),
        }.get(self.config.objective, (Selection("relu"), "standard"))
        return SAE(
            w.w_enc.detach().clone(),
            w.b_enc.detach() / self.scale,
            w.w_dec.detach().clone(),
            w.b_dec.detach() / self.scale,
            selection,
            architecture,
            Source(Path("trained"), "saelens", f"unsaved-{n_features}x{d}"),
            centred=True,
        )


def _scale_to_root_d(hidden: Tensor) -> float:
    """The factor that brings the mean norm of hidden states [tokens, d] to √d."""
    norm = float(hidden.norm(dim=1).mean())
    if not (math.isfinite(norm) and norm > 0):
        raise InputError(f"the first hidden states have a mean norm of {norm}: they must be finite and not all 0")
    return math.sqrt(hidden.shape[1]) / norm


def _select(z: Tensor, config: TrainConfig) -> Tensor:
    """Activations from pre-activations, [tokens, n_features] both."""
    if not config.fixes_l0:
        return z.relu()
    # BatchTopK is TopK over the batch as if it were one token with n·k features to spend.
    rows = z if config.objective == "topk" else z.reshape(1, -1)
    kept = rows.topk(config.k * len(z) // len(rows), dim=1, sorted=False)
    return torch.zeros_like(rows).scatter(1, kept.indices, kept.values.relu()).reshape(z.shape)


def _penalty(activations: Tensor, d: int, config: TrainConfig) -> Tensor:
    """λ Σ f / √d, mean over tokens; or β Σ KL(ρ ‖ ρ̂) / d, ρ̂ a feature's mean over the tokens (Ng 2011, section 3).

    Ng's units are sigmoids. A ReLU's activation has no upper end, so ρ̂ is the mean of tanh f: it counts the tokens on
    which the feature fires, and asks nothing of how strongly.
    """
    if config.objective == "l1":
        return config.l1_coefficient * activations.sum(dim=1).mean() / math.sqrt(d)
    rho, mean = config.target_density, activations.float().tanh().mean(dim=0).clamp(_MEAN_FLOOR, 1 - _MEAN_FLOOR)
    divergence = rho * (rho / mean).log() + (1 - rho) * ((1 - rho) / (1 - mean)).log()
    return config.kl_coefficient * divergence.sum() / d


def _saelens_tensors(sae: SAE) -> dict[str, Tensor]:
    tensors = {"W_enc": sae.w_enc.T, "b_enc": sae.b_enc, "W_dec": sae.w_dec, "b_dec": sae.b_dec}
    return tensors if sae.selection.threshold is None else {**tensors, "threshold": sae.selection.threshold}


def _saelens_cfg(sae: SAE, metadata: dict[str, Any]) -> dict[str, Any]:
    k = {"k": sae.selection.k, "rescale_acts_by_decoder_norm": False} if sae.architecture == "topk" else {}
    return {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.n_features,
        **k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
