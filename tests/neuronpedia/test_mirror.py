"""The mirror, asked by Neuronpedia's own package over a real connection, and by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi.testclient import TestClient
from neuronpedia import FeatureRequest, SAEFeatureRequest
from neuronpedia.requests.base_request import NPRequest, NPUnauthorizedError

from api.app import create_app
from labeler.evidence.store import EvidenceFolder
from labeler.neuronpedia.labels import save_labels
from labeler.neuronpedia.mirror import mirror_feature
from labeler.neuronpedia.read import find_tree, read_tree
from labeler.settings import Settings
from labeler.store import open_store
from labeler.store.people.keys import create_key
from labeler.terms import Scope
from tests.neuronpedia.conftest import SOURCE, World, read_rows
from tests.service import api_process


@pytest.fixture(scope="module")
def served(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a service of its own process, and a key of it that may read."""
    data = tmp_path_factory.mktemp("served")
    shutil.copy(world.database, data / "labeler.db")
    store = open_store(str(data / "labeler.db"))
    key = create_key(store, "ann", Scope.READ)[1]
    store.close()
    with api_process(data) as url:
        yield url, key


@pytest.fixture
def at_ours(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Points the package at our server, where its own settings know two addresses alone; a key."""
    monkeypatch.setattr(NPRequest, "BASE_URL", f"{served[0]}/api")
    return served[1]


def test_their_package_reads_a_feature(at_ours: str, whole_tree: Path) -> None:
    feature = FeatureRequest(api_key=at_ours).get("subject", "3-sae", 2)
    facts = {row["index"]: row for row in read_rows(whole_tree / SOURCE / "features/batch-0.jsonl.gz")}["2"]
    assert (feature.modelId, feature.source, feature.index) == ("subject", "3-sae", "2")
    assert feature.density == facts["frac_nonzero"]
    assert feature.explanations is not None
    assert [(e.text[:19], e.method, e.explainer_model) for e in feature.explanations] == [
        ("letters such as 2: ", "labeler_max-activation-2", "m"),
        (feature.explanations[1].text[:19], "labeler_lookup-2", "labeler-token-lookup"),
    ], "of both label sets, the newest first"
    assert feature.activations is not None
    assert max(feature.activations[0].values) == pytest.approx(facts["maxActApprox"])
    shares = [a.quantileFraction for a in feature.activations]
    assert None in shares, "the TOP group"
    assert any(share is not None and 0 < share < 1 for share in shares)


def test_their_package_reads_an_sae_feature_as_a_whole(at_ours: str) -> None:
    answer = json.loads(SAEFeatureRequest(api_key=at_ours).get("subject", "3-sae", "3").jsonData)
    assert {
        "modelId",
        "layer",
        "index",
        "pos_str",
        "neg_values",
        "activations",
        "explanations",
        "source",
        "sourceSet",
    } <= set(answer)
    (score,) = [s for s in answer["explanations"][0]["scores"] if s["explanationScoreTypeName"] == "labeler_simulation"]
    assert score["value"] == pytest.approx(0.3)
    assert json.loads(score["jsonDetails"])["null_p"] == 0.01


def test_their_package_is_told_what_is_not_there(at_ours: str) -> None:
    with pytest.raises(requests.HTTPError, match="not found"):
        FeatureRequest(api_key=at_ours).get("subject", "3-sae", 999_999)
    with pytest.raises(NPUnauthorizedError):
        FeatureRequest(api_key="wrong").get("subject", "3-sae", 2)


@pytest.fixture
def http(world: World, tmp_path: Path) -> Iterator[TestClient]:
    shutil.copy(world.database, tmp_path / "labeler.db")
    settings = Settings(database=str(tmp_path / "labeler.db"), data=tmp_path)
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client


def test_the_answer_has_the_columns_of_their_table(http: TestClient, whole_tree: Path) -> None:
    answer = http.get("/api/feature/subject/3-sae/2").json()
    facts = {row["index"]: row for row in read_rows(whole_tree / SOURCE / "features/batch-0.jsonl.gz")}["2"]
    assert {k: answer[k] for k in facts if k != "createdAt"} == {k: v for k, v in facts.items() if k != "createdAt"}
    values = [a["maxValue"] for a in answer["activations"]]
    assert values == sorted(values, reverse=True)
    assert all(a["index"] == "2" and a["layer"] == a["source"] == "3-sae" for a in answer["activations"])
    assert answer["lists"] == answer["comments"] == answer["vector"] == []
    assert answer["source"]["setName"] == answer["sourceSet"]["name"] == "sae"


@pytest.mark.parametrize(
    "path", ["subject/3-sae/32", "subject/3-sae/x", "subject/3-other/2", "other/3-sae/2", "subject/3-sae/-1"]
)
def test_what_is_not_there_is_said_as_they_say_it(http: TestClient, path: str) -> None:
    reply = http.get(f"/api/feature/{path}")
    assert reply.status_code == 404
    assert reply.json() == {"error": "The model, source, or feature you specified is not available."}


def test_a_silent_feature_has_an_answer_without_activations(http: TestClient) -> None:
    answer = http.get("/api/feature/subject/3-sae/5").json()
    assert answer["frac_nonzero"] == 0
    assert answer["activations"] == []


def test_an_sae_has_a_second_name_that_is_its_own(http: TestClient) -> None:
    sha256 = http.get("/v1/saes/1").json()["sha256"]
    answer = http.get(f"/api/feature/subject/3-sae-{sha256[:8]}/2").json()
    assert answer["layer"] == f"3-sae-{sha256[:8]}"
    assert answer["explanations"][0]["source"] == answer["layer"]


def test_without_its_evidence_folder_the_labels_are_there(http: TestClient, world: World, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "labeler.db"))
    store.add_evidence(store.manifest_of(1), str(tmp_path / "gone"))
    store.close()
    answer: dict[str, Any] = http.get("/api/feature/subject/3-sae/2").json()
    assert len(answer["explanations"]) == 2
    assert answer["activations"] == []
    assert answer["frac_nonzero"] is None, "unknown, and not zero"


def test_what_others_have_gathered_is_mirrored_as_far_as_it_is_known(tree: Path, tmp_path: Path) -> None:
    for name in ("release", "model", "sourceset", "source"):
        (tree / SOURCE / f"{name}.jsonl").unlink()  # nothing says that it was ours
    found = find_tree(tree)
    read_tree(found, tmp_path / "evidence")
    store = open_store(str(tmp_path / "labeler.db"))
    save_labels(store, found, tmp_path / "evidence")
    folder = EvidenceFolder(tmp_path / "evidence")
    answer = json.loads(mirror_feature(store, lambda _: folder, "subject", "3-sae", "2") or b"")
    store.close()
    facts = {row["index"]: row for row in read_rows(tree / SOURCE / "features/batch-0.jsonl.gz")}["2"]
    assert (answer["frac_nonzero"], answer["pos_str"]) == (facts["frac_nonzero"], facts["pos_str"])
    assert answer["freq_hist_data_bar_heights"] == [], "which they do not say in a form that we keep"
    assert len(answer["activations"]) > 10
    assert {a["binContains"] for a in answer["activations"]} == {None}
    assert answer["explanations"][0]["description"].startswith("letters such as 2")


def test_it_needs_a_key_that_may_read(http: TestClient) -> None:
    key = create_key(http.app.state.store, "ann", Scope.READ)[1]  # type: ignore[attr-defined]
    assert http.get("/api/feature/subject/3-sae/2").status_code == 401
    assert http.get("/api/feature/subject/3-sae/2", headers={"X-Api-Key": "wrong"}).status_code == 401
    assert http.get("/api/feature/subject/3-sae/2", headers={"X-Api-Key": key}).status_code == 200
    assert http.get("/api/feature/subject/3-sae/2", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert http.get("/v1/saes", headers={"X-Api-Key": key}).status_code == 401, "their header is for their paths"
