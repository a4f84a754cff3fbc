"""Names and shapes in the head of a torch file, for files that torch wrote and for others."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from labeler.published.headers import HEAD, shapes_of_pt


@pytest.mark.parametrize(
    "state",
    [
        {"a": torch.zeros(3, 5), "b": torch.zeros(7), "k": torch.tensor(4)},
        OrderedDict({f"layer.{i}": torch.zeros(1, 2, 3, 4, i + 1) for i in range(300)}),
        {"_orig_mod.a": torch.nn.Parameter(torch.zeros(300, 70)[:2, :3].clone())},
        {"activation": "TopK", "state": {"k": 4}, "a": torch.zeros(2, 3).T, "b": torch.zeros(2, dtype=torch.bfloat16)},
    ],
    ids=["plain", "many", "parameter", "values"],
)
def test_shapes_are_those_of_the_state_dict(state: dict[str, object], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pt")
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    expected = {name.removeprefix("_orig_mod."): tuple(value.shape) for name, value in tensors.items()}
    assert shapes_of_pt((tmp_path / "a.pt").read_bytes()[:HEAD]) == expected


@pytest.mark.parametrize("head", [b"", b"PK\x03\x04", b"no archive" * 9, b"\x80\x02}q\x00."])
def test_another_file_shows_none(head: bytes) -> None:
    assert shapes_of_pt(head) == {}


def test_a_head_that_is_cut_short_shows_none(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3, 5)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    assert shapes_of_pt(whole) == {"a": (3, 5)}
    assert all(shapes_of_pt(whole[:n]) == {} for n in range(150))
