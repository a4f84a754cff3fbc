"""The `labeler` command, run in this process as the console script runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from labeler import cli


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run `labeler WORDS...` in this process, as the console script does."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("LABELER_DB", str(tmp_path / "labeler.db"))

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["labeler", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
