from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from labeler.errors import ConfigurationError
from labeler.explain.llm import explain_with_llm
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import Ledger, MemoryLedger
from labeler.llm.patience import Patience
from labeler.recipe import ExplainerConfig, SimulatorConfig
from labeler.records import Context, Label, Simulation, Source, Split, Usage
from labeler.score.simulate import simulate_with_llm
from tests import stub_server as stub
from tests.llm.metered import counted
from tests.stub_server import GOOD, Behaviour, Json, StubServer
from tests.waiting import HANGS

CONFIG = replace(SimulatorConfig.of("gpt-x"), contexts_per_request=3)
LABEL = Label("`Q` 10, `a` 4", "openai:gpt-x")
QUICK = Patience(timeout=HANGS, n_retries=1, first_wait=0.001)


def context(text: str, source: Source = Source.TOP) -> Context:
    ids = tuple(ord(c) for c in text)
    activations = tuple(5.0 if c == "Q" else 0.0 for c in text)
    return Context(0, 0, Split.HELD_OUT, source, ids, tuple(text), activations, weight=2.0, stratum=1)


# Seven contexts in requests of three: the last request holds one.
CONTEXTS = [context(text) for text in ("Qua", "bcd", "aQQ x", "z\n7", "  a", "vwQ", "no")]
PREDICTED = [tuple({"Q": 10.0, "a": 4.0}.get(token, 0.0) for token in c.tokens) for c in CONTEXTS]


def simulate(
    behave: Callable[[int, Json], Behaviour],
    contexts: Sequence[Context] = CONTEXTS,
    ledger: Ledger | None = None,
) -> tuple[tuple[Simulation, ...], Usage, StubServer]:
    async def run(server: StubServer) -> tuple[tuple[Simulation, ...], Usage]:
        async with OpenAILLM(server.base_url, patience=QUICK, ledger=ledger) as llm:
            return await counted(llm, lambda metered: simulate_with_llm(LABEL, contexts, CONFIG, metered))

    with StubServer(behave) as server:
        return *asyncio.run(run(server)), server


def good(number: int, body: Json) -> Behaviour:
    return GOOD


def first_time(behaviour: Behaviour, token: str) -> Callable[[int, Json], Behaviour]:
    """Bad for the request that shows `token`, until it is asked again."""
    return lambda number, body: (
        behaviour if token in str(body) and "A first reply to this could not be read" not in str(body) else GOOD
    )


def always_for(behaviour: Behaviour, token: str) -> Callable[[int, Json], Behaviour]:
    return lambda number, body: behaviour if token in str(body) else GOOD


def shown_with(server: StubServer, token: str) -> set[str]:
    """The texts that stood in one request with `token`."""
    body = next(str(b) for b in server.bodies if token in str(b))
    return {c.text for c in CONTEXTS if lines(c) in body}


def lines(context: Context) -> str:
    """The context as it stands in a printed request."""
    shown = {" ": "·", "\n": "¶"}
    return "".join(f"\\n{shown.get(t, t)}" for t in context.tokens) + "\\n"


WITH_A_LINE_BREAK = lines(CONTEXTS[3])


def test_predictions_come_in_the_order_of_the_contexts_in_few_requests() -> None:
    all_arrived = threading.Barrier(3, timeout=HANGS)
    simulations, usage, server = simulate(lambda number, body: Behaviour(meeting=all_arrived))
    assert [s.context for s in simulations] == CONTEXTS
    assert [s.predicted for s in simulations] == PREDICTED
    assert usage.requests == server.n_paid == 3
    assert server.most_at_once == 3


def test_the_simulator_never_sees_activations_or_how_a_context_was_chosen() -> None:
    loud = [replace(c, activations=tuple(100.0 + i for i in range(len(c.tokens)))) for c in CONTEXTS]
    elsewhere = [replace(c, source=Source.RANDOM, weight=None, stratum=None, document=7, token_start=99) for c in loud]
    prompts = [
        sorted(str(b) for b in simulate(good, contexts)[2].bodies) for contexts in (CONTEXTS, loud, elsewhere[::-1])
    ]
    assert prompts[0] == prompts[1] == prompts[2]


