"""Texts through a real gather worker and a real queue: what fires where, and what becomes of texts that nobody reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from celery import Celery

from labeler.errors import InputError, NotFoundError
from labeler.evidence.activations import read_text
from labeler.evidence.gathered import target_of
from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import open_sae
from labeler.recipe import GatherConfig
from labeler.records import Source, Split
from labeler.settings import Settings
from labeler.store import Store, open_store
from labeler.store.jobs import activations as module
from labeler.store.jobs.activations import ActivationRequest, Activations
from labeler.store.label_sets.catalogue import find_evidence
from labeler.store.tables.service import ACTIVATIONS
from labeler.subject.model import Subject, load_subject
from labeler.terms import RequestState
from tests.gathering import CONFIG
from tests.planted import HOOKPOINT, Planted
from tests.waiting import HANGS
from tests.workers.conftest import Service, a_service, until
from workers import enqueue
from workers.activate import Between
from workers.resources import Resources


@pytest.fixture(scope="module")
def gathering(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on SQLite with one gather worker, whose first text has loaded the subject."""
    folder = tmp_path_factory.mktemp("gathering")
    with a_service(str(folder / "labeler.db"), folder, planted_evidence) as service:
        service.start_worker("gather")
        service.wait_until_ready()
        yield service


def ask(service: Service, text: str) -> str:
    """The worker's own look around finds a text: nobody has told it."""
    return Activations(service.store).ask(find_evidence(service.store, str(service.evidence_id())), text).id


def answered(service: Service, request: str, seconds: float = HANGS) -> ActivationRequest:
    requests = Activations(service.store)
    until(lambda: requests.get(request).state in (RequestState.DONE, RequestState.FAILED), seconds)
    return requests.get(request)


def test_a_worker_says_what_fires_where(gathering: Service) -> None:
    found = answered(gathering, ask(gathering, "Qae 7"))
    assert (found.state, found.reason) == (RequestState.DONE, None), gathering.log.read_text()[-3000:]
    assert found.answer is not None
    assert [token["token"] for token in found.answer["tokens"]] == list("Qae 7")
    assert found.answer["tokens"][0] == {"token": "Q", "n_firing": 1, "top": [[0, 5.0]]}
    by_feature = {f["feature_index"]: (f["at"], f["activations"]) for f in found.answer["features"]}
    assert by_feature[2] == ([1, 2], [1.0, 2.0])
    assert next(iter(by_feature)) == 0, "the highest first"


def test_a_text_that_cannot_be_read_fails_with_the_reason(gathering: Service) -> None:
    found = answered(gathering, ask(gathering, "a" * (module.MOST_TOKENS + 1)))
    assert found.state is RequestState.FAILED
    assert "4,097 tokens" in (found.reason or "")
    assert answered(gathering, ask(gathering, "a")).state is RequestState.DONE, "and the worker goes on"


def test_values_are_those_of_the_evidence(planted: Planted, planted_evidence: Path) -> None:
    """A whole document read as a text: every context that was gathered of it has the same activations."""
    folder = EvidenceFolder(planted_evidence)
    subject = load_subject(str(planted.subject))
    low, high = (int(n) for n in folder.corpus.document_starts[:2])
    text = "".join(folder.vocabulary.text(int(i)) for i in folder.corpus.tokens[low:high])
    assert high - low > 2 * CONFIG.sequence_tokens, "several sequences"
    sae = open_sae(subject, str(planted.sae), HOOKPOINT, "float32")
    found = read_text(
        subject, target_of(folder.manifest, subject, sae), GatherConfig.from_dict(folder.manifest["config"]), text
    )
    n_compared = 0
    for feature in range(folder.n_features):
        mine = np.zeros(high - low, dtype=np.float32)
        at = found.feature == feature
        mine[found.token[at]] = found.value[at]
        for split in Split:
            for context in folder.contexts(folder.windows(feature, Source.TOP, split), Source.TOP, split):
                if low <= context.token_start < high:
                    place = context.token_start - low
                    assert mine[place : place + len(context.tokens)] == pytest.approx(context.activations, rel=1e-5)
                    n_compared += 1
    assert n_compared > 50


