"""A word of a text found among the tokens of a model, however it cuts texts."""

from __future__ import annotations

import pytest

from labeler.llm import TokenChoice
from labeler.score.logprobs import Choices, words_of


def tokens(*texts: str) -> list[TokenChoice]:
    return [TokenChoice(text, -0.1, ()) for text in texts]


def test_each_token_is_found_where_it_stands() -> None:
    choices = Choices(tokens("ab", " c", "1", "2", "\n"), "ab c12\n")
    found = [choices.starting_at(i) for i in range(7)]
    assert [c.token if c else None for c in found] == ["ab", None, " c", None, "1", "2", "\n"]


def test_a_word_is_found_with_the_blank_or_the_line_break_that_joined_it() -> None:
    choices = Choices(tokens("a:", " 5", ",", "7\n"), "a: 5,7\n")
    assert choices.at(3, "5") == TokenChoice(" 5", -0.1, ())
    assert choices.at(5, "7") == TokenChoice("7\n", -0.1, ())


def test_a_word_in_two_tokens_is_not_found() -> None:
    choices = Choices(tokens("a", "1", "0", "b"), "a10b")
    assert choices.at(1, "10") is None


@pytest.mark.parametrize(
    "around",
    [
        tokens("<s>", "a", "5"),
        tokens("a", "5", "</s>"),
        tokens("<think>", "5", "?", "</think>", "a", "5"),
        tokens("", "a", "5"),
    ],
)
def test_what_a_model_says_around_the_text_is_passed_over(around: list[TokenChoice]) -> None:
    assert Choices(around, "a5").at(1, "5") is around[[c.token for c in around].index("a") + 1]


@pytest.mark.parametrize(
    "cut",
    [
        tokens("a", "\ufffd", "\ufffd", "\ufffd", "5"),
        tokens("a\ufffd", "\ufffd\ufffd", "5"),
        tokens("a", "\ufffd\ufffd", "\ufffd", "5"),
        tokens("a", "¶", "5"),
    ],
)
def test_characters_that_are_cut_into_bytes_are_passed_over(cut: list[TokenChoice]) -> None:
    assert Choices(cut, "a¶5").at(2, "5") is cut[-1]


def test_cut_characters_before_whole_ones_that_are_not_ascii() -> None:
    found = Choices(tokens("\ufffd", "\ufffd", "×", "4", " \ufffd", "\ufffd", "7"), "·×4 ·7")
    assert found.starting_at(1) == TokenChoice("×", -0.1, ())
    assert found.at(5, "7") is not None


@pytest.mark.parametrize("other", [tokens("a", "6"), tokens("a"), tokens(), tokens("\ufffd", "5")])
def test_tokens_of_another_text_are_refused(other: list[TokenChoice]) -> None:
    with pytest.raises(ValueError, match="its tokens say"):
        Choices(other, "a5")


def test_alternatives_are_words_without_blanks_and_the_likeliest_spelling_counts() -> None:
    choice = TokenChoice("5", -0.2, (("5", -0.2), (" 5", -3.0), ("7 ", -2.0)))
    assert words_of(choice) == {"5": -0.2, "7": -2.0}
    assert words_of(TokenChoice(" 5", -0.2, ())) == {"5": -0.2}
