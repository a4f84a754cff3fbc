from __future__ import annotations

from pathlib import Path

import pytest

from labeler.errors import FormatError, NotFoundError
from labeler.llm.prices import Prices


def test_cost_is_in_dollars() -> None:
    prices = Prices.parse('[models."m"]\ninput = 0.25\noutput = 2\n', "t")
    assert prices.cost("m", 2_000_000, 500_000) == pytest.approx(1.5)


def test_an_unknown_model_has_no_cost_and_a_listed_free_one_costs_nothing() -> None:
    prices = Prices.parse("[models.local]\ninput = 0\noutput = 0\n", "t")
    assert prices.cost("local", 10, 10) == 0.0
    assert prices.cost("local-2", 10, 10) is None
    assert prices.cost("lookup", 0, 0) is None


def test_the_table_of_the_package_loads() -> None:
    prices = Prices.load()
    assert len(prices.by_model) >= 5
    for model, price in prices.by_model.items():
        writes = "embedding" not in model
        assert 0 < price.input < price.output if writes else price.output == 0 < price.input, model


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model = 1", "model"),
        ("models = 1", "models"),
        ("models.m = 1", "models.'m'"),
        ("[models.m]\ninput = 1\noutptu = 2", "models.'m'.outptu"),
        ("[models.m]\ninput = 1", "models.'m'.output is missing"),
        ("[models.m]\ninput = -1\noutput = 1", "models.'m'.input is -1"),
        ("[models.m]\ninput = true\noutput = 1", "models.'m'.input is True"),
        ("[models.m]\ninput = '1'\noutput = 1", "models.'m'.input is '1'"),
        ("[models.m]\ninput = 1\noutput = nan", "models.'m'.output is nan"),
        ("[models.m", "is not TOML"),
    ],
)
def test_a_mistake_in_the_table_is_named(text: str, named: str, tmp_path: Path) -> None:
    table = tmp_path / "mine.toml"
    table.write_text(text)
    with pytest.raises(FormatError) as caught:
        Prices.load(table)
    assert named in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.toml.*LABELER_PRICES"):
        Prices.load(Path("nowhere.toml"))


def test_a_table_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        Prices.load(tmp_path / "t.toml")
