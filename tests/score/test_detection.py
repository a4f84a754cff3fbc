"""Detection by LLMs that know the answer, its prompt, and its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from labeler.errors import EndpointError, InputError, LLMError
from labeler.llm import Message
from labeler.recipe import Recipe, ScorerConfig, SimulatorConfig
from labeler.records import Context, Label, Score, Source, TokenTable, Usage
from labeler.score.detection import detection_items, detection_prompt, score_by_detection
from labeler.score.items import Measure
from labeler.score.lookups import Lookups
from tests.llm.metered import run_counted
from tests.score.knowing import COST, MatchingLLM, context, held_out

CONFIG = ScorerConfig("detection", "m")
LABEL = Label("the token `Q`", "openai:m")
Q = Label("the token `Q`", "lookup", TokenTable({ord("Q"): 5.0}))


def detect(
    llm: MatchingLLM,
    contexts: Sequence[Context] | None = None,
    config: ScorerConfig = CONFIG,
    lookups: Lookups | None = None,
) -> tuple[dict[str, Score], Usage]:
    given = held_out() if contexts is None else contexts
    scores, usage = run_counted(
        llm, lambda metered: score_by_detection(LABEL, given, config, metered, lookups or Lookups(), Measure())
    )
    return {s.name: s for s in scores}, usage


def knows(text: str) -> float:
    return float("Q" in text)


def guesses(text: str) -> float:
    return hashlib.sha256(text.encode()).digest()[0] / 255


def test_the_whole_prompt() -> None:
    prompt = detection_prompt(Label("the token `Q` 10", "openai:m"), ["a\tQ", "b¶"], CONFIG)
    assert CONFIG.prompt_version == "detection-1"
    assert prompt.messages == (
        Message(
            "user",
            "A feature of a language model fires on some tokens of a text and is silent on the others. Below are "
            "contexts, one a line, each behind its number. ¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a "
            "token of four. Last comes a description of what one feature detects. In which contexts does it fire on at "
            "least one token? It may be none of them.\n"
            "\n"
            "Reply with the numbers of these contexts in rising order, separated by commas and ended by 0, and nothing "
            "else. Two examples of the form:\n12,15,31,0\n0\n"
            "\n"
            "Contexts:\n11 a\tQ\n12 b¶\n"
            "\n"
            "The feature detects: the token `Q` 10",
        ),
    )
    assert (prompt.model, prompt.purpose, prompt.top_logprobs, prompt.json_schema) == ("m", "detection", 5, None)


def test_contexts_stand_on_one_line_and_a_random_one_may_be_of_either_kind() -> None:
    items = detection_items(
        [
            context("a\nQ", 0, Source.RANDOM),
            context("b\t", 1, Source.RANDOM),
            context("Q", 2, Source.SAMPLED),
            context("c", 3, Source.HARD),
        ]
    )
    assert [(i.shown, i.rival) for i in items] == [("a¶Q", None), ("b⇥", "random"), ("Q", None), ("c", "hard")]


def test_a_perfect_reader_gets_every_context_right_in_one_request() -> None:
    llm = MatchingLLM(knows)
    scores, usage = detect(llm)
    assert {n: s.value for n, s in scores.items()} == {
        "detection": 1.0,
        "detection_random": 1.0,
        "detection_hard": 1.0,
        "detection_recall_weak": 1.0,
        "detection_recall_strong": 1.0,
        "detection_auroc": 1.0,
    }
    assert {n: s.n for n, s in scores.items()} == {
        "detection": 40,
        "detection_random": 30,
        "detection_hard": 30,
        "detection_recall_weak": 5,
        "detection_recall_strong": 15,
        "detection_auroc": 40,
    }
    assert scores["detection"].null_mean == 0.5
    assert (len(llm.prompts), usage) == (1, COST)


def test_a_random_context_counts_as_neither_weak_nor_strong() -> None:
    scores, _ = detect(MatchingLLM(knows), [*held_out(), context("Q at random", 900, Source.RANDOM)])
    assert scores["detection"].n == 41
    assert [scores[f"detection_recall_{kind}"].n for kind in ("weak", "strong")] == [5, 15]


def test_a_reader_that_is_always_wrong_scores_zero() -> None:
    scores, _ = detect(MatchingLLM(lambda text: 1 - knows(text)))
    assert {s.value for s in scores.values()} == {0.0}


def test_a_guess_is_within_the_interval_of_chance() -> None:
    scores, _ = detect(MatchingLLM(guesses, with_logprobs=True), held_out(20), replace(CONFIG, contexts_per_request=80))
    for name in ("detection", "detection_auroc"):
        score = scores[name]
        assert score.low is not None
        assert score.high is not None
        assert score.low < 0.5 < score.high, name
        assert score.high - score.low < 0.35, name


def test_yes_to_everything_is_chance_and_not_half_right() -> None:
    scores, _ = detect(MatchingLLM(lambda text: 1.0))
    assert (scores["detection"].value, scores["detection_recall_weak"].value) == (0.5, 1.0)


def test_a_label_that_only_fails_on_look_alikes_shows_it() -> None:
    contexts = held_out()
    hard = {i.shown for i in detection_items(contexts) if i.rival == "hard"}
    scores, _ = detect(MatchingLLM(lambda text: float("Q" in text or text in hard)), contexts)
    assert [scores[f"detection{kind}"].value for kind in ("", "_random", "_hard")] == [0.75, 1.0, 0.5]


def test_a_label_that_is_too_narrow_misses_the_weak_half() -> None:
    contexts = held_out()
    weak = {i.shown for i in detection_items(contexts) if i.context.stratum in range(1, 6)}
    scores, _ = detect(MatchingLLM(lambda text: float("Q" in text and text not in weak)), contexts)
    assert (scores["detection_recall_weak"].value, scores["detection_recall_strong"].value) == (0.0, 1.0)


def test_auroc_uses_how_sure_the_model_was_where_the_endpoint_says() -> None:
    """A model that says no to everything, but less surely where it is wrong."""

    def timid(text: str) -> float:
        return 0.3 + 0.01 * guesses(text) if "Q" in text else 0.1 * guesses(text)

    sure, _ = detect(MatchingLLM(timid, with_logprobs=True))
    unsure, _ = detect(MatchingLLM(timid))
    assert (sure["detection"].value, sure["detection_auroc"].value) == (0.5, 1.0)
    assert (unsure["detection"].value, unsure["detection_auroc"].value) == (0.5, 0.5)


def test_contexts_of_a_failed_request_are_counted_and_never_a_no() -> None:
    def fails(number: int) -> LLMError | None:
        return EndpointError("down", usage=COST) if number == 3 else None

    scores, usage = detect(MatchingLLM(knows, fails=fails), config=replace(CONFIG, contexts_per_request=10))
    assert (scores["detection"].value, scores["detection"].n, scores["detection"].n_failed) == (1.0, 30, 10)
    assert usage.requests == 4


def test_a_reader_that_cannot_keep_the_form_has_no_score_and_the_reason() -> None:
    scores, usage = detect(MatchingLLM(knows, spell=lambda numbers: "all of them"))
    for score in scores.values():
        assert score.value is None
        assert score.reason is not None
        assert score.reason.startswith("every request failed: malformed: ")
    assert (scores["detection"].n, scores["detection"].n_failed, usage.requests) == (0, 40, 2)


def test_scores_that_need_contexts_that_are_not_there_say_so() -> None:
    scores, _ = detect(MatchingLLM(knows), [c for c in held_out() if c.source is not Source.HARD])
    assert scores["detection"].value == 1.0
    assert (scores["detection_hard"].value, scores["detection_hard"].reason) == (
        None,
        "no held-out contexts of this kind",
    )
    scores, _ = detect(MatchingLLM(knows), [c for c in held_out() if c.peak > 0])
    assert scores["detection"].reason == "no negative among the contexts that got an answer"


def test_the_document_is_the_unit_of_the_interval() -> None:
    """The same answers on contexts that are all of four documents are worth less."""

    def mostly(text: str) -> float:
        return knows(text) if guesses(text) < 0.8 else 1 - knows(text)

    apart, _ = detect(MatchingLLM(mostly), held_out(20), replace(CONFIG, contexts_per_request=80))
    together, _ = detect(
        MatchingLLM(mostly),
        [replace(c, document=0 if guesses(c.text) >= 0.8 else 1 + i % 3) for i, c in enumerate(held_out(20))],
        replace(CONFIG, contexts_per_request=80),
    )
    widths = [s["detection"].high - s["detection"].low for s in (apart, together)]  # type: ignore[operator]
    assert apart["detection"].value == together["detection"].value
    assert widths[1] > 1.5 * widths[0]


def test_auroc_is_compared_with_what_look_up_labels_predict() -> None:
    others = tuple(Label(c, "lookup", TokenTable({ord(c): 1.0})) for c in "abcdefghijklmnoprstuvwxyz")
    scores, _ = detect(MatchingLLM(knows), lookups=Lookups(Q, others))
    auroc = scores["detection_auroc"]
    assert auroc.baseline_token_lookup == 1.0
    assert auroc.null_n == 25
    assert auroc.null_p == pytest.approx(1 / 26)
    assert auroc.null_mean == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("name", "model"),
    [("detection", "gpt-x"), ("fuzzing:other", "other"), ("fuzzing:openai:o/p", "o/p"), ("embedding:e", "e")],
)
def test_scorers_by_name(name: str, model: str) -> None:
    config = ScorerConfig.from_name(name, SimulatorConfig.of("gpt-x"))
    assert (config.kind, config.model) == (name.partition(":")[0], model)
    assert config.prompt_version == f"{config.kind}-1"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vibes", "'vibes' is not known: choose detection"),
        ("embedding", "embedding:MODEL"),
        ("detection", "detection:MODEL"),
    ],
)
def test_scorers_that_cannot_be(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ScorerConfig.from_name(name, SimulatorConfig())


def test_recipes_with_scorers_are_stored_and_asked_for_hard_contexts() -> None:
    recipe = Recipe(scorers=(CONFIG, ScorerConfig("fuzzing", "m")))
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.contexts.held_out_hard == 10
    assert Recipe().hash != recipe.hash
    with pytest.raises(InputError, match="twice"):
        Recipe(scorers=(CONFIG, CONFIG))
    with pytest.raises(InputError, match="1 to 89"):
        ScorerConfig("detection", "m", contexts_per_request=90)
