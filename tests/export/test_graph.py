"""Labels in a graph file as circuit-tracer writes it (its version of December 2025: metadata.schema_version 1)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import FormatError, InputError
from labeler.export.graph import Found, Labels, cantor, label_nodes, layer_of, shown
from labeler.export.scans import KnownSae, saes_by_layer
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from tests.results import failed, labeled, manifest, silent


def feature_node(layer: int, feature: int, position: int, /, **changes: Any) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{feature}_{position}",
        "feature": (layer + feature) * (layer + feature + 1) // 2 + feature,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{feature}-0",
        "clerp": "",
        "influence": 0.5,
        "activation": 11.375,
    } | changes


def graph_file() -> dict[str, Any]:
    common = {
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "influence": None,
        "activation": None,
    }
    return {
        "metadata": {
            "slug": "a-graph",
            "scan": "tiny",
            "transcoder_list": [],
            "prompt_tokens": ["a", "⏎"],
            "prompt": "a\n",
            "node_threshold": 0.8,
            "schema_version": 1,
        },
        "qParams": {
            "pinnedIds": ["1_0-0"],
            "supernodes": [["mine", "1_0-0"]],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [
            {
                "node_id": "E_17_0",
                "feature": 0,
                "layer": "E",
                "ctx_idx": 0,
                "feature_type": "embedding",
                "jsNodeId": "E_17-0",
                "clerp": "",
                **common,
            },
            feature_node(1, 0, 0),
            feature_node(1, 0, 1),
            feature_node(1, 40, 1, clerp="by hand"),
            feature_node(1, 2, 1),
            feature_node(2, 7, 1),
            {
                "node_id": "1_-1_1",
                "feature": -1,
                "layer": "1",
                "ctx_idx": 1,
                "feature_type": "mlp reconstruction error",
                "jsNodeId": "1_-1-1",
                "clerp": "",
                **common,
            },
            {
                "node_id": "4_262_1",
                "feature": 262,
                "layer": "4",
                "ctx_idx": 1,
                "feature_type": "logit",
                "jsNodeId": "L_262-1",
                "clerp": 'Output " the" (p=0.500)',
                **common,
                "token_prob": 0.5,
                "is_target_logit": True,
            },
        ],
        "links": [{"source": "1_0_0", "target": "4_262_1", "weight": -0.1}],
    }


KNOWN = {
    0: Found("labeled", "the letter Q", None, 0.9),
    2: Found("silent", None, "never fired on 1,000 tokens", None),
    3: Found("labeled", "unscored", None, None),
    40: Found("labeled", "forty", None, 0.1),
}


def labels(known: Mapping[int, Found] = KNOWN, n_features: int = 50) -> dict[int, Labels]:
    asked: list[int] = []

    def look_up(features: Sequence[int]) -> dict[int, Found]:
        assert not set(features) & set(asked), "asked twice"
        asked.extend(features)
        return {feature: known[feature] for feature in features if feature in known}

    return {1: Labels(3, "layers.1.mlp:input", n_features, look_up)}


def clerps(graph: dict[str, Any]) -> dict[str, str]:
    return {node["node_id"]: node["clerp"] for node in graph["nodes"]}


def test_labels_go_where_the_viewer_reads_them_and_nowhere_else() -> None:
    graph, before = graph_file(), graph_file()
    report = label_nodes(graph, labels())
    assert clerps(graph) == clerps(before) | {"1_0_0": "the letter Q", "1_0_1": "the letter Q"}
    for node in graph["nodes"]:
        node["clerp"] = next(n["clerp"] for n in before["nodes"] if n["node_id"] == node["node_id"])
    assert graph == before, "nothing but clerps changed"
    assert (report.n_nodes, report.n_labeled, report.n_kept) == (5, 2, 1)
    assert report.without == {
        "1_2_1": "silent: never fired on 1,000 tokens",
        "2_7_1": "no label set was given for layer 2",
    }


def test_what_is_there_is_replaced_only_when_asked() -> None:
    graph = graph_file()
    report = label_nodes(graph, labels(), relabel=True)
    assert clerps(graph)["1_40_1"] == "forty"
    assert (report.n_labeled, report.n_kept) == (3, 0)
    assert clerps(graph)["4_262_1"].startswith("Output"), "a logit is no feature"


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (feature_node(1, 50, 0), "is of an SAE with 50 features: is it of another SAE?"),
        (feature_node(1, 4, 0), "has no label for it"),
        (feature_node(1, 3, 0), "no score of 0.5 or more"),
        (feature_node(1, 40, 0), "no score of 0.5 or more"),
        (feature_node(1, 0, 0, layer="2"), "its node_id is of layer 1, and its layer is 2"),
        (feature_node(1, 0, 0, feature=5), "its node_id and its feature number are of different features"),
        (feature_node(1, 0, 0, node_id="1-0-0"), "its node_id is not LAYER_FEATURE_POSITION"),
    ],
)
def test_a_node_without_a_label_has_a_reason(node: dict[str, Any], reason: str) -> None:
    graph = graph_file()
    graph["nodes"] = [node]
    report = label_nodes(graph, labels(), min_score=0.5)
    assert reason in report.without[node["node_id"]]
    assert node["clerp"] == ""


def test_older_files_number_features_otherwise() -> None:
    """Before schema_version they counted layer * width + index."""
    graph = graph_file()
    del graph["metadata"]["schema_version"]
    graph["nodes"] = [feature_node(1, 0, 0, feature=16384)]
    assert label_nodes(graph, labels()).n_labeled == 1


def test_a_label_is_no_html() -> None:
    hostile = {0: Found("labeled", '<img src=x onerror="alert(1)"> & `a < b`', None, 1.0)}
    graph = graph_file()
    label_nodes(graph, labels(hostile))
    assert clerps(graph)["1_0_0"] == '‹img src=x onerror="alert(1)"> & `a ‹ b`'
    assert shown("`x`") == "`x`"


def test_the_pairing_is_cantors() -> None:
    assert cantor(1, 57794) == 1670217704  # as printed in circuit-tracer's issue 77
    assert len({cantor(x, y) for x in range(50) for y in range(50)}) == 2500


def test_layers_are_read_from_hookpoints() -> None:
    hookpoints = {
        "model.layers.12.mlp:input": 12,
        "model.layers.3|centered": 3,
        "layers.4 (input)": 4,
        "blocks.8.hook_mlp_in": 8,
        "transformer.h.0": 0,
    }
    assert {hookpoint: layer_of(hookpoint) for hookpoint in hookpoints} == hookpoints
    for unclear in ("embed_in", "encoder.2.layers.3"):
        with pytest.raises(InputError, match="write LAYER=SET"):
            layer_of(unclear)


def test_what_is_no_graph_is_refused() -> None:
    for other in ([], {"nodes": []}, {"metadata": {}, "nodes": [{"feature": 1}]}, {"metadata": {}, "nodes": {}}):
        with pytest.raises(FormatError, match="attribution graph"):
            label_nodes(copy.deepcopy(other), labels())  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "labeler.db"))
    store.label_set_for(manifest(hookpoint="layers.1", reads="input"), "/evidence", Recipe.from_names("openai:m"))
    store.save(1, [labeled(0, text="the letter Q"), silent(2), failed(3), labeled(40)])
    other = manifest(hookpoint="embed_in", hash="f" * 16)
    store.label_set_for(other, "/other", Recipe.from_names("openai:m"))
    store.save(2, [labeled(7, text="seven")])
    return store


def test_the_command(run, made: Store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    given, out = tmp_path / "graph.json", tmp_path / "out.json"
    given.write_text(json.dumps(graph_file()))
    done = run("graph", given, "--labels", 1, "--out", out)
    assert done.code == 0, done.err
    assert "layer 1: label set 1, layers.1:input, 50 features" in done.out
    assert "2 of 5 nodes of features have a label now, 1 keep the label they had" in done.out
    assert "no label for 1: silent: never fired on 1,000 tokens (1_2_1)" in done.out
    assert clerps(json.loads(out.read_text("utf-8")))["1_0_1"] == "the letter Q"
    assert given.read_text() == json.dumps(graph_file())

    again = run("graph", given, "--labels", 1, "--out", out)
    assert again.code == 2
    assert "--force" in again.err
    both = run("graph", out, "--labels", 1, "--labels", "2=2", "--out", out, "--force", "--json")
    report = json.loads(both.out)
    assert (report["labeled"], report["kept"], list(report["without"])) == (1, 3, ["1_2_1"])
    assert clerps(json.loads(out.read_text("utf-8")))["2_7_1"] == "seven"


def test_the_command_finds_the_label_sets_of_a_graph(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The graph names its set; each layer's SAE says in its evidence that it belongs there. The fuller label set counts."""
    store = open_store(str(tmp_path / "labeler.db"))
    for layer, text in ((1, "one"), (2, "two")):
        sae = {**manifest()["sae"], "sha256": f"{layer:064d}", "scan": "mntss/clt-tiny"}
        made = manifest(hookpoint=f"layers.{layer}.ln_2", reads="input", hash=f"{layer}" * 16, sae=sae)
        for explainer, features in (("a", [0]), ("b", [0, 7, 40]), ("c", [7])):
            of = store.label_set_for(made, f"/{layer}", Recipe.from_names(f"openai:{explainer}"))
            store.save(of.id, [labeled(n, text=f"{text} {explainer}") for n in features])
    store.close()
    graph = graph_file()
    graph["metadata"]["scan"] = "mntss/clt-tiny"
    given, out = tmp_path / "graph.json", tmp_path / "out.json"
    given.write_text(json.dumps(graph))
    done = run("graph", given, "--out", out)
    assert done.code == 0, done.err
    found = clerps(json.loads(out.read_text("utf-8")))
    assert (found["1_0_0"], found["2_7_1"]) == ("one b", "two b")
    graph["metadata"]["scan"] = "mntss/another"
    given.write_text(json.dumps(graph))
    done = run("graph", given, "--out", out, "--force")
    assert done.code == 2
    assert "no SAE here is of 'mntss/another'" in done.err
    del graph["metadata"]["scan"]
    given.write_text(json.dumps(graph))
    assert "metadata.scan" in run("graph", given, "--out", out, "--force").err


