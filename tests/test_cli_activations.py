"""`labeler activations` as a person meets it, without a service."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from labeler.cli.activations import _in_characters
from labeler.store import open_store
from tests.results import labeled


def test_a_text_is_read_here(run, planted_evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    assert run("label", planted_evidence, "--features", "0-3").code == 0
    shown = run("activations", "Q7", "--sae", 1)
    assert shown.code == 0, shown.err
    assert [line.split()[:2] for line in shown.out.splitlines() if "1/" in line] == [["5.000", "1/0"], ["2.000", "1/1"]]
    monkeypatch.setattr("sys.stdin", io.StringIO("Q"))
    found = json.loads(run("activations", "-", "--sae", 1, "--json").out)
    assert found["tokens"][0]["top"][0] == {"feature_index": 0, "activation": 5.0}
    assert found["features"][0]["label"]["state"] == "labeled"


def test_labels_are_no_commands_for_the_terminal(run, planted_evidence: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("label", planted_evidence, "--features", "0-3").code == 0
    store = open_store(str(tmp_path / "labeler.db"))
    store.save(1, [labeled(0, text="\x1b[2Jletters")])
    store.close()
    assert "1/0  ␛[2Jletters" in run("activations", "Q", "--sae", 1).out


def test_mistakes_are_named(run, planted_evidence: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("label", planted_evidence, "--features", "0").code == 0
    for words, says in (
        (("a", "--sae", 9), "SAE 9"),
        (("", "--sae", 1), "holds no token"),
        (("a", "--sae", "x"), "expected its id"),
    ):
        done = run("activations", *words)
        assert done.code == 2
        assert says in done.err


def test_bytes_of_one_character_are_shown_as_one() -> None:
    def token(text: str, raw: str | None, *top: tuple[int, float]) -> dict[str, Any]:
        firing = [{"feature_index": f, "activation": a} for f, a in top]
        return {"token": text, "bytes": raw, "n_firing": len(top), "top": firing}

    tokens = [token("x", None), token("\ufffd", "d7", (0, 5.0)), token("\ufffd", "90", (3, 9.0), (0, 1.0))]
    shown = list(_in_characters([*tokens, token("\ufffd", "e3")]))
    assert [t["token"] for t in shown] == ["x", "א", r"\xe3"]
    assert [(f["feature_index"], f["activation"]) for f in shown[1]["top"]] == [(3, 9.0), (0, 5.0)]
    assert shown[1]["n_firing"] == 2
