"""Commands that ask an LLM, as a person meets them: budgets, batches, refusals, and endpoints of no use."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from labeler.cli.options import RetryTeller
from labeler.llm.exchange import Retry
from tests import stub_server as stub
from tests.planted import N_FEATURES
from tests.stub_server import Behaviour, StubServer


def words(evidence: Path, server: StubServer, *more: object) -> list[object]:
    return ["label", evidence, "--explainer", "openai:m", "--base-url", server.base_url, "--json", *more]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--budget-usd", 0], "--budget-usd 0: a budget is a number above 0"),
        (["--budget-tokens", 0], "--budget-tokens 0: a budget is a number above 0"),
        (["--budget-usd", 1], "--budget-usd: the price of m is not known; add it to a price table"),
    ],
)
@pytest.mark.parametrize("command", ["label", "demo"])
def test_a_budget_that_cannot_be_kept_is_refused_before_anything(
    run: Any,
    tmp_path: Path,
    stub_server: StubServer,
    planted_evidence: Path,
    command: str,
    options: list[object],
    says: str,
) -> None:
    asked = words(planted_evidence, stub_server, *options)
    if command == "demo":
        asked = ["demo", "--out", tmp_path / "demo", *asked[2:-3], *options]
    done = run(*asked)
    assert done.code == 2
    assert says in done.err
    assert stub_server.requests == []
    assert not (tmp_path / "demo").exists()


def test_a_spent_budget_has_an_exit_code_of_its_own_and_keeps_what_was_done(
    run: Any, stub_server: StubServer, planted_evidence: Path
) -> None:
    done = run(*words(planted_evidence, stub_server, "--budget-tokens", 35_000))
    assert done.code == 5, done.err
    assert "the budget ends here" in done.err
    assert "the same command with another budget continues" in done.err
    assert 0 < json.loads(run("sets", "--json").out)[0]["summary"]["counts"]["labeled"] < N_FEATURES - 2
    assert run(*words(planted_evidence, stub_server)).code == 0
    bodies = [json.dumps(body, sort_keys=True) for body in stub_server.bodies]
    assert len(set(bodies)) == len(bodies)


def test_batches_are_a_word_on_the_command_line(run: Any, stub_server: StubServer, planted_evidence: Path) -> None:
    stub_server.batches.n_looks = 1
    done = run(*words(planted_evidence, stub_server, "--batch", "--features", "0-3"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["now"] == {"labeled": 4}
    assert len(stub_server.batches.batches) == 2


def test_refusals_are_counted_apart(run: Any, stub_server: StubServer, planted_evidence: Path) -> None:
    def behave(number: int, body: dict[str, Any]) -> Behaviour:
        return stub.REFUSAL if number % 2 else stub.MALFORMED

    stub_server.behave = behave
    done = run(*words(planted_evidence, stub_server, "--features", "0-3", "--concurrency", 1))
    assert done.code == 4
    assert json.loads(done.out)["now"]["failed"] == 4
    assert "of the failures are refusals: another model may answer" in done.err


def test_an_endpoint_of_no_use_ends_the_run_with_its_reason(
    run: Any, planted_evidence: Path, stub_server: StubServer
) -> None:
    stub_server.behave = lambda number, body: stub.fails(401, "key revoked")
    done = run(*words(planted_evidence, stub_server))
    assert done.code == 4
    assert "401: key revoked (check OPENAI_API_KEY" in done.err
    assert "no such file" in run("sets").err


@pytest.mark.parametrize("why", ["no key", "wrong key", "nobody there", "unknown model"])
@pytest.mark.parametrize("way", [[], ["--batch"]], ids=["live", "batch"])
def test_an_attempt_that_cannot_work_leaves_no_label_set(
    run: Any,
    planted_evidence: Path,
    stub_server: StubServer,
    why: str,
    way: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even its silent and rare features, of which no LLM need be asked, and which would hide the good labels of before."""
    said = {
        "no key": ("OPENAI_API_KEY", stub.GOOD, "https://api.example.org/v1"),
        "wrong key": ("401: wrong key", stub.fails(401, "wrong key"), stub_server.base_url),
        "nobody there": ("cannot be reached", stub.GOOD, "http://127.0.0.1:9/v1"),
        "unknown model": ("check the model's name", stub.NO_MODEL, stub_server.base_url),
    }
    words, behaviour, base_url = said[why]
    monkeypatch.setattr("labeler.llm.patience.Patience.wait", lambda *_: 0.0)
    stub_server.behave = lambda number, body: behaviour
    done = run("label", planted_evidence, "--explainer", "openai:m", "--base-url", base_url, *way)
    assert (done.code, words in done.err) == (4, True), done.err
    assert ("trying again in" in done.err) == (why == "nobody there")
    # Neither a database that other commands would find.
    assert list(tmp_path.glob("labeler.db*")) == []
    assert run("label", planted_evidence, "--json").code == 0
    good = json.loads(run("sets", "--json").out)
    done = run("label", planted_evidence, "--explainer", "openai:m", "--base-url", base_url, *way)
    assert (done.code, words in done.err) == (4, True), done.err
    assert json.loads(run("sets", "--json").out) == good