@pytest.mark.parametrize(
    "behaviour",
    [stub.MALFORMED, stub.OUT_OF_RANGE, stub.WRONG_LENGTH, stub.TRUNCATED, stub.EMPTY, stub.NO_CHOICES],
)
def test_an_unreadable_reply_is_asked_for_once_more_for_that_request_alone(behaviour: Behaviour) -> None:
    simulations, usage, server = simulate(first_time(behaviour, WITH_A_LINE_BREAK))
    assert [s.predicted for s in simulations] == PREDICTED
    assert usage.requests == server.n_paid == 4


@pytest.mark.parametrize(
    ("behaviour", "kind", "n_paid"),
    [
        (stub.MALFORMED, "malformed", 4),
        (stub.OUT_OF_RANGE, "malformed", 4),
        (stub.WRONG_LENGTH, "malformed", 4),
        (stub.TRUNCATED, "malformed", 4),
        (stub.REFUSAL, "refused", 3),
        (stub.CONTENT_FILTER, "refused", 3),
        (stub.SERVER_ERROR, "endpoint", 2),
        (stub.CUT, "endpoint", 2),
    ],
)
def test_a_request_without_a_usable_reply_gives_reasons_and_never_zeros(
    behaviour: Behaviour, kind: str, n_paid: int
) -> None:
    simulations, usage, server = simulate(always_for(behaviour, WITH_A_LINE_BREAK))
    failed = {s.context.text for s in simulations if s.predicted is None}
    assert failed == shown_with(server, WITH_A_LINE_BREAK)
    assert "z\n7" in failed
    assert 0 < len(failed) <= 3
    for simulation, predicted in zip(simulations, PREDICTED, strict=True):
        if simulation.predicted is None:
            assert simulation.reason is not None
            assert simulation.reason.startswith(f"{kind}: ")
        else:
            assert simulation.predicted == predicted
    assert usage.requests == server.n_paid == n_paid


def test_a_wrong_key_stops_everything() -> None:
    with pytest.raises(ConfigurationError):
        simulate(always_for(stub.fails(401, "bad key"), WITH_A_LINE_BREAK))


def test_what_was_paid_for_before_the_stop_is_in_the_ledger() -> None:
    ledger, all_arrived = MemoryLedger(), threading.Barrier(3, timeout=HANGS)

    def behave(number: int, body: Json) -> Behaviour:
        answer = stub.fails(401, "bad key") if WITH_A_LINE_BREAK in str(body) else stub.slow(0.05)
        return replace(answer, meeting=all_arrived)

    with pytest.raises(ConfigurationError):
        simulate(behave, ledger=ledger)
    assert len(ledger) == 2
    simulations, usage, server = simulate(good, ledger=ledger)
    assert server.n_paid == 1
    undisturbed = simulate(good)
    assert (simulations, usage) == undisturbed[:2]


def test_no_contexts_need_no_request() -> None:
    simulations, usage, server = simulate(good, [])
    assert (simulations, usage, server.n_paid) == ((), Usage(), 0)


def test_a_planted_letter_is_explained_simulated_and_found_again() -> None:
    async def run(server: StubServer) -> tuple[Label, tuple[Simulation, ...]]:
        seen = [replace(context(text), split=Split.EXPLAIN) for text in ("abQ", "Q1", "x Q")]
        async with OpenAILLM(server.base_url) as llm:
            label = await explain_with_llm(seen, ExplainerConfig("openai", "gpt-x", "max-activation-2"), llm)
            simulations = await simulate_with_llm(label, CONTEXTS, CONFIG, llm)
        return label, simulations

    with StubServer() as server:
        label, simulations = asyncio.run(run(server))
    assert label.text == "`Q` 10"
    truth = [a for c in CONTEXTS for a in c.activations]
    assert [s for simulation in simulations for s in simulation.predicted or ()] == [2 * a for a in truth]


def test_a_wrong_label_predicts_the_wrong_tokens() -> None:
    async def run(server: StubServer) -> tuple[Simulation, ...]:
        async with OpenAILLM(server.base_url) as llm:
            return await simulate_with_llm(Label("`7` 10", "openai:gpt-x"), CONTEXTS, CONFIG, llm)

    with StubServer() as server:
        simulations = asyncio.run(run(server))
    fires = {(s.context.text, i) for s in simulations for i, r in enumerate(s.predicted or ()) if r}
    assert fires == {("z\n7", 2)}
