"""Hidden states made of known directions: training must find them, and what is saved must be what was trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labeler.errors import InputError, MismatchError
from labeler.sae import load_sae
from labeler.sae.formats import saelens
from labeler.sae.shuffling import shuffled
from labeler.sae.train import OBJECTIVES, TrainConfig, TrainedSAE, TrainProgress, _Weights, train_sae

D, N_DIRECTIONS, K, N_TOKENS = 32, 64, 4, 30_000
OFFSET = 1.0  # of all hidden states, so that a decoder bias has something to learn
CONFIG = TrainConfig(
    n_features=128,
    n_tokens=4 * N_TOKENS,
    k=K,
    batch_tokens=512,
    learning_rate=2e-2,
    l1_coefficient=0.2,
    target_density=K / 128,
    dead_steps=50,
)
SAVED_AS = {"l1": "standard", "kl": "standard", "topk": "topk", "batchtopk": "jumprelu"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@cache
def world() -> tuple[Tensor, Tensor]:
    """Unit directions [N_DIRECTIONS, D], and hidden states [N_TOKENS, D] that are sums of K of them on average."""
    # Not the seed of any run: the first weights would be the very directions to be found.
    generator = torch.Generator().manual_seed(777)
    directions = F.normalize(torch.randn(N_DIRECTIONS, D, generator=generator), dim=1)
    is_on = torch.rand(N_TOKENS, N_DIRECTIONS, generator=generator) < K / N_DIRECTIONS
    strength = 1.5 + 3 * torch.rand(N_TOKENS, N_DIRECTIONS, generator=generator)
    return directions, (is_on * strength) @ directions + OFFSET


@cache
def trained(objective: str) -> TrainedSAE:
    return train_sae(4 * world()[1].split(700), replace(CONFIG, objective=objective))


def recovery(decoder: Tensor) -> float:
    """Mean over the planted directions of the cosine with the decoder row that is nearest."""
    return (world()[0] @ F.normalize(decoder, dim=1).T).amax(dim=1).mean().item()


@pytest.mark.parametrize(("objective", "least"), [("l1", 0.9), ("kl", 0.9), ("topk", 0.97), ("batchtopk", 0.95)])
def test_planted_directions_are_found(objective: str, least: float) -> None:
    barely_trained = train_sae([world()[1]], replace(CONFIG, objective=objective, n_tokens=CONFIG.batch_tokens))
    assert recovery(barely_trained.sae.w_dec) < 0.5
    assert recovery(trained(objective).sae.w_dec) > least


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_decoder_rows_keep_unit_norm(objective: str) -> None:
    norms = trained(objective).sae.w_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(CONFIG.n_features), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("objective", "least"), [("l1", 0.7), ("kl", 0.8), ("topk", 0.8), ("batchtopk", 0.8)])
def test_what_progress_says_is_what_the_sae_does(objective: str, least: float) -> None:
    hidden, final = world()[1], trained(objective).final
    activations = trained(objective).sae.encode(hidden)
    error = (hidden - trained(objective).sae.decode(activations)).square().sum()
    explained = 1 - (error / (hidden - hidden.mean(dim=0)).square().sum()).item()
    assert explained > least
    assert final.explained_variance == pytest.approx(explained, abs=0.05)
    assert final.l0 == pytest.approx((activations > 0).sum(dim=1).float().mean().item(), rel=0.1)


def test_topk_never_fires_more_than_k() -> None:
    fired = (trained("topk").sae.encode(world()[1]) > 0).sum(dim=1)
    assert fired.max() == K
    assert fired.float().mean() > 0.9 * K


def test_batchtopk_fires_k_on_average_and_more_where_there_is_more() -> None:
    fired = (trained("batchtopk").sae.encode(world()[1]) > 0).sum(dim=1).float()
    assert fired.mean().item() == pytest.approx(K, rel=0.1)
    assert fired.max() >= 2 * K


@pytest.mark.parametrize(
    ("objective", "field", "values"),
    [
        ("l1", "l1_coefficient", (0.02, 0.4)),
        ("kl", "kl_coefficient", (0.1, 30.0)),
        ("kl", "target_density", (0.3, 0.01)),
    ],
)
def test_a_stronger_penalty_gives_fewer_firings(objective: str, field: str, values: tuple[float, float]) -> None:
    def l0(value: float) -> float:
        config = replace(CONFIG, objective=objective, n_tokens=N_TOKENS, **{field: value})  # type: ignore[arg-type]
        return train_sae([world()[1]], config).final.l0

    weak, strong = map(l0, values)
    assert strong < 0.75 * weak


def test_kl_draws_each_feature_to_the_target_density() -> None:
    """Seen where the penalty outweighs the reconstruction: mean tanh f is ρ, in the units of an input of norm √d."""
    config = replace(CONFIG, objective="kl", target_density=0.1, kl_coefficient=300.0)
    hidden = world()[1]
    sae = train_sae([hidden] * 4, config).sae
    scale = D**0.5 / hidden[: config.batch_tokens].norm(dim=1).mean()
    mean = (sae.encode(hidden) * scale).tanh().mean(dim=0)
    assert mean.median().item() == pytest.approx(0.1, rel=0.1)


def test_the_auxiliary_loss_brings_dead_features_back() -> None:
    """The first batch lies elsewhere, so b_dec starts far off and most features point where nothing comes any more."""
    _, hidden = world()
    misleading = hidden.clone()
    misleading[: CONFIG.batch_tokens] += 20 * F.normalize(torch.ones(D), dim=0)

    def dead_share(aux_coefficient: float) -> float:
        config = replace(CONFIG, learning_rate=1e-2, aux_coefficient=aux_coefficient)
        return train_sae([misleading, hidden, hidden, hidden], config).final.dead_share

    assert dead_share(0.0) > 0.5
    assert dead_share(1 / 32) < 0.1


def test_the_same_seed_gives_the_same_sae() -> None:
    def weights(seed: int) -> Tensor:
        config = replace(CONFIG, objective="batchtopk", n_tokens=5_000, seed=seed)
        return train_sae([world()[1]], config).sae.w_enc

    assert torch.equal(weights(1), weights(1))
    assert not torch.allclose(weights(1), weights(2))


def test_how_the_batches_are_cut_does_not_matter() -> None:
    config = replace(CONFIG, n_tokens=5_000)
    whole = train_sae([world()[1]], config).sae
    pieces = train_sae(world()[1].split(77), config).sae
    assert torch.equal(whole.w_dec, pieces.w_dec)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_units_of_the_hidden_states_do_not_matter(factor: float) -> None:
    config = replace(CONFIG, objective="batchtopk", n_tokens=10_000)
    plain, scaled = (train_sae([world()[1] * f], config) for f in (1.0, factor))
    assert scaled.final.explained_variance == pytest.approx(plain.final.explained_variance, abs=0.01)
    assert scaled.final.l0 == pytest.approx(plain.final.l0, rel=0.05)


def test_bfloat16_products_train_as_well() -> None:
    config = replace(CONFIG, dtype="bfloat16")
    run = train_sae([world()[1]] * 4, config)
    assert run.sae.w_enc.dtype == torch.float32
    assert recovery(run.sae.w_dec) > 0.98


def test_progress_is_told_every_fifty_steps_and_at_the_end() -> None:
    told: list[TrainProgress] = []
    run = train_sae([world()[1]], replace(CONFIG, n_tokens=120 * 100, batch_tokens=100), told.append)
    assert [p.step for p in told] == [50, 100, 120]
    assert [p.n_tokens for p in told] == [5_000, 10_000, 12_000]
    assert told[-1] == run.final
    assert told[0].loss > told[-1].loss > 0


def test_decoder_gradients_have_no_part_along_their_rows() -> None:
    """Else Adam's moments would fill with what the unit norm takes away again."""
    weights = _Weights(torch.zeros(D), CONFIG)
    weights.w_dec.grad = torch.randn(CONFIG.n_features, D)
    before = weights.w_dec.grad.norm().item()
    weights.keep_decoder_steps_tangent()
    along = (weights.w_dec.grad * weights.w_dec).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros(CONFIG.n_features), atol=1e-5, rtol=0)
    assert weights.w_dec.grad.norm().item() > 0.9 * before


