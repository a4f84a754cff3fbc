"""The command line as a person meets it: what is printed, where, and the exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.planted import N_FEATURES, Planted


def gather_words(planted: Planted, out: Path, **changes: object) -> list[object]:
    options = {
        "subject": planted.subject,
        "sae": planted.sae,
        "corpus": planted.corpus,
        "out": out,
        "sequence-tokens": 96,
    }
    options |= changes
    return ["gather", *(w for name, value in options.items() for w in (f"--{name}", value))]


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['labeler', '--help']\n"
        "from labeler.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'openai', 'sqlmodel'} & set(sys.modules), 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "train", "gather", "merge", "label", "show", "export", "sets"):
        assert command in done.stdout


def test_several_saes_read_one_forward_pass(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = gather_words(planted, tmp_path / "both")
    done = run(*words, "--sae", "neurons", "--hookpoint", "gpt_neox.embed_in", "--memory", 1, "--no-neighbours")
    assert done.code == 0, done.err
    folders = sorted(p.name for p in (tmp_path / "both").iterdir())
    assert folders == ["gpt_neox.embed_in-neurons", "gpt_neox.embed_in-sae"]
    assert not (tmp_path / "both" / folders[1] / "neighbours.cosines.npy").exists()
    assert run("label", tmp_path / "both" / folders[1], "--features", "0").code == 0
    wrong = run(*words, *("--sae", "neurons") * 2, *("--hookpoint", "a") * 2)
    assert wrong.code == 2
    assert "--hookpoint is given 2 times for 3 SAEs" in wrong.err


def test_the_loss_is_measured_before_the_pass_or_after_it(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = run(*gather_words(planted, tmp_path / "before"), "--cross-entropy", 2000, "--json")
    quality = json.loads(before.out)["quality"]
    assert quality["n_tokens_cross_entropy"] >= 2000
    assert quality["cross_entropy_sae"] > 0
    # This untrained subject loses nothing by an ablation, and is not said to have recovered anything.
    assert quality["cross_entropy_recovered"] is not None or "loses nothing" in quality["cross_entropy_reason"]
    without = run(*gather_words(planted, tmp_path / "after"), "--json")
    assert "cross_entropy_sae" not in json.loads(without.out)["quality"]
    after = run(*gather_words(planted, tmp_path / "after"), "--cross-entropy", 2000, "--json")
    assert json.loads(after.out)["quality"] == quality


def test_the_whole_story(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    evidence = tmp_path / "evidence"
    gathered = run(*gather_words(planted, evidence))
    assert gathered.code == 0, gathered.err
    assert f"{N_FEATURES} features" in gathered.out
    labelled = run("label", evidence, "--json")
    assert labelled.code == 0, labelled.err
    assert json.loads(labelled.out)["now"] == {"labeled": N_FEATURES - 2, "silent": 1, "rare": 1}
    again = run("label", evidence, "--json")
    assert json.loads(again.out)["now"] == {}, "a rerun did what was done already"
    shown = run("show", evidence, 0)
    assert "`Q`" in shown.out
    assert "HELD_OUT" in shown.out
    described = json.loads(run("show", evidence, 0, "--json").out)
    assert described["scores"]["simulation"]["value"] > 0.95
    assert len(described["explain"]) == 40
    assert "silent" in run("show", evidence, 5).out
    listed = json.loads(run("sets", "--json").out)
    assert listed[0]["summary"]["counts"]["labeled"] == N_FEATURES - 2
    for kind, read in (
        ("jsonl", lambda p: pd.read_json(p, lines=True)),
        ("csv", pd.read_csv),
        ("parquet", pd.read_parquet),
    ):
        out = tmp_path / f"labels.{kind}"
        assert run("export", "--format", kind, "--out", out).code == 0
        frame = read(out)
        assert len(frame) == N_FEATURES
        assert frame.set_index("feature_index").loc[0, "score"] > 0.95
        assert pd.isna(frame.set_index("feature_index").loc[5, "score"])
    assert "Observational" in (tmp_path / "labels.jsonl.card.md").read_text()


def test_a_selection_labels_only_that(run, planted_evidence: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("label", planted_evidence, "--features", "0,3-4", "--json")
    assert sum(json.loads(done.out)["now"].values()) == 3
    rest = run("label", planted_evidence, "--features", "unlabeled", "--json")
    assert sum(json.loads(rest.out)["now"].values()) == N_FEATURES - 3


def test_shards_are_merged_by_a_command(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for i in (1, 2):
        assert run(*gather_words(planted, tmp_path / f"part{i}", shard=f"{i}/2")).code == 0
    missing = run("merge", tmp_path / "part1")
    assert missing.code == 2
    assert "2-of-2" in missing.err
    merged = run("merge", tmp_path / "part1", "--from", tmp_path / "part2")
    assert merged.code == 0, merged.err
    assert "labeler label" in merged.out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"subject": "no/such-model-anywhere"}, "subject 'no/such-model-anywhere'"),
        ({"subject": "/no/such/folder"}, "no config.json there"),
        ({"sae": "/no/such/sae"}, "no such file or folder"),
        ({"sae": "hf:owner/repo/path"}, "give that folder as --sae"),
        ({"corpus": "/no/such/corpus"}, "no such file or folder"),
        ({"hookpoint": "gpt_neox.layer.0"}, "the nearest are"),
        ({"shard": "3/2"}, "expected I/N"),
        ({"dtype": "int4"}, "choose float32 or bfloat16"),
        ({"tokens": 0}, "tokens"),
        ({"sequence-tokens": 4096}, "longer than the 128 positions"),
    ],
)
def test_bad_input_is_one_clear_message(run, planted: Planted, tmp_path: Path, changes: dict, says: str) -> None:  # type: ignore[no-untyped-def, type-arg]
    done = run(*gather_words(planted, tmp_path / "evidence", **changes))
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_an_sae_of_another_width_is_refused(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    other = Path(__file__).parent / "golden" / "sae" / "saelens_topk"
    done = run(*gather_words(planted, tmp_path / "evidence", sae=other, hookpoint="gpt_neox.embed_in"))
    assert done.code == 2
    assert "reads vectors of 16" in done.err
    assert "gives 80" in done.err


def test_a_corpus_too_small_is_refused(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "one.txt").write_text("a single document")
    done = run(*gather_words(planted, tmp_path / "evidence", corpus=tmp_path / "one.txt"))
    assert done.code == 2
    assert "cannot be split" in done.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["label", "/no/such/evidence"], 2, "no such folder"),
        (["label", "EVIDENCE", "--features", "0-999"], 2, "feature 999 is out of range"),
        (["label", "EVIDENCE", "--explainer", "gpt"], 2, "explainer 'gpt' is not known"),
        (["label", "EVIDENCE", "--explainer", "openai:m"], 4, "OPENAI_API_KEY"),
        (
            ["label", "EVIDENCE", "--features", "0", "--explainer", "openai:m", "--base-url", "http://127.0.0.1:9/v1"],
            4,
            "127.0.0.1:9",
        ),
        (["show", "EVIDENCE", "99"], 2, "features 0 to 31"),
        (["export", "--format", "xlsx", "--out", "x"], 2, ""),
        (["export", "--format", "csv", "--out", "x", "--label-set", "77"], 2, "77"),
        (["sets", "--db", "NOT_A_DATABASE"], 2, "database"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_bad_words_and_files(
    run, planted_evidence: Path, tmp_path: Path, words: list[str], code: int, says: str
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "not-a-database").write_text("plain text, long enough to be mistaken for a file header " * 20)
    run("migrate")
    stand_for = {"EVIDENCE": str(planted_evidence), "NOT_A_DATABASE": str(tmp_path / "not-a-database")}
    done = run(*(stand_for.get(w, w) for w in words))
    assert done.code == code, done.err
    assert says in done.err
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback(run) -> None:  # type: ignore[no-untyped-def]
    done = run("--debug", "label", "/no/such/evidence")
    assert "Traceback" in done.err
    run("--version")


def test_corrupt_evidence_is_named_and_kept(run, planted_evidence: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    broken = tmp_path / "broken"
    shutil.copytree(planted_evidence, broken)
    (broken / "statistics.n_firings.npy").write_bytes(b"\x93NUMPY")
    done = run("label", broken)
    assert done.code == 2
    assert "statistics.n_firings.npy" in done.err
    assert (broken / "manifest.json").exists()


# Imports once, and forks for each run, which has a limit of its own. Says how each ended.
_LIMITED = """
import os, resource, sys
import transformers.models.gpt_neox.modeling_gpt_neox
from labeler.cli import main
for line in sys.argv[1:]:
    limit, *words = line.split("\\n")
    if os.fork() == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        sys.argv = ["labeler", *words]
        try:
            main()
        except SystemExit as error:
            os._exit(error.code or 0)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    out = words[words.index("--out") + 1]
    there = "" if os.path.exists(f"{out}/manifest.json") else " without a manifest"
    print(f"ended {code}{there}", flush=True)
"""


def ended_as(runs: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^ended (\d+.*)$", runs.stdout, re.MULTILINE)


def test_a_full_disk_keeps_what_was_done(planted: Planted, tmp_path: Path) -> None:
    """Files may not grow beyond so many bytes, as on a full disk; without the limit the same command goes on."""
    folders = {limit: tmp_path / str(limit) for limit in (3_000, 40_000)}
    runs = {limit: [str(w) for w in gather_words(planted, folder)] for limit, folder in folders.items()}

    limited = ["\n".join([str(limit), *words]) for limit, words in runs.items()]
    free = ["\n".join([str(10**9), *words]) for words in runs.values()]
    # -B: Python itself would leave what it compiles cut short, and the next process would stumble over it.
    words = [sys.executable, "-B", "-c", _LIMITED, *limited, *free]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended_as(done) == ["3 without a manifest", "3 without a manifest", "0", "0"], done.stderr
    assert done.stderr.count("free some space") == 2
    assert "Traceback" not in done.stderr
    assert all((folder / "manifest.json").exists() for folder in folders.values())