def test_other_weights_are_refused(planted: Planted, planted_evidence: Path) -> None:
    manifest = json.loads((planted_evidence / "manifest.json").read_text())
    subject = load_subject(str(planted.subject))
    sae = open_sae(subject, str(planted.sae), HOOKPOINT, "float32")
    manifest["sae"]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="other weights now"):
        target_of(manifest, subject, sae)


@pytest.fixture
def alone(planted_evidence: Path, tmp_path: Path) -> Iterator[Store]:
    """A database that no worker looks at."""
    store = open_store(str(tmp_path / "labeler.db"))
    store.add_evidence(EvidenceFolder(planted_evidence).manifest, str(planted_evidence))
    yield store
    store.close()


def age(store: Store, request: str, by: timedelta) -> None:
    with store.database.writing() as connection:
        row = ACTIVATIONS.c.id == request
        connection.execute(ACTIVATIONS.update().where(row).values(created_at=module.now() - by))


def test_a_text_that_nobody_takes_fails_and_is_forgotten(alone: Store) -> None:
    requests = Activations(alone)
    request = requests.ask(find_evidence(alone, "1"), "a").id
    assert requests.get(request).state is RequestState.WAITING
    age(alone, request, module.NOBODY)
    found = requests.get(request)
    assert found.state is RequestState.FAILED
    assert "labeler worker --queues gather" in (found.reason or "")
    assert not requests.finish(request, {}), "an answer that comes too late changes nothing"
    age(alone, request, module.KEPT)
    with pytest.raises(NotFoundError, match="deleted an hour after"):
        requests.get(request)
    requests.forget_old()
    with alone.database.reading() as connection:
        assert connection.execute(ACTIVATIONS.select()).all() == []


def test_a_text_behind_another_one_waits_longer_and_says_so(alone: Store) -> None:
    requests, evidence = Activations(alone), find_evidence(alone, "1")
    first, second = (requests.ask(evidence, text).id for text in "ab")
    claimed = requests.claim()
    assert claimed is not None
    assert claimed.id == first
    age(alone, second, module.NOBODY)
    assert "another text is being read; this text waits until" in (requests.get(second).reason or "")
    age(alone, second, module.PATIENCE)
    assert "5 minutes have passed" in (requests.get(second).reason or "")
    age(alone, first, module.PATIENCE)
    assert "it was lost" in (requests.get(first).reason or "")


def test_a_pass_answers_texts_about_its_subject_between_two_batches(alone: Store, planted: Planted) -> None:
    here = Resources(Settings(database=alone.database.name.removeprefix("sqlite:///")))
    subject: Subject = load_subject(str(planted.subject))
    requests, evidence = Activations(alone), find_evidence(alone, "1")
    request = requests.ask(evidence, "Q").id
    Between(here, subject, "bfloat16")()
    assert requests.get(request).state is RequestState.WAITING, "another dtype is another subject"
    between = Between(here, subject, "float32")
    between()
    assert requests.get(request).state is RequestState.DONE
    later = requests.ask(evidence, "Q").id
    between()
    assert requests.get(later).state is RequestState.WAITING, "the pass goes on first"
    here.close()


def test_one_message_stands_for_all_texts(gathering: Service, monkeypatch: pytest.MonkeyPatch, alone: Store) -> None:
    """In the real Redis, in a queue that no worker drains."""
    app = Celery("other", broker=gathering.redis.url)
    app.conf.task_default_queue = "nobody-listens"
    monkeypatch.setattr(enqueue, "app", app)
    monkeypatch.setattr(enqueue, "ACTIVATIONS_QUEUE", "nobody-listens")
    for text in "abc":
        Activations(alone).ask(find_evidence(alone, "1"), text)
    assert [enqueue.announce_texts(alone), enqueue.announce_texts(alone)] == [1, 0]
    app.close()
