"""Steered texts that are damaged on disk: the feature is named, and nothing is judged that the subject did not write."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler.errors import DamagedError, DamagedFeatureError
from labeler.evidence.steered import SteerConfig, SteeredFolder, SteeredTexts


@pytest.fixture
def steered(tmp_path: Path) -> SteeredFolder:
    folder = SteeredFolder(tmp_path)
    folder.begin(SteerConfig(), {"controls": [1]})
    folder.write_clean(["one", "two"], ["a", "b"])
    for feature in (0, 1):
        folder.append(SteeredTexts(feature, (f"text of {feature}", "more"), 2.0, 0.5))
    return folder


def test_what_was_written_is_read_back(steered: SteeredFolder) -> None:
    again = SteeredFolder(steered.folder.parent)
    assert again.read(0) == SteeredTexts(0, ("text of 0", "more"), 2.0, 0.5)
    assert [t.control for t in again.steered(0).trials] == ["text of 1", "more"]


@pytest.mark.parametrize(("before", "after"), [(b"text of 0", b"tact of 0"), (b'"strength": 2.0', b'"strength": 3.0')])
def test_a_changed_line_fails_its_feature_alone(steered: SteeredFolder, before: bytes, after: bytes) -> None:
    lines = steered.folder / "texts.jsonl"
    lines.write_bytes(lines.read_bytes().replace(before, after, 1))
    again = SteeredFolder(steered.folder.parent)
    with pytest.raises(DamagedFeatureError, match=r"steered/texts\.jsonl: feature 0"):
        again.read(0)
    assert again.read(1) == SteeredTexts(1, ("text of 1", "more"), 2.0, 0.5)


def test_a_line_that_does_not_say_of_which_feature_it_is_is_not_forgotten(steered: SteeredFolder) -> None:
    lines = steered.folder / "texts.jsonl"
    lines.write_bytes(b"\xff" * 20 + lines.read_bytes()[20:])
    again = SteeredFolder(steered.folder.parent)
    with pytest.raises(DamagedFeatureError, match="do not say of which feature"):
        again.read(0)
    assert again.read(1) is not None


@pytest.mark.parametrize("name", ["clean.json", "config.json"])
def test_damage_to_what_all_share_names_the_file(steered: SteeredFolder, name: str) -> None:
    path = steered.folder / name
    path.write_bytes(path.read_bytes().replace(b"1", b"7").replace(b'"a"', b'"c"'))
    with pytest.raises(DamagedError, match=f"steered/{name}: it does not fit its own digest"):
        SteeredFolder(steered.folder.parent).steered(0)


def test_texts_of_earlier_versions_are_read(steered: SteeredFolder) -> None:
    lines = steered.folder / "texts.jsonl"
    lines.write_text('{"feature_index": 3, "texts": ["x"], "strength": 1.0, "kl": 0.5, "reason": null}\n')
    assert SteeredFolder(steered.folder.parent).read(3) == SteeredTexts(3, ("x",), 1.0, 0.5)
