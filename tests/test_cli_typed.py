"""What people type: counts, paths, devices, help, and words that are nearly right."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labeler.cli.app import Words
from labeler.cli.typed import parse_count, with_home, with_plain_counts
from labeler.errors import InputError
from tests.planted import Planted
from tests.test_cli import gather_words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("20000", 20_000),
        ("20,000", 20_000),
        ("1_000_000", 1_000_000),
        ("20k", 20_000),
        ("5M", 5_000_000),
        ("5m", 5_000_000),
        ("2.5M", 2_500_000),
        ("1e6", 1_000_000),
        ("1.5e3", 1_500),
        ("1E+6", 1_000_000),
        ("2B", 2 * 10**9),
        ("0.5k", 500),
        (" 7 ", 7),
        ("0", 0),
        ("12,345,678", 12_345_678),
    ],
)
def test_counts_as_people_write_them(text: str, count: int) -> None:
    assert parse_count("--tokens", text) == count


@pytest.mark.parametrize(
    "text", ["", "5X", "20.000", "1.5", "1e-3", "0.0001k", "2,5M", "20,00", "many", "5 000", "1e999", "٥"]
)
def test_what_is_no_count_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"--tokens .*expected a whole number, such as 20000, 20,000, 20k, 5M or 1e6"):
        parse_count("--tokens", text)


def test_only_the_values_of_counts_are_read_as_counts() -> None:
    words = ["--tokens", "5M", "--out", "20k", "--tokens=1e3", "20k", "--", "--tokens", "5M"]
    plain = ["--tokens", "5000000", "--out", "20k", "--tokens=1000", "20k", "--", "--tokens", "5M"]
    assert with_plain_counts(words, {"--tokens"}) == plain


def test_every_option_that_takes_a_count_takes_it_so(run: Any, planted_evidence: Path) -> None:
    for words in (
        ["gather", "--tokens"],
        ["gather", "--cross-entropy"],
        ["gather", "--sequence-tokens"],
        ["train", "--tokens"],
        ["train", "--features"],
        ["train", "--buffer-tokens"],
        ["demo", "--tokens"],
        ["label", "x", "--budget-tokens"],
        ["jobs", "gather", "--tokens"],
        ["jobs", "submit", "x", "--budget-tokens"],
        ["embed", "--budget-tokens"],
    ):
        refused = run(*words, "5X")
        assert (refused.code, "'5X': expected a whole number" in refused.err) == (2, True), refused.err
    assert "10000" in run("demo", "--tokens", "9.9k").err
    assert "valid integer" in run("gather", "--memory", "512M").err  # of megabytes


def test_a_pass_takes_them(run: Any, planted: Planted, tmp_path: Path) -> None:
    done = run(*gather_words(planted, tmp_path / "evidence", tokens="3k"), "--no-neighbours")
    assert done.code == 0, done.err
    assert "on 3,000 tokens" in done.out
    assert [line for line in done.err.splitlines() if line.startswith("load ")] == [
        f"load {planted.subject}",
        f"load {planted.subject}  done",
        "load the SAE",
        "load the SAE  done",
    ]
    for step in ("tokenize", "gather", "merge"):
        assert f"\n{step}" in done.err
    longer = run(*gather_words(planted, tmp_path / "evidence", tokens="4k", seed=3), "--no-neighbours")
    assert longer.code == 2
    assert "--tokens was 3,000 and is 4,000 now; --seed was 0 and is 3 now" in longer.err
    assert "hash" not in longer.err


def test_home_is_known_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert with_home("anything", Path("~/x")) == tmp_path / "x"
    assert with_home("sae", ["~/x", "hf:a/b"]) == [f"{tmp_path}/x", "hf:a/b"]
    assert with_home("features", "@~/list") == f"@{tmp_path}/list"
    assert with_home("text", "~/x") == "~/x"
    with pytest.raises(InputError, match="write the full path"):
        with_home("db", "~no-such-user-here/x")


def test_home_on_the_command_line(
    run: Any, planted_evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(planted_evidence.parent))
    assert run("label", f"~/{planted_evidence.name}", "--features", "0", "--db", tmp_path / "x.db").code == 0


def test_an_output_that_cannot_be_is_refused_before_anything_is_loaded(
    run: Any, planted: Planted, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("here")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        for words in (
            gather_words(planted, out),
            ["demo", "--out", out],
            ["up", "--data", out],
            ["train", "--subject", "s", "--hookpoint", "h", "--corpus", "c", "--features", 8, "--out", out],
        ):
            refused = run(*words)
            assert (refused.code, refused.out) == (2, "")
            assert f"{tmp_path / 'file'} is a file, but a folder is needed; name another --" in refused.err
            assert "load" not in refused.err
    run("migrate")
    below = run("export", "--format", "csv", "--out", tmp_path / "file" / "x.csv")
    assert (below.code, "is a file, but a folder is needed" in below.err) == (2, True)


def test_a_device_that_is_not_here_is_refused_with_what_is(run: Any, planted: Planted, tmp_path: Path) -> None:
    for device in ("cuda:99", "nonsense", "meta"):
        refused = run(*gather_words(planted, tmp_path / "evidence", device=device))
        assert refused.code == 2, refused.err
        assert f"--device {device}: torch cannot use it; it finds " in refused.err
        assert "Leave out --device" in refused.err


def test_help_in_every_form(run: Any) -> None:
    for words in (["-h"], ["--help"], ["help"], ["keys", "-h"], ["help", "keys", "create"], ["label", "-h"]):
        shown = run(*words)
        assert (shown.code, shown.err) == (0, ""), words
        assert "Usage: labeler" in shown.out
    assert run("help", "keys", "create").out == run("keys", "create", "--help").out
    for words in ([], ["keys"], ["jobs"]):
        bare = run(*words)
        assert (bare.code, bare.err) == (2, ""), words
        assert "Usage: labeler" in bare.out


def test_help_lists_the_commands_in_the_order_of_work_and_breaks_no_word(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.cli import app
    from labeler.cli.app import SECTIONS

    monkeypatch.setenv("COLUMNS", "80")
    shown = run("--help").out
    places = [shown.index(f"\n{heading}:\n") for heading in (*SECTIONS, "Help")]
    assert places == sorted(places)
    listed = re.findall(r"^  ([a-z]+)  ", shown[places[0] :], flags=re.MULTILINE)
    assert listed == [*(name for names in SECTIONS.values() for name in names), "help"]
    assert len(listed) == len(app.registered_commands) + len(app.registered_groups)
    for command in ("gather", "label", "train"):
        shown = run(command, "--help").out
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= 80
        assert "<int" not in shown


def test_the_version(run: Any) -> None:
    from labeler import __version__

    assert (run("--version").code, run("--version").out) == (0, f"{__version__}\n")


def test_words_that_are_nearly_right(run: Any) -> None:
    for words, meant in (
        (["expotr"], "export"),
        (["keys", "creat"], "create"),
        (["help", "gahter"], "gather"),
        (["label", "x", "--explaner", "y"], "--explainer"),
    ):
        wrong = run(*words)
        assert (wrong.code, f"{meant}" in wrong.err, "--help` lists what there is" in wrong.err) == (2, True, True), (
            wrong.err
        )


def test_completion_knows_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import os, sys; sys.argv = ['labeler']\n"
        "os.environ |= {'_LABELER_COMPLETE': 'complete_bash', 'COMP_WORDS': 'labeler ex', 'COMP_CWORD': '1'}\n"
        "from labeler.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'sqlmodel', 'sqlalchemy'} & set(sys.modules), 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "export"), done.stderr


def test_the_script_of_completion_is_printed(run: Any) -> None:
    shown = run("--show-completion", "bash")
    assert (shown.code, "_LABELER_COMPLETE=complete_bash" in shown.out) == (0, True)


def test_groups_take_what_people_type_too() -> None:
    from labeler.cli import app

    assert all(isinstance(group.typer_instance, Words) for group in app.registered_groups)
