"""One label, tested with everything that a recipe names, in one pass."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from labeler.errors import ConfigurationError, EndpointError, InputError
from labeler.llm import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply
from labeler.llm.client import OpenAILLM
from labeler.recipe import Recipe, ScorerConfig, SimulatorConfig
from labeler.records import Context, Label, Source, TokenTable, Usage
from labeler.score.score_label import Tested as Outcome  # pytest takes a name with Test in front for a class of tests
from labeler.score.score_label import score_label
from tests.llm.metered import counted, run_counted
from tests.score.knowing import COST, MatchingLLM, held_out
from tests.stub_server import StubServer, letter_llm

RIGHT = Label("the token `Q` 10", "lookup", TokenTable({ord("Q"): 5.0}))
WRONG = Label("the token `a` 10", "lookup", TokenTable({ord("a"): 5.0}))
SCORERS = (ScorerConfig("detection", "m"), ScorerConfig("fuzzing", "m"), ScorerConfig("embedding", "e"))
ASKING = replace(Recipe.from_names("openai:m"), scorers=SCORERS)


@dataclass
class LetterLLM:
    """Simulates and matches from the label alone; `fails` says for which purposes it does not answer."""

    fails: tuple[str, ...] = ()
    error: type[EndpointError] | type[ConfigurationError] = EndpointError
    purposes: list[str] = field(default_factory=list)
    n_answered: int = 0

    async def complete(self, prompt: Prompt) -> Reply:
        self._arrived(prompt.purpose)
        await asyncio.sleep(0)
        self.n_answered += 1
        return Reply(letter_llm(prompt.messages[-1].content), "stop", COST, prompt.model)

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        self._arrived(prompt.purpose)
        return Embeddings(tuple((1.0, float("Q" in t)) for t in prompt.texts), COST, prompt.model)

    async def echo(self, prompt: EchoPrompt) -> Echo:
        raise NotImplementedError

    def _arrived(self, purpose: str) -> None:
        self.purposes.append(purpose)
        if purpose in self.fails:
            raise self.error(f"no {purpose}", usage=COST)


def score(label: Label, recipe: Recipe, llm: LetterLLM | MatchingLLM | None, contexts: Sequence[Context]) -> Outcome:
    return asyncio.run(score_label(label, contexts, recipe, llm, baseline=RIGHT))


def score_counted(recipe: Recipe, llm: LetterLLM) -> tuple[Outcome, Usage]:
    return run_counted(llm, lambda metered: score_label(RIGHT, held_out(), recipe, metered, baseline=RIGHT))


def values(tested: Outcome) -> dict[str, float | None]:
    return {s.name: s.value for s in tested.scores}


def test_a_look_up_label_is_tested_against_itself_and_the_labels_of_others() -> None:
    others = [Label("x", "lookup", TokenTable({ord("abcdefghij"[i % 10]): 1.0 + i})) for i in range(30)]
    tested = asyncio.run(score_label(RIGHT, held_out(), Recipe(), None, baseline=WRONG, null=others))
    main = next(s for s in tested.scores if s.name == "simulation")
    assert main.value == pytest.approx(1.0)
    assert main.baseline_token_lookup is not None
    assert main.baseline_token_lookup < 0.1
    assert main.null_n == 30
    assert main.null_p == pytest.approx(1 / 31)
    assert tested.failure is None


def test_everything_is_made_in_one_pass_and_what_it_cost_is_counted() -> None:
    llm = LetterLLM()
    tested, usage = score_counted(ASKING, llm)
    assert sorted(llm.purposes) == ["detection", "embed", "embed", "fuzzing", "simulate", "simulate", "simulate"]
    assert (usage.requests, usage.tokens_in) == (7, 700)
    found = values(tested)
    assert [found[n] for n in ("simulation", "detection", "detection_hard", "fuzzing", "embedding_auroc")] == [
        pytest.approx(1.0),
        1.0,
        1.0,
        1.0,
        1.0,
    ]
    assert len(found) == len(tested.scores)


def test_a_wrong_label_is_found_out_by_every_test() -> None:
    found = values(score(WRONG, ASKING, LetterLLM(), held_out()))
    for name in ("simulation", "detection", "detection_auroc", "fuzzing"):
        value = found[name]
        assert value is not None
        assert value < 0.6, name


def test_contexts_that_look_alike_are_never_simulated_and_a_window_drawn_twice_is_asked_about_once() -> None:
    contexts = held_out()
    twice = [*contexts, replace(contexts[0], source=Source.SAMPLED, weight=2.0, stratum=10)]
    llm = LetterLLM()
    tested = score(RIGHT, ASKING, llm, twice)
    assert llm.purposes.count("simulate") == 3
    assert tested.simulations[30].context == twice[40]
    assert tested.simulations[30].predicted == tested.simulations[0].predicted
    assert {s.context.source for s in tested.simulations} == {Source.TOP, Source.RANDOM, Source.SAMPLED}
    assert len(tested.simulations) == 31
    assert next(s for s in tested.scores if s.name == "detection").n == 40


def test_the_main_score_alone_can_be_paid_for() -> None:
    llm = LetterLLM()
    recipe = replace(Recipe.from_names("openai:m"), simulator=SimulatorConfig.of("m", simulate="top-and-random"))
    tested = score(RIGHT, recipe, llm, held_out())
    assert {s.context.source for s in tested.simulations} == {Source.TOP, Source.RANDOM}
    assert len(llm.purposes) == 2
    assert values(tested)["simulation"] == pytest.approx(1.0)
    weighted = next(s for s in tested.scores if s.name == "simulation_weighted")
    assert (weighted.value, weighted.reason) == (None, "the recipe simulates TOP and RANDOM contexts alone")


def test_a_scorer_that_fails_leaves_the_others_standing() -> None:
    tested, usage = score_counted(ASKING, LetterLLM(fails=("detection",)))
    assert tested.failure is None
    assert values(tested)["simulation"] == pytest.approx(1.0)
    failed = next(s for s in tested.scores if s.name == "detection")
    assert (failed.value, failed.reason) == (None, "every request failed: endpoint: no detection")
    assert (failed.n_failed, usage.requests) == (40, 7)


def test_a_label_whose_simulations_all_fail_is_untested() -> None:
    tested, usage = score_counted(ASKING, LetterLLM(fails=("simulate",)))
    assert tested.failure == "no simulation succeeded: endpoint: no simulate"
    assert usage.requests == 7


def test_an_endpoint_that_cannot_work_stops_everything_once_what_is_in_flight_has_arrived() -> None:
    llm = LetterLLM(fails=("embed",), error=ConfigurationError)
    with pytest.raises(ConfigurationError, match="no embed"):
        score(RIGHT, ASKING, llm, held_out())
    assert llm.n_answered == 5


def test_without_contexts_nothing_is_tested_and_the_reason_says_so() -> None:
    tested = score(RIGHT, ASKING, LetterLLM(), [])
    assert tested.failure == "no held-out contexts"
    assert all(s.value is None for s in tested.scores)


def test_a_model_that_answers_at_random_is_no_better_than_chance_at_anything() -> None:
    def random(text: str) -> float:
        return hashlib.sha256(text.encode()).digest()[0] / 255

    recipe = replace(Recipe(), scorers=SCORERS[:2])
    tested = score(RIGHT, recipe, MatchingLLM(random), held_out(20))
    for name in ("detection", "fuzzing"):
        found = next(s for s in tested.scores if s.name == name)
        assert found.value is not None
        assert abs(found.value - 0.5) < 0.25


def test_a_recipe_that_asks_an_llm_says_how_to_name_one() -> None:
    for recipe in (Recipe.from_names("openai:m"), Recipe(scorers=SCORERS[:1])):
        with pytest.raises(InputError, match="--base-url"):
            score(RIGHT, recipe, None, held_out())


def test_everything_over_http() -> None:
    async def run(server: StubServer) -> tuple[Outcome, Usage]:
        async with OpenAILLM(server.base_url) as llm:
            recipe = replace(ASKING, scorers=SCORERS[:2])
            return await counted(llm, lambda metered: score_label(RIGHT, held_out(), recipe, metered, baseline=RIGHT))

    with StubServer() as server:
        tested, usage = asyncio.run(run(server))
    found = values(tested)
    assert [found[n] for n in ("simulation", "detection", "fuzzing")] == [pytest.approx(1.0), 1.0, 1.0]
    assert usage.requests == server.n_paid == 5
