"""The token look-up: what it learns, what it says, and what it refuses to believe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from labeler.evidence.store import Windows
from labeler.explain.lookup import explain_by_lookup, show_token
from labeler.records import Context, Label, Source, Split
from labeler.score.simulate_by_lookup import simulate_by_lookup

TEXTS = ["a", "b", "flags", "=", " flags", "(", "\n", "        ", "\n    "]


@dataclass
class Words:
    """As much of a vocabulary as the explainer asks for."""

    def text(self, token_id: int) -> str:
        return TEXTS[token_id]


def windows(*rows: tuple[list[int], list[float]]) -> Windows:
    width = max(len(ids) for ids, _ in rows)
    ids = np.array([row + [-1] * (width - len(row)) for row, _ in rows])
    activations = np.array([values + [0.0] * (width - len(values)) for _, values in rows], dtype=np.float32)
    return Windows(np.arange(len(rows)) * width, np.array([len(r) for r, _ in rows]), ids, activations)


def explain(*rows: tuple[list[int], list[float]]) -> Label:
    return explain_by_lookup({Source.TOP: windows(*rows)}, Words())  # type: ignore[arg-type]


def test_a_token_is_worth_its_mean_over_all_its_occurrences() -> None:
    label = explain(([2, 0, 2], [4.0, 0.0, 2.0]), ([2, 1, 1], [0.0, 0.0, 0.0]))
    assert label.table is not None
    assert label.table.by_token == {2: pytest.approx(2.0)}
    assert label.table.predict((0, 2, 1)) == (0.0, pytest.approx(2.0), 0.0)


def test_the_token_before_is_used_where_it_says_more() -> None:
    after_paren = [([5, 2, 3], [0.0, 6.0, 0.0])] * 8
    elsewhere = [([0, 2, 3], [0.0, 0.0, 0.0])] * 8
    label = explain(*after_paren, *elsewhere)
    assert label.table is not None
    assert label.table.by_pair[5, 2] > 5.0
    assert label.table.by_pair[0, 2] < 1.0
    assert label.table.predict((5, 2)) == (0.0, pytest.approx(5.4))


def test_a_pair_seen_twice_is_not_believed() -> None:
    rows = [([5, 2], [0.0, 6.0])] * 2 + [([0, 2], [0.0, 0.0])] * 20
    label = explain(*rows)
    assert label.table is not None
    assert (5, 2) not in label.table.by_pair


def test_a_constant_token_needs_no_pairs() -> None:
    label = explain(*[([i % 2, 2], [0.0, 3.0]) for i in range(20)])
    assert label.table is not None
    assert label.table.by_pair == {}


def test_the_label_names_token_strength_and_neighbour() -> None:
    rows = [([4, 3], [5.0, 0.0])] * 6 + [([0, 1], [0.0, 1.5])] * 6
    label = explain(*rows)
    assert label.text == "the tokens ` flags`, mostly before `=`, `b` (3/10), mostly after `a`"
    assert label.explainer == "lookup"


def test_spellings_of_one_token_are_named_once() -> None:
    label = explain(*[([0, 2, 0, 4], [0.0, 5.0, 0.0, 5.0])] * 5)
    assert label.text.count("flags") == 1


def test_one_token_is_said_to_be_the_one() -> None:
    assert explain(*[([i % 2, 2, 3], [0.0, 3.0, 0.0]) for i in range(2)]).text == "the token `flags`"


def test_labels_fit_on_a_line() -> None:
    label = explain(([6, 7, 8], [1.0, 1.0, 1.0]))
    assert "\n" not in label.text
    assert 1 <= len(label.text) <= 200


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" flags", "` flags`"), ("\n        ", "`¶·×8`"), ("    ", "`·×4`"), ("\t", "`⇥`"), (" ", "`·`")],
)
def test_blanks_are_shown_as_signs(token: str, shown: str) -> None:
    assert show_token(token) == shown


def test_simulations_see_token_ids_and_nothing_else() -> None:
    label = explain(([2, 0], [4.0, 0.0]))

    def context(activations: tuple[float, ...]) -> Context:
        return Context(0, 0, Split.HELD_OUT, Source.TOP, (0, 2), ("a", "flags"), activations)

    one, other = simulate_by_lookup(label, [context((0.0, 4.0)), context((9.0, 0.0))])
    assert one.predicted == other.predicted == (0.0, 4.0)


def test_a_label_in_words_has_no_table() -> None:
    with pytest.raises(ValueError, match="no table"):
        simulate_by_lookup(Label("something", "openai:m"), [])
