"""Features that write to several layers: gathered in one pass, and reconstructed by all layers that write to a place."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from labeler.errors import InputError
from labeler.evidence import gather as gathering
from labeler.evidence import gather_all
from labeler.evidence.batches import batches_of_chunk, n_chunks
from labeler.evidence.directions import PlaceOutput, read_neighbours, read_output, read_places
from labeler.evidence.gathered import open_gathered
from labeler.evidence.patching import measure_loss
from labeler.evidence.prepare import prepare
from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import Target, choose_target
from labeler.export.card import build_card, card_markdown
from labeler.export.graph import cantor
from labeler.recipe import GatherConfig, Recipe
from labeler.sae import load_layers, load_sae
from labeler.score.intervention.steer import SteerConfig, steer_features
from labeler.store import open_store
from labeler.subject.corpus import open_corpus
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject, load_subject
from labeler.subject.sequences import open_tokenized
from labeler.views import describe_feature, feature_view
from tests.places import CLT, N_LAYERS, D, F, write_gemma_scope_2, write_subject
from tests.planted import Planted

# The weights are random and explain nothing, which stops a pass.
gather_for_all = partial(gather_all.gather_for_all, force=True)
CONFIG = GatherConfig(sequence_tokens=96, n_random=(64, 64), chunk_tokens=2048, n_tokens=20_000)
WHERE = "model.layers.{}.pre_feedforward_layernorm"
WRITES = "model.layers.{}.post_feedforward_layernorm"


@pytest.fixture(scope="module")
def subject(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(str(write_subject(planted, tmp_path_factory.mktemp("places") / "subject")))


def targets_of(subject: Subject, folder: Path, out: Path, layers: list[int] | None = None) -> dict[Path, Target]:
    saes = load_layers(str(folder), layers)
    return {out / str(sae.part.layer): choose_target(subject, sae, None) for sae in saes if sae.part}


@pytest.fixture(scope="module")
def evidence(subject: Subject, planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All layers of the CLT, in one pass."""
    out = tmp_path_factory.mktemp("clt")
    gather_for_all(subject, targets_of(subject, CLT, out), open_corpus(str(planted.corpus)), CONFIG)
    return out


def hidden_of(subject: Subject, evidence: Path, hookpoints: list[Hookpoint], chunks: list[int]) -> list[torch.Tensor]:
    """What the subject gives at each hookpoint, [tokens, d], on the tokens of these chunks."""
    corpus = open_tokenized(evidence / "0" / "corpus")
    parts: list[list[torch.Tensor]] = [[] for _ in hookpoints]
    for chunk in chunks:
        for batch in batches_of_chunk(corpus, chunk, CONFIG):
            ids, mask = (torch.from_numpy(array) for array in batch.padded_ids(corpus.tokens, 0))
            given = subject.hidden(ids, hookpoints)
            for part, hookpoint in zip(parts, hookpoints, strict=True):
                part.append(given[hookpoint][mask])
    return [torch.cat(part) for part in parts]


