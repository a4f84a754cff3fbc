"""The service as a process of its own, asked over a real connection, by the client and by the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from labeler.client import Client, ServiceError
from labeler.errors import ConflictError, InputError, NotFoundError, StorageError
from labeler.imports.card import read_card
from labeler.imports.files import read_rows
from labeler.records import State
from labeler.store import open_store
from labeler.store.people.keys import create_key
from labeler.terms import Scope
from tests.planted import N_FEATURES
from tests.service import api_process


@pytest.fixture(scope="module")
def address(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python -m api` on a free port, over a copy of the world; the key is in LABELER_KEY."""
    data = tmp_path_factory.mktemp("served")
    shutil.copytree(world, data, dirs_exist_ok=True)
    store = open_store(str(data / "labeler.db"))
    key = create_key(store, "ann", Scope.ADMIN)[1]
    store.close()
    with pytest.MonkeyPatch.context() as patch, api_process(data) as url:
        patch.setenv("LABELER_KEY", key)
        yield url
    assert key not in (data / "api.log").read_text()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def test_the_client_reads_everything(client: Client, tmp_path: Path) -> None:
    assert [sae.n_features for sae in client.saes()] == [N_FEATURES]
    assert client.sae(1).sha256 == next(client.saes()).sha256
    assert client.evidence_detail(next(client.evidence()).hash).sae_id == 1
    assert [s.explainer for s in client.sets(sae=1)] == ["lookup", "openai:m"]
    assert client.set(2).summary["counts"]["labeled"] == 9
    assert client.card(1)["label_set"] == 1
    assert client.card_markdown(1).startswith("# Label set 1")
    assert [label.feature_index for label in client.labels(set=2, sort="-score", score_min=0.35)] == [7, 6, 5, 4]
    assert client.label(2, 9).state is State.SILENT
    assert client.label(2, 9).created_at.tzinfo is not None
    assert [label and label.label_set_id for label in client.lookup([(1, 0), (1, 31), (7, 7)])] == [2, 1, None]
    assert client.search("letters", limit=3).n_hits == 8
    assert client.compare(1, 2).n_both == 11
    feature = client.feature(1, 0, set=1)
    assert feature.held_out[0].predicted is not None
    assert feature.labels[0].scores["simulation"].n == 20
    for kind in ("jsonl", "csv", "parquet"):
        n = client.export(1, kind, tmp_path / kind)
        assert (tmp_path / kind).stat().st_size == n
    assert len(pd.read_parquet(tmp_path / "parquet")) == N_FEATURES


def test_the_client_turns_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.client._PAGE", 5)
    assert [label.feature_index for label in client.labels(set=1)] == list(range(N_FEATURES))


def test_the_client_asks_for_work_and_follows_it(client: Client) -> None:
    job = client.submit(1, "0-3", recipe="standard", explainer="openai:m", idempotency_key="one")
    assert client.submit(1, "0-3", recipe="standard", explainer="openai:m", idempotency_key="one").id == job.id
    watched = client.watch(job.id)
    assert next(watched).state == "queued"
    assert client.change_job(job.id, "cancel").state == "cancelled"
    assert [detail.state for detail in watched] == ["cancelled"]
    assert [found.id for found in client.jobs(state="cancelled")] == [job.id]
    assert client.job(job.id).progress.counts["pending"] == 4
    assert list(client.failures(job.id)) == []
    with pytest.raises(ConflictError, match="cannot be paused"):
        client.change_job(job.id, "pause")
    assert client.submit_gather(subject="a", sae="b", corpus="python-stdlib", out="c").kind == "gather"


def test_the_client_reviews(client: Client) -> None:
    review = client.review(1, 0, "corrected", "the letter Q")
    assert client.reviews(1, 0) == [review]
    assert review.reviewer == "ann"


def test_errors_come_with_the_words_of_the_service(client: Client, address: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="label set 9: there is none here"):
        client.set(9)
    with pytest.raises(NotFoundError, match="label set 9"):
        client.export(9, "csv", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="expected a word"):
        client.search("!!")
    with pytest.raises(NotFoundError):
        next(client.watch(999))
    with (
        Client(address, key="lbl_00000000_" + "x" * 43) as stranger,
        pytest.raises(ServiceError, match="not known, or revoked") as refused,
    ):
        stranger.set(1)
    assert refused.value.status == 401
    with Client("http://127.0.0.1:9", attempts=2) as nobody, pytest.raises(StorageError, match="is it running"):
        nobody.set(1)


def test_an_admin_sees_and_ends_keys(client: Client, address: str) -> None:
    listed = client.keys()
    assert [key.name for key in listed] == ["ann"]
    with pytest.raises(NotFoundError):
        client.revoke_key("00000000")


def test_the_commands_ask_the_service(run: Callable[..., Any], address: str) -> None:
    listed = run("labels", "list", "--set", 2, "--sort", "-score", "--limit", 2, "--url", address)
    assert (listed.code, listed.out.splitlines()[0]) == (0, "1/7   0.70  letters such as 7 and running  (set 2)")
    assert len(json.loads(run("labels", "list", "--url", address, "--json", "--limit", 3).out)) == 3
    found = run("labels", "lookup", "1/3", "9/9", "--url", address)
    assert found.out.splitlines() == ["1/3   0.30  letters such as 3 and running  (set 2)", "9/9: no label"]
    assert run("labels", "search", "running -3", "--url", address).out.count("letters") == 7
    refused = run("labels", "lookup", "three", "--url", address)
    assert (refused.code, "expected SAE/FEATURE" in refused.err) == (2, True)
    away = run("labels", "list", "--url", "http://127.0.0.1:9")
    assert (away.code, "labeler up" in away.err) == (3, True)