CACHE = "/home/a/.cache/huggingface/hub/models--{}/snapshots/0123456789abcdef/{}"


@pytest.mark.parametrize(
    ("scan", "path"),
    [
        ("mntss/clt-gemma-2-2b-2.5M", CACHE.format("mntss--clt-gemma-2-2b-2.5M", "W_enc_3.safetensors")),
        ("mntss/clt-gemma-2-2b-2.5M@main", "/data/clt-gemma-2-2b-2.5M/W_enc_3.safetensors"),
        ("mwhanna/qwen3-4b-transcoders", "mwhanna/qwen3-4b-transcoders/layer_3.safetensors"),
        ("gemma", CACHE.format("google--gemma-scope-2b-pt-transcoders", "layer_3/width_16k/average_l0_54/params.npz")),
        ("mntss/gemma-scope-transcoders", "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54/params.npz"),
        (
            "mwhanna/gemma-scope-2-4b-pt//transcoder_all/width_16k_l0_small",
            CACHE.format("google--gemma-scope-2-4b-pt", "transcoder_all/layer_3_width_16k_l0_small/params.safetensors"),
        ),
    ],
)
def test_a_set_is_known_by_where_its_weights_came_from(scan: str, path: str) -> None:
    assert KnownSae(1, "model.layers.3.mlp", path).is_of(scan)
    for other in ("mntss/clt-gemma-2-2b-426k", "mwhanna/gemma-scope-2-4b-pt//transcoder_all/width_262k_l0_small", "x"):
        assert not KnownSae(1, "model.layers.3.mlp", path).is_of(other)