def clt_by_hand() -> dict[str, torch.Tensor]:
    return {name: tensor for path in CLT.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_each_layer_holds_what_its_own_encoder_gives(subject: Subject, evidence: Path) -> None:
    weights = clt_by_hand()
    everything = list(range(n_chunks(open_tokenized(evidence / "0" / "corpus"), CONFIG)))
    hidden = hidden_of(subject, evidence, [Hookpoint(WHERE.format(n), "input") for n in range(N_LAYERS)], everything)
    for layer in range(N_LAYERS):
        folder = EvidenceFolder(evidence / str(layer))
        assert folder.manifest["hookpoint"] == WHERE.format(layer)
        assert folder.manifest["reads"] == "input"
        assert folder.manifest["sae"]["layer"] == layer
        acts = (hidden[layer] @ weights[f"W_enc_{layer}"].T + weights[f"b_enc_{layer}"]).relu()
        for feature in range(5):
            statistics = folder.statistics(feature)
            assert statistics.n_firings == int((acts[:, feature] > 0).sum())
            assert statistics.max == pytest.approx(float(acts[:, feature].max()), rel=1e-5)


def test_a_layer_is_reconstructed_by_all_that_write_to_it(subject: Subject, evidence: Path) -> None:
    """The formula of circuit-tracer's CrossLayerTranscoder, over the chunks that quality is measured on."""
    weights = clt_by_hand()
    corpus = open_tokenized(evidence / "0" / "corpus")
    sampled = list(range(0, n_chunks(corpus, CONFIG), gathering._QUALITY_EVERY))
    reads = [Hookpoint(WHERE.format(n), "input") for n in range(N_LAYERS)]
    given = hidden_of(subject, evidence, [*reads, *(Hookpoint(WRITES.format(n)) for n in range(N_LAYERS))], sampled)
    acts = [(given[n] @ weights[f"W_enc_{n}"].T + weights[f"b_enc_{n}"]).relu() for n in range(N_LAYERS)]
    for layer in range(N_LAYERS):
        made = weights[f"b_dec_{layer}"] + sum(
            acts[source] @ weights[f"W_dec_{source}"][:, layer - source] for source in range(layer + 1)
        )
        aim = given[N_LAYERS + layer]
        fvu = float((aim - made).square().sum() / (aim - aim.mean(0)).square().sum())
        quality = EvidenceFolder(evidence / str(layer)).manifest["quality"]
        assert quality["fvu"] == pytest.approx(fvu, rel=1e-3), layer


def test_the_logit_lens_of_each_place_and_of_all(subject: Subject, evidence: Path) -> None:
    """What a feature writes to several MLPs' outputs adds up in the residual stream."""
    gain = 1 + subject.model.model.norm.weight.detach()
    unembedding = subject.model.lm_head.weight.detach() * gain
    decoder = clt_by_hand()["W_dec_1"]
    folder = EvidenceFolder(evidence / "1")
    folder.files.check_shapes(folder.n_features, by_others=False)
    for feature in (0, 40):
        places = read_places(folder, feature)
        assert [place.place for place in places] == [WRITES.format(1), WRITES.format(2)]
        output = read_output(folder, feature)
        assert output is not None
        all_of_it = PlaceOutput("all", output.promoted, output.suppressed)
        for found, direction in zip([*places, all_of_it], [*decoder[feature], decoder[feature].sum(0)], strict=True):
            logits = unembedding @ direction
            top, low = logits.topk(10), logits.topk(10, largest=False)
            for side, expected in ((found.promoted, top), (found.suppressed, low)):
                assert [token for token, _ in side] == expected.indices.tolist()
                assert [logit for _, logit in side] == pytest.approx(expected.values.tolist(), rel=1e-4)
    assert len(read_places(EvidenceFolder(evidence / "0"), 0)) == N_LAYERS
    assert read_places(EvidenceFolder(evidence / "2"), 0) == (), "the last layer writes to one place"


def test_neighbours_are_near_in_all_that_they_write(evidence: Path) -> None:
    directions = torch.nn.functional.normalize(clt_by_hand()["W_dec_0"].flatten(1), dim=1)
    cosines = directions @ directions.T - 3 * torch.eye(len(directions))
    found = read_neighbours(EvidenceFolder(evidence / "0"), 5)
    assert [cosine for _, cosine in found] == pytest.approx(cosines[5].topk(10).values.tolist(), rel=1e-4)


def test_a_feature_page_shows_every_place(evidence: Path) -> None:
    view = feature_view(EvidenceFolder(evidence / "1"), 3, None)
    assert [of.place for of in view.places] == [WRITES.format(1), WRITES.format(2)]
    assert describe_feature(view)["places"][1]["promoted"] == view.places[1].promoted


def test_all_layers_take_one_forward_pass(
    subject: Subject, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_forward: list[int] = []
    hidden = Subject.hidden

    def counted(self: Subject, *args: Any) -> Any:
        n_forward.append(1)
        return hidden(self, *args)

    monkeypatch.setattr(Subject, "hidden", counted)
    for layers in ([0], None):
        targets = targets_of(subject, CLT, tmp_path / str(layers), layers)
        corpus = open_corpus(str(planted.corpus))
        prepare(targets, subject, corpus, CONFIG, force=True)  # its look at the vector is no part of the pass
        n_forward.clear()
        gather_for_all(subject, targets, corpus, CONFIG)
        n_batches = sum(
            len(list(batches_of_chunk(tokenized, chunk, CONFIG)))
            for tokenized in [open_tokenized(next(iter(targets)) / "corpus")]
            for chunk in range(n_chunks(tokenized, CONFIG))
        )
        assert len(n_forward) == n_batches


def test_a_layer_alone_has_the_same_features_and_no_quality(
    subject: Subject, planted: Planted, evidence: Path, tmp_path: Path
) -> None:
    gather_for_all(subject, targets_of(subject, CLT, tmp_path, [2]), open_corpus(str(planted.corpus)), CONFIG)
    alone, together = EvidenceFolder(tmp_path / "2"), EvidenceFolder(evidence / "2")
    assert alone.hash == together.hash
    assert np.array_equal(
        alone.files.whole("statistics.histogram.npy"), together.files.whole("statistics.histogram.npy")
    )
    assert alone.manifest["quality"]["l0"] == together.manifest["quality"]["l0"]
    assert alone.manifest["quality"]["explained_variance"] is None
    assert together.manifest["quality"]["explained_variance"] is not None


def test_layers_that_a_killed_run_left_behind_are_measured_alike(
    subject: Subject, planted: Planted, evidence: Path, tmp_path: Path
) -> None:
    """Layer 0 and 1 are done when the pass of all three is begun: they help to reconstruct layer 2."""
    corpus = open_corpus(str(planted.corpus))
    gather_for_all(subject, targets_of(subject, CLT, tmp_path, [0, 1]), corpus, CONFIG, shard=(1, 2))
    for shard in ((1, 2), (2, 2)):
        gather_for_all(subject, targets_of(subject, CLT, tmp_path), corpus, CONFIG, shard=shard)
    from labeler.evidence.merge import merge_shards

    for layer in range(N_LAYERS):
        merge_shards(tmp_path / str(layer))
        quality = EvidenceFolder(tmp_path / str(layer)).manifest["quality"]
        assert quality == EvidenceFolder(evidence / str(layer)).manifest["quality"]


def test_gathered_evidence_opens_its_layer_again(subject: Subject, evidence: Path) -> None:
    manifest = EvidenceFolder(evidence / "1").manifest
    _, target = open_gathered(manifest)
    assert str(target.hookpoint) == f"{WHERE.format(1)}:input"
    assert [str(place) for place in target.writes] == manifest["writes"] == [WRITES.format(1), WRITES.format(2)]


@pytest.mark.parametrize(("kind", "layers"), [("clt", (0, 1, 2)), ("crosscoder", (0, 2))])
def test_gemma_scope_2(subject: Subject, planted: Planted, tmp_path: Path, kind: str, layers: tuple[int, ...]) -> None:
    """A feature reads the layer of its file; a CLT's writes to later layers, a crosscoder's to all."""
    folder = write_gemma_scope_2(tmp_path / kind / "width_64_l0_big", layers, affine=kind == "clt")
    saes = load_layers(str(folder))
    assert [sae.part.layer for sae in saes if sae.part] == list(layers)
    targets = targets_of(subject, folder, tmp_path / "out")
    gather_for_all(subject, targets, open_corpus(str(planted.corpus)), CONFIG)
    out = tmp_path / "out"
    read, written = (WHERE, WRITES) if kind == "clt" else ("model.layers.{}", "model.layers.{}")
    places = [Hookpoint(template.format(n)) for template in (read, written) for n in layers]
    (out / "0").mkdir(exist_ok=True)
    corpus = open_tokenized(out / "0" / "corpus")
    given = hidden_of(subject, out, list(dict.fromkeys(places)), list(range(0, n_chunks(corpus, CONFIG), 8)))
    at = dict(zip(dict.fromkeys(places), given, strict=True))
    files = [load_file(folder / f"params_layer_{i}.safetensors") for i in range(len(layers))]
    for i, layer in enumerate(layers):
        aim = at[Hookpoint(written.format(layer))]
        made = files[i]["b_dec"].clone()
        for j, file in enumerate(files):
            if kind == "crosscoder" or j <= i:
                z = at[Hookpoint(read.format(layers[j]))] @ file["w_enc"] + file["b_enc"]
                made = made + (z.relu() * (z > file["threshold"])) @ file["w_dec"][:, i]
        if kind == "clt":
            made = made + at[Hookpoint(read.format(layer))] @ files[i]["affine_skip_connection"]
        fvu = float((aim - made).square().sum() / (aim - aim.mean(0)).square().sum())
        manifest = json.loads((out / str(layer) / "manifest.json").read_text())
        assert manifest["quality"]["fvu"] == pytest.approx(fvu, rel=1e-3)
        assert manifest["writes"] == [written.format(n) for n in (layers[i:] if kind == "clt" else layers)]


def test_a_plan_of_an_earlier_version_spells_the_side_otherwise(
    subject: Subject, planted: Planted, tmp_path: Path
) -> None:
    from labeler.sae import identity_sae

    targets = {tmp_path / "out": choose_target(subject, identity_sae(16, "model.layers.1"), "model.layers.1:input")}
    corpus = open_corpus(str(planted.corpus))
    gather_for_all(subject, targets, corpus, CONFIG)
    path = tmp_path / "out" / "plan.json"
    assert path.read_text().count("model.layers.1:input") == 1
    path.write_text(path.read_text().replace("model.layers.1:input", "model.layers.1 (input)"))
    gather_for_all(subject, targets, corpus, CONFIG)


def test_what_needs_one_place_says_so(subject: Subject, planted: Planted, evidence: Path, tmp_path: Path) -> None:
    targets = targets_of(subject, CLT, tmp_path, [0])
    gather_for_all(subject, targets, open_corpus(str(planted.corpus)), CONFIG, cross_entropy_tokens=200)
    folder = EvidenceFolder(tmp_path / "0")
    assert folder.manifest["quality"]["cross_entropy_recovered"] is None
    assert "other layers' features" in folder.manifest["quality"]["cross_entropy_reason"]
    with pytest.raises(InputError, match="writes to 3 places"):
        steer_features(subject, targets[tmp_path / "0"], folder, [0], SteerConfig())


def test_the_commands(run, subject: Subject, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """From the files of a CLT to a graph whose nodes of two layers have labels, without naming anything twice."""
    out = tmp_path / "evidence"
    words: list[object] = ["gather", "--subject", subject.id, "--corpus", planted.corpus, "--out", out]
    words += ["--tokens", 6000, "--sequence-tokens", 96, "--force"]
    done = run(*words, "--sae", CLT, "--layers", "0-1", "--name", "tiny / clt")
    assert done.code == 0, done.err
    folders = sorted(path.parent for path in out.glob("*/manifest.json"))
    assert [EvidenceFolder(folder).manifest["names"]["sae"] for folder in folders] == ["clt layer 0", "clt layer 1"]
    for folder in folders:
        done = run("label", folder, "--features", "0-3")
        assert done.code == 0, done.err
    pinned = [int(EvidenceFolder(folder).n_firing_windows.sum(0)[:4].argmax()) for folder in folders]
    nodes = [
        {
            "node_id": f"{layer}_{n}_1",
            "feature": cantor(layer, n),
            "layer": str(layer),
            "clerp": "",
            "feature_type": "cross layer transcoder",
        }
        for layer, n in enumerate(pinned)
    ]
    (tmp_path / "graph.json").write_text(json.dumps({"metadata": {"scan": "x"}, "nodes": nodes, "links": []}))
    done = run("graph", tmp_path / "graph.json", "--out", tmp_path / "labeled.json")
    assert done.code == 0, done.err
    assert "2 of 2 nodes of features have a label now" in done.out
    for bad, message in (("3", "no layers 3 there; it holds 0-2"), ("2-1", "expected layers such as 0-3,7")):
        done = run(*words[:6], tmp_path / "b", "--sae", CLT, "--layers", bad)
        assert done.code == 2
        assert message in done.err
    done = run(*words[:6], tmp_path / "b", "--sae", planted.sae, "--layers", "0")
    assert "--layers chooses nothing" in done.err


def test_the_card_names_every_place(evidence: Path, tmp_path: Path) -> None:
    folder = EvidenceFolder(evidence / "1")
    store = open_store(str(tmp_path / "labeler.db"))
    label_set = store.label_set_for(folder.manifest, str(folder.folder), Recipe())
    card = build_card(store, label_set.id)
    assert card["writes"] == folder.manifest["writes"]
    assert f"| each feature writes to | {WRITES.format(1)}, {WRITES.format(2)} |" in card_markdown(card)
    store.close()


def write_openmoss_crosscoder(folder: Path) -> dict[str, torch.Tensor]:
    """Write a JumpReLU crosscoder of two places as OpenMOSS' Language-Model-SAEs does."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"W_E": (2, D, F), "b_E": (2, F), "W_D": (2, F, D), "b_D": (2, D)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["activation_function.log_jumprelu_threshold"] = 2 + torch.randn(F, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "sae_weights.safetensors")
    places = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_pre"]
    config = {
        "sae_type": "crosscoder",
        "hook_points": places,
        "d_model": D,
        "act_fn": "jumprelu",
        "norm_activation": "inference",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def test_a_crosscoder_that_reads_several_places(subject: Subject, planted: Planted, tmp_path: Path) -> None:
    """The formula of OpenMOSS' CrossCoder, which gates the activation at each place by the norm of its decoder row."""
    weights = write_openmoss_crosscoder(tmp_path / "crosscoder")
    sae = load_sae(str(tmp_path / "crosscoder"))
    target = choose_target(subject, sae, None)
    assert str(target.hookpoint) == "model.layers.0+model.layers.2:input"
    out = tmp_path / "0"
    gather_for_all(subject, {out: target}, open_corpus(str(planted.corpus)), CONFIG)
    corpus = open_tokenized(out / "corpus")
    places = [Hookpoint("model.layers.0"), Hookpoint("model.layers.2", "input")]
    x = torch.stack(hidden_of(subject, tmp_path, places, list(range(0, n_chunks(corpus, CONFIG), 8))), dim=1)
    pre = (torch.einsum("tpd,pdf->tpf", x, weights["W_E"]) + weights["b_E"]).sum(1, keepdim=True)
    norm = weights["W_D"].norm(dim=-1)
    threshold = weights["activation_function.log_jumprelu_threshold"].exp()
    acts = torch.where(pre * norm > threshold, pre, 0.0).relu()
    made = torch.einsum("tpf,pfd->tpd", acts, weights["W_D"]) + weights["b_D"]
    torch.testing.assert_close(sae.encode(x.flatten(1)), acts.amax(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decode(acts.amax(1)), made.flatten(1), rtol=1e-4, atol=1e-4)
    fvu = float((x - made).square().sum() / (x - x.mean(0)).square().sum())
    manifest = EvidenceFolder(out).manifest
    assert manifest["quality"]["fvu"] == pytest.approx(fvu, rel=1e-3)
    assert manifest["writes"] == ["model.layers.0", "model.layers.2:input"]
    _, again = open_gathered(manifest)
    assert again.hookpoint == target.hookpoint
    assert "several places" in measure_loss(subject, target, corpus, CONFIG, 200)["cross_entropy_reason"]
