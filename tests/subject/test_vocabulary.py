"""The bytes of tokens, and the characters that they are together."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler.records import Context, Simulation, Source, Split
from labeler.subject.vocabulary import Vocabulary, character_spans, save_vocabulary
from labeler.views import in_characters, simulated_in_characters

ALEF, SMILE = "א".encode(), "🙂".encode()


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ([b"a", b" b"], ["a", " b"]),
        ([ALEF[:1], ALEF[1:], b"x"], ["א", "x"]),
        ([b"x" + ALEF[:1], ALEF[1:] + b"y"], ["xאy"]),
        ([SMILE[:1], SMILE[1:2], SMILE[2:3], SMILE[3:]], ["🙂"]),
        ([ALEF[:1], ALEF[1:] + ALEF[:1], ALEF[1:]], ["אא"]),
        ([ALEF[1:], b"x"], ["\ufffd", "x"]),  # a window begins in the middle
        ([b"x", ALEF[:1]], ["x", "\ufffd"]),  # or ends there
        ([ALEF[:1], b"x"], ["\ufffd", "x"]),
        ([ALEF[:1], b"", ALEF[1:]], ["א"]),
        ([b"", b"a"], ["", "a"]),
        ([ALEF[:1], *[ALEF[1:] + ALEF[:1]] * 20, ALEF[1:]], None),  # no end in sight: token by token
    ],
)
def test_tokens_are_joined_to_whole_characters(pieces: list[bytes], shown: list[str] | None) -> None:
    spans = character_spans(pieces)
    assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])]
    assert spans[-1].end == len(pieces)
    if shown is not None:
        assert [s.text for s in spans] == shown
    assert max(s.end - s.start for s in spans) <= 8


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    save_vocabulary(tmp_path, [b"x", ALEF[:1], ALEF[1:], "text"])
    return Vocabulary(tmp_path)


def test_each_token_by_itself_is_the_text_it_always_was(vocabulary: Vocabulary) -> None:
    """Prompts are made of these, and are hashed."""
    assert [vocabulary.text(i) for i in range(4)] == ["x", "\ufffd", "\ufffd", "text"]
    assert vocabulary.joined([3, 1, 2]) == "textא"
    # Alone, as among promoted tokens, the bytes say more than a sign for each of them.
    assert [vocabulary.shown(i) for i in range(4)] == ["x", r"\xd7", r"\x90", "text"]


def test_a_context_is_shown_in_characters_with_the_highest_of_their_activations(vocabulary: Vocabulary) -> None:
    ids = (0, 1, 2, 0)
    tokens = tuple(vocabulary.text(i) for i in ids)
    context = Context(7, 0, Split.HELD_OUT, Source.TOP, ids, tokens, (0.0, 1.0, 3.0, 2.0))
    shown = in_characters(context, vocabulary)
    assert (shown.tokens, shown.activations) == (("x", "א", "x"), (0.0, 3.0, 2.0))
    simulated = simulated_in_characters(Simulation(context, (0.0, 4.0, 1.0, 0.0)), vocabulary)
    assert (simulated.context, simulated.predicted) == (shown, (0.0, 4.0, 0.0))
    whole = in_characters(shown, vocabulary)
    assert whole is shown