def test_two_saes_of_a_layer_are_not_guessed_between() -> None:
    saes = [KnownSae(n, "model.layers.3.mlp:input", "/a", scan="s") for n in (4, 5)]
    assert saes_by_layer(["s"], saes[:1]) == {3: saes[0]}
    assert saes_by_layer(["s"], [KnownSae(4, "model.layers.3.mlp:input", "/a", scan="s", layer=2)]).keys() == {2}
    with pytest.raises(InputError, match="two SAEs of layer 3 are of 's': 4 and 5"):
        saes_by_layer(["s"], saes)


def test_labels_that_do_not_fit_are_refused(run, made: Store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    given = tmp_path / "graph.json"
    given.write_text(json.dumps(graph_file()))

    def refused(*words: object, message: str) -> None:
        done = run("graph", given, *words, "--out", tmp_path / "out.json")
        assert done.code == 2, done.out
        assert message in done.err
        assert not (tmp_path / "out.json").exists()

    refused("--labels", 2, message="hookpoint 'embed_in' does not name its layer")
    refused("--labels", 1, "--labels", "1=2", message="layer 1 has two label sets, 1 and 2")
    refused("--labels", "x", message="expected the id of a label set, or LAYER=ID")
    refused("--labels", 9, message="label set 9: there is none here")
    given.write_text('{"metadata": {}, "nodes": [')
    refused("--labels", 1, message="not JSON")
    given.write_text("{}")
    refused("--labels", 1, message="expected an attribution graph")
