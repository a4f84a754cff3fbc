from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from labeler.errors import InputError, NotFoundError
from labeler.selection import parse_features


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", range(100)),
        ("unlabeled", range(100)),
        ("0-9", range(10)),
        ("7", range(7, 8)),
        ("9,1,5,1", [1, 5, 9]),
        ("1, 3-5", [1, 3, 4, 5]),
        ("4-6,1,2-8,3-4,99", [1, 2, 3, 4, 5, 6, 7, 8, 99]),
    ],
)
def test_specs(spec: str, expected: object) -> None:
    assert parse_features(spec, 100) == expected


def test_a_million_features_cost_nothing() -> None:
    assert isinstance(parse_features("0-999999", 10**6), range)


def test_ranges_that_are_repeated_take_no_more_memory() -> None:
    spec = ",".join(["0-16383"] * 1000)
    tracemalloc.start()
    try:
        assert parse_features(spec, 16384) == list(range(16384))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_a_file_of_indices(tmp_path: Path) -> None:
    (tmp_path / "some").write_text("5\n3, 3\n9\n")
    assert parse_features(f"@{tmp_path / 'some'}", 10) == [3, 5, 9]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("0-100", "feature 100 is out of range: this SAE has features 0 to 99"),
        ("1,200", "feature 200 is out of range"),
        ("9-3", "write 3-9"),
        ("-1", "'-1': expected `all`"),
        ("some", "expected `all`, `unlabeled`, a range"),
        ("1,,2", "expected `all`"),
        ("", "expected `all`"),
        ("9" * 5000, "'9{80}…': a feature index has at most 10 digits"),
        ("1,0-" + "9" * 5000, "at most 10 digits"),
    ],
)
def test_bad_specs_say_what_was_expected(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_features(spec, 100)


def test_a_missing_or_odd_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot read this file"):
        parse_features(f"@{tmp_path / 'none'}", 10)
    for odd, says in (("two", "'two' is not a feature index"), ("9" * 5000, "9…' is not a feature index")):
        (tmp_path / "odd").write_text(f"1\n{odd}\n")
        with pytest.raises(InputError, match=says):
            parse_features(f"@{tmp_path / 'odd'}", 10)