def test_labels_are_no_commands_for_the_terminal(
    run: Callable[..., Any], address: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = client.label(2, 0).model_copy(update={"label": "\x1b]0;owned\x07\u202e"})
    monkeypatch.setattr(Client, "lookup", lambda *_, **__: [hostile])
    found = run("labels", "lookup", "1/0", "--url", address)
    assert found.out == "1/0   0.00  ␛]0;owned␇‹202E›  (set 2)\n"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_export_of_a_service_is_that_of_its_database(
    run: Callable[..., Any], address: str, world: Path, tmp_path: Path, kind: str
) -> None:
    there, here = tmp_path / f"there.{kind}", tmp_path / f"here.{kind}"
    done = run("export", "--format", kind, "--out", there, "--label-set", 2, "--url", address, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"label_set": 2, "format": kind, "out": str(there), "rows": 11}
    assert run("export", "--format", kind, "--out", here, "--label-set", 2, "--db", world / "labeler.db").code == 0
    assert len(list(read_rows(there))) == 11
    assert list(read_rows(there)) == list(read_rows(here))
    assert read_card(there).keys() == read_card(here).keys()
    assert len(list(tmp_path.glob("there*"))) == len(list(tmp_path.glob("here*")))


def test_what_a_service_does_not_export_is_refused(
    run: Callable[..., Any],
    address: str,
    client: Client,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LABELER_URL", address)
    refused = run("export", "--format", "saebench", "--out", tmp_path / "x")
    assert (refused.code, "--format saebench needs the database" in refused.err) == (2, True)
    refused = run("export", "--format", "csv", "--top-contexts", 1, "--out", tmp_path / "x")
    assert (refused.code, "--top-contexts needs the database" in refused.err) == (2, True)
    assert list(tmp_path.iterdir()) == []
    newest = run("export", "--format", "csv", "--out", tmp_path / "x", "--json")
    assert json.loads(newest.out)["label_set"] == client.default_set().id
    beside = run("export", "--format", "hf", "--out", tmp_path / "set", "--db", world / "labeler.db")
    assert beside.code == 0, beside.err


@pytest.mark.parametrize(("text", "says"), [(None, "cannot read this file"), (b"\xff1", "not UTF-8")])
def test_a_list_of_features_that_cannot_be_read_is_named(
    run: Callable[..., Any], address: str, client: Client, tmp_path: Path, text: bytes | None, says: str
) -> None:
    if text is not None:
        (tmp_path / "some").write_bytes(text)
    evidence = next(client.evidence()).hash
    refused = run("jobs", "submit", evidence, "--features", f"@{tmp_path / 'some'}", "--url", address)
    assert (refused.code, says in refused.err) == (2, True)


def test_jobs_by_command_are_the_same_on_a_service(
    run: Callable[..., Any], address: str, client: Client, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('model = "m"\nseed = 5\n')
    evidence = next(client.evidence()).hash
    made = run(
        "jobs",
        "submit",
        evidence,
        "--features",
        "0-5",
        "--recipe",
        recipe,
        "--budget-usd",
        2,
        "--url",
        address,
        "--json",
    )
    job = json.loads(made.out)
    assert (made.code, job["recipe"]["seed"], job["budget_usd"], job["progress"]["counts"]["pending"]) == (0, 5, 2.0, 6)
    assert f"job {job['id']} label queued" in run("jobs", "show", job["id"], "--url", address).out
    for word, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert f"job {job['id']} label {state}" in run("jobs", word, job["id"], "--url", address).out
    assert run("jobs", "watch", job["id"], "--url", address).code == 4
    assert f"job {job['id']} label cancelled" in run("jobs", "list", "--limit", 1, "--url", address).out
    again = run("jobs", "cancel", job["id"], "--url", address)
    assert (again.code, "cannot be cancelled" in again.err) == (2, True)


def test_keys_by_command(run: Callable[..., Any]) -> None:
    run("migrate")
    assert "No keys" in run("keys", "list").out
    made = run("keys", "create", "ann", "--scope", "submit", "--rate", "5/second")
    key_id = made.out.split("_")[1]
    listed = run("keys", "list")
    assert key_id in listed.out
    assert made.out.strip() not in listed.out
    assert json.loads(run("keys", "list", "--json").out)[0]["scope"] == "submit"
    assert f"Key {key_id} (ann) is revoked" in run("keys", "revoke", key_id).out
    assert "revoked" in run("keys", "list").out
    assert run("keys", "create", "x", "--scope", "root").code == 2
    assert run("keys", "revoke", "nothing").code == 2


def test_nodes_of_a_graph_get_labels_of_the_service(run, address: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    node = {"node_id": "4_3_0", "layer": "4", "feature": 0, "feature_type": "cross layer transcoder", "clerp": ""}
    gone = {**node, "node_id": "4_9_0"}
    graph = {"metadata": {"scan": "someone/sae"}, "nodes": [node, gone], "links": []}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    words = ("graph", tmp_path / "graph.json", "--labels", "4=2", "--out", tmp_path / "out.json", "--url", address)
    done = run(*words, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["without"] == {"4_9_0": "label set 2 (layer 4) has no label for it"}
    assert json.loads((tmp_path / "out.json").read_text())["nodes"][0]["clerp"] == "letters such as 3 and running"