def test_a_demo_with_failures_says_so_in_its_exit_code(
    run: Any, stub_server: StubServer, planted_evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labeler.cli.demo.gather_demo", lambda *_: planted_evidence)
    asked = ["demo", "--out", tmp_path / "demo", "--features", "0-3", *words(planted_evidence, stub_server)[2:-1]]
    stub_server.behave = lambda number, body: stub.MALFORMED
    done = run(*asked)
    assert (done.code, "4 features failed" in done.err) == (4, True)
    assert (tmp_path / "demo" / "report.html").exists()


def test_no_more_features_are_begun_than_may_be_asked_about(
    run: Any, stub_server: StubServer, planted_evidence: Path
) -> None:
    assert run(*words(planted_evidence, stub_server, "--features", "0-3", "--concurrency", 1)).code == 0
    is_label = ["The feature detects: " not in json.dumps(body) for body in stub_server.bodies]
    assert (is_label.count(True), is_label.count(False) > 4) == (4, True)
    assert (True, True) not in pairwise(is_label)  # each is simulated before the next one


def test_the_words_of_a_provider_do_not_reach_the_terminal_as_commands(
    run: Any, stub_server: StubServer, planted_evidence: Path
) -> None:
    stub_server.behave = lambda number, body: stub.fails(401, "\x1b[2Jkey revoked")
    done = run(*words(planted_evidence, stub_server))
    assert (done.code, "\x1b" in done.err, "␛[2Jkey revoked" in done.err) == (4, False, True)


def test_labeling_ends_with_what_the_labels_are_worth(
    run: Any, stub_server: StubServer, planted_evidence: Path
) -> None:
    def behave(number: int, body: dict[str, Any]) -> Behaviour:
        # Only the first feature asked about fails: all others get a label and a score.
        return stub.fails(400, "the server is not well") if number == 1 else stub.GOOD

    stub_server.behave = behave
    asked = [word for word in words(planted_evidence, stub_server, "--features", "0-9") if word != "--json"]
    done = run(*asked, "--concurrency", 1)
    summary = json.loads(run("sets", "--json").out)[0]["summary"]
    assert done.code == 4
    median, n = summary["medians"]["score"], summary["n_scored"]
    interval = f" (95% interval {median['low']:.2f} to {median['high']:.2f})"
    assert f"Median score {median['value']:.2f}{interval} over {n} labels" in done.out
    n_better = round(summary["share_beating_baseline"] * summary["n_compared"])
    assert f"Better than their look-up baseline: {n_better} of {summary['n_compared']}" in done.out
    lines = done.out.splitlines()
    best, worst = ([float(line.split()[2]) for line in lines if line.startswith(end)] for end in ("best ", "worst "))
    assert (len(best), len(worst)) == (3, 3)
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert best[0] >= worst[-1]
    assert "error: 1 feature failed: " in done.err
    [again] = [line.partition("again: ")[2] for line in done.err.splitlines() if "again: " in line]
    stub_server.behave = lambda number, body: stub.GOOD
    second = run(*shlex.split(again)[1:])
    assert second.code == 0, second.err
    assert json.loads(run("sets", "--json").out)[0]["summary"]["counts"]["failed"] == 0


def test_failures_of_one_kind_are_told_together(run: Any, stub_server: StubServer, planted_evidence: Path) -> None:
    stub_server.behave = lambda number, body: stub.MALFORMED
    done = run(*words(planted_evidence, stub_server, "--features", "0-3"))
    # Nobody is sent to buy what would be read from the ledger.
    assert "4 failures came from replies that were paid for and are kept" in done.err
    assert "again: labeler label" not in done.err
    assert [line for line in done.err.splitlines() if "failed: " in line] == [
        line for line in done.err.splitlines() if line.startswith("error: 4 features failed: malformed")
    ]


def test_a_failing_endpoint_is_spoken_of_at_once_and_not_for_every_request(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter((0.0, 1.0, 9.0, 10.0, 11.0))
    tell = RetryTeller(every=10.0, clock=lambda: next(times))
    for _ in range(5):
        tell(Retry("it answered 500: \x1b[2J", 2.0, 40.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["it answered 500: ␛[2J; trying again in 2 s, and giving up after 40 s of waiting at most"] * 2