def test_the_schedule_rises_stays_and_falls() -> None:
    config = replace(CONFIG, n_tokens=1_000, batch_tokens=10, warmup_share=0.1, decay_share=0.2)
    factors = [config.warmup(step) * config.decay(step) for step in range(config.n_steps)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert set(factors[9:81]) == {1.0}
    assert factors[-2:] == pytest.approx([0.1, 0.05])


def test_steps_grow_small_at_the_end() -> None:
    """Where all batches are one batch, the last step is as small as the learning rate says."""
    config = replace(CONFIG, n_tokens=20 * 512, warmup_share=0.0, learning_rate=1e-3)

    def last_step(decay_share: float) -> float:
        long = replace(config, decay_share=decay_share)
        batches = [world()[1][:512]] * 20
        return (train_sae(batches, long).sae.w_enc - train_sae(batches[:-1], long).sae.w_enc).abs().max().item()

    assert last_step(1.0) < 0.2 * last_step(0.0)


def test_batches_that_end_early_end_the_run() -> None:
    assert train_sae([world()[1][:1_000]], replace(CONFIG, n_tokens=10_000, batch_tokens=100)).final.n_tokens == 1_000


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_saved_is_what_was_trained(objective: str, tmp_path: Path) -> None:
    hidden = world()[1][:500]
    run = trained(objective)
    run.save(tmp_path, model_name="planted", hook_name="layers.1", context_size=64, prepend_bos=False)
    sae = load_sae(str(tmp_path))
    torch.testing.assert_close(sae.encode(hidden), run.sae.encode(hidden))
    torch.testing.assert_close(sae.decode(sae.encode(hidden)), run.sae.decode(run.sae.encode(hidden)))
    assert (sae.hookpoint, sae.prepend_bos) == ("layers.1", False)
    assert json.loads((tmp_path / "cfg.json").read_text())["metadata"]["context_size"] == 64


def test_weights_never_lie_beside_the_settings_of_the_sae_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("topk").save(tmp_path, model_name="planted", hook_name="layers.1")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saelens, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        trained("l1").save(tmp_path, model_name="planted", hook_name="layers.1")
    with pytest.raises(InputError, match=r"cfg\.json"):
        load_sae(str(tmp_path))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_files_are_those_of_saelens(objective: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trained(objective).save(tmp_path, model_name="planted", hook_name="layers.1")
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    shapes = {n: tuple(t.shape) for n, t in load_file(tmp_path / "sae_weights.safetensors").items()}
    expected = {"W_enc": (D, 128), "b_enc": (128,), "W_dec": (128, D), "b_dec": (D,)}
    assert shapes == (expected | {"threshold": (128,)} if objective == "batchtopk" else expected)
    assert cfg["architecture"] == SAVED_AS[objective]
    assert cfg.get("k") == (K if objective == "topk" else None)
    assert (cfg["d_in"], cfg["d_sae"], cfg["normalize_activations"]) == (D, 128, "none")


def test_the_file_says_how_it_was_trained(tmp_path: Path) -> None:
    run = trained("topk")
    run.save(tmp_path, model_name="planted", hook_name="layers.1")
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert (metadata["model_name"], metadata["hook_name"]) == ("planted", "layers.1")
    about = metadata["labeler_training"]
    assert about["config"]["objective"] == "topk"
    assert about["config"]["seed"] == CONFIG.seed
    assert (about["step"], about["n_tokens"]) == (run.final.step, run.final.n_tokens)
    assert (about["l0"], about["explained_variance"]) == (run.final.l0, run.final.explained_variance)
    assert (about["loss"], about["dead_share"]) == (run.final.loss, run.final.dead_share)


def test_float16_files_are_half_the_size_and_close(tmp_path: Path) -> None:
    hidden, run = world()[1][:500], trained("topk")
    for dtype in ("float32", "float16"):
        run.save(tmp_path / dtype, model_name="planted", hook_name="layers.1", dtype=dtype)
    sizes = [(tmp_path / d / "sae_weights.safetensors").stat().st_size for d in ("float16", "float32")]
    assert sizes[0] < 0.55 * sizes[1]
    loaded = load_sae(str(tmp_path / "float16"))
    error = (loaded.decode(loaded.encode(hidden)) - run.sae.decode(run.sae.encode(hidden))).square().mean()
    assert error < 1e-3 * hidden.var()


def test_shuffled_gives_every_token_once_in_another_order() -> None:
    tokens = torch.arange(1_000.0)[:, None]
    batches = list(shuffled(tokens.split(30), buffer_tokens=200, batch_tokens=16, seed=0))
    together = torch.cat(batches)[:, 0]
    assert {len(b) for b in batches[:-1]} == {16}
    assert sorted(together.tolist()) == tokens[:, 0].tolist()
    neighbours = (together[1:] - together[:-1]).abs() == 1
    assert neighbours.float().mean() < 0.05


def test_shuffled_mixes_documents_within_a_batch() -> None:
    documents = [torch.full((100, 1), float(i)) for i in range(50)]
    batches = list(shuffled(iter(documents), buffer_tokens=1_000, batch_tokens=100, seed=0))
    assert min(len(b.unique()) for b in batches[:-1]) >= 5


def test_shuffled_reads_no_further_than_its_buffer() -> None:
    read = 0

    def documents() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(100):
            read += 10
            yield torch.zeros(10, 1)

    next(shuffled(documents(), buffer_tokens=100, batch_tokens=10, seed=0))
    assert read == 100


def test_shuffled_is_decided_by_its_seed() -> None:
    def order(seed: int) -> list[float]:
        parts = shuffled(torch.arange(100.0)[:, None].split(10), buffer_tokens=40, batch_tokens=10, seed=seed)
        return torch.cat(list(parts))[:, 0].tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_buffer_too_small_to_mix_is_refused() -> None:
    with pytest.raises(InputError, match="at least two batches"):
        next(shuffled([torch.zeros(10, 1)], buffer_tokens=15, batch_tokens=10, seed=0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "l2"}, "choose one of l1, kl, topk, batchtopk"),
        ({"dtype": "float16"}, "float32 or bfloat16"),
        ({"k": 0}, "1 to n_features"),
        ({"k": 129}, "1 to n_features"),
        ({"batch_tokens": 10**9}, "1 to n_tokens"),
        ({"target_density": 0.0}, "between 0 and 1"),
        ({"warmup_share": 0.6, "decay_share": 0.6}, "at most 1 together"),
        ({"learning_rate": 0.0}, "above 0"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **values)  # type: ignore[arg-type]


def test_too_few_hidden_states_are_refused() -> None:
    with pytest.raises(InputError, match="fewer than batch_tokens = 512"):
        train_sae([torch.ones(511, D)], CONFIG)


def test_hidden_states_of_another_width_are_refused() -> None:
    with pytest.raises(MismatchError, match=r"expected \[tokens, 32\]"):
        train_sae([torch.ones(5, D), torch.ones(5, D + 1)], CONFIG)


@pytest.mark.parametrize(("broken_at", "message"), [(0, "mean norm of nan"), (1_000, "the loss is nan at step 1")])
def test_nan_among_the_hidden_states_is_named(broken_at: int, message: str) -> None:
    hidden = world()[1][:2_000].clone()
    hidden[broken_at, 0] = float("nan")
    with pytest.raises(InputError, match=message):
        train_sae([hidden], CONFIG)


def test_a_dtype_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float8"):
        trained("topk").save(tmp_path, model_name="planted", hook_name="layers.1", dtype="float8")
