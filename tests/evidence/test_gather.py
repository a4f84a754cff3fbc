"""The gathering pass against a world whose activations can be computed with a dictionary look-up."""

from __future__ import annotations

import filecmp
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labeler.evidence.gather_all as gathering
from labeler.errors import InputError, MismatchError, NotFoundError
from labeler.evidence.format import SPLITS
from labeler.evidence.gather_all import gather_for_all
from labeler.evidence.merge import add_up, adopt_shards, merge_shards
from labeler.evidence.shard import ShardFolder
from labeler.evidence.state import Quality, RandomWindows, Statistics, save_arrays
from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import choose_target, neurons
from labeler.pipeline import gather_evidence
from labeler.records import Source, Split
from labeler.sae import identity_sae, load_sae
from labeler.subject.corpus import open_corpus
from labeler.subject.model import Subject, load_subject
from tests.gathering import CONFIG, gather
from tests.planted import CHARACTERS, N_FEATURES, Planted, meaning

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def evidence(planted_evidence: Path) -> EvidenceFolder:
    return EvidenceFolder(planted_evidence)


def true_activations(evidence: EvidenceFolder, feature: int) -> np.ndarray:
    """The feature's activation at every token of the corpus, from its meaning alone."""
    by_id = np.zeros(len(CHARACTERS) + 1)
    for character, strength in meaning(feature).items():
        by_id[1 + CHARACTERS.index(character)] = strength
    return by_id[np.asarray(evidence.corpus.tokens)]


def windows_of(evidence: EvidenceFolder) -> list[tuple[int, int]]:
    bounds = np.asarray(evidence.corpus.sequence_starts)
    return [(p, min(p + 32, high)) for low, high in itertools.pairwise(bounds) for p in range(low, high, 32)]


@pytest.mark.parametrize("feature", [0, 2, 3, 4, 5])
def test_statistics_are_exact(evidence: EvidenceFolder, feature: int) -> None:
    truth, statistics = true_activations(evidence, feature), evidence.statistics(feature)
    firing = truth[truth > 0]
    assert statistics.n_tokens == len(truth)
    assert statistics.n_firings == len(firing)
    assert statistics.max == pytest.approx(firing.max(initial=0))
    assert statistics.mean == pytest.approx(firing.mean() if len(firing) else 0, abs=1e-5)
    assert sum(statistics.histogram) == len(firing)
    windows = windows_of(evidence)
    assert statistics.n_windows == len(windows)
    assert statistics.n_firing_windows == sum(truth[a:b].max() > 0 for a, b in windows)


def test_counts_by_split_add_up(evidence: EvidenceFolder) -> None:
    truth, statistics = true_activations(evidence, 0), evidence.statistics(0)
    held_out = np.asarray(evidence.corpus.held_out)[
        evidence.corpus.document_of(np.array([a for a, _ in windows_of(evidence)]))
    ]
    firing = np.array([truth[a:b].max() > 0 for a, b in windows_of(evidence)])
    assert statistics.n_firing_windows_by_split == {
        Split.EXPLAIN: int((firing & ~held_out).sum()),
        Split.HELD_OUT: int((firing & held_out).sum()),
    }
    assert statistics.n_windows_by_split == {Split.EXPLAIN: int((~held_out).sum()), Split.HELD_OUT: int(held_out.sum())}


@pytest.mark.parametrize("source", [Source.TOP, Source.SAMPLED, Source.RANDOM])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("feature", [0, 2, 6])
def test_contexts_hold_the_activations_of_their_tokens(
    evidence: EvidenceFolder, source: Source, split: Split, feature: int
) -> None:
    truth, windows = true_activations(evidence, feature), evidence.windows(feature, source, split)
    assert len(windows) > 10
    held_out = np.asarray(evidence.corpus.held_out)[evidence.corpus.document_of(windows.position)]
    assert set(held_out.tolist()) == {split is Split.HELD_OUT}
    for row, (position, length) in enumerate(zip(windows.position, windows.length, strict=True)):
        np.testing.assert_allclose(windows.activations[row, :length], truth[position : position + length], rtol=1e-6)
        assert windows.token_ids[row, :length].tolist() == evidence.corpus.tokens[position : position + length].tolist()


def test_top_contexts_are_the_strongest_sequences_one_each(evidence: EvidenceFolder) -> None:
    truth, windows = true_activations(evidence, 2), evidence.windows(2, Source.TOP, Split.EXPLAIN)
    bounds = np.asarray(evidence.corpus.sequence_starts)
    held_out = np.asarray(evidence.corpus.held_out)[evidence.corpus.document_of(bounds[:-1])]
    peaks = [truth[a:b].max() for a, b, h in zip(bounds[:-1], bounds[1:], held_out, strict=True) if not h]
    expected = sorted((p for p in peaks if p > 0), reverse=True)[: CONFIG.n_top[0]]
    assert windows.peak.tolist() == pytest.approx(expected)
    sequences = evidence.corpus.sequence_of(windows.position)
    assert len(set(sequences.tolist())) == len(sequences)


def test_the_peak_sits_at_three_quarters_where_the_sequence_allows(evidence: EvidenceFolder) -> None:
    windows = evidence.windows(0, Source.TOP, Split.EXPLAIN)
    begin = np.asarray(evidence.corpus.sequence_starts)[evidence.corpus.sequence_of(windows.position)]
    end = np.asarray(evidence.corpus.sequence_starts)[evidence.corpus.sequence_of(windows.position) + 1]
    free = (windows.position > begin) & (windows.position + 32 < end)
    assert free.sum() > 3
    assert set(windows.activations[free].argmax(axis=1).tolist()) == {23}


def test_samples_are_uniform_over_firing_windows(planted: Planted, tmp_path: Path) -> None:
    """Over many features of one meaning, each firing window is sampled about equally often."""
    counts: dict[int, int] = {}
    folder = EvidenceFolder(gather(planted, tmp_path / "few", replace(CONFIG, n_sampled=(20, 20))))
    letters = list(range(8, N_FEATURES))
    n_windows = {f: folder.statistics(f).n_firing_windows_by_split[Split.EXPLAIN] for f in letters}
    for feature in letters:
        windows = folder.windows(feature, Source.SAMPLED, Split.EXPLAIN)
        assert len(windows) == 20 < n_windows[feature]
        for position in windows.position.tolist():
            counts[position] = counts.get(position, 0) + 1
    corpus_windows = folder.n_windows[Split.EXPLAIN]
    halves = np.array([p for p in counts for _ in range(counts[p])]) < np.median(list(counts))
    assert abs(halves.mean() - 0.5) < 0.1
    assert len(counts) > corpus_windows * 0.3


def same_bytes(a: Path, b: Path) -> list[str]:
    """Files that differ, but for times."""
    names = sorted(p.relative_to(a).as_posix() for p in a.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert names == sorted(
        p.relative_to(b).as_posix() for p in b.rglob("*") if p.is_file() and p.name != "manifest.json"
    )
    different = [n for n in names if not filecmp.cmp(a / n, b / n, shallow=False)]
    manifests = [json.loads((f / "manifest.json").read_text()) for f in (a, b)]
    for manifest in manifests:
        del manifest["created_at"], manifest["seconds"], manifest["digest"]  # which covers the times, too
    return different + ([] if manifests[0] == manifests[1] else ["manifest.json"])


@pytest.mark.parametrize("n_shards", [2, 4])
def test_shards_in_any_order_give_the_same_bytes(
    planted: Planted, planted_evidence: Path, tmp_path: Path, n_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in reversed(range(1, n_shards + 1)):
        gather(planted, tmp_path / "sharded", shard=(index, n_shards))
    merge_shards(tmp_path / "sharded")
    assert same_bytes(planted_evidence, tmp_path / "sharded") == []


def test_the_sums_of_many_shards_take_the_memory_of_two(tmp_path: Path) -> None:
    n_features, paths = 20_000, [tmp_path / f"{i}.npz" for i in range(8)]
    for i, path in enumerate(paths):
        statistics = Statistics.empty(n_features)
        statistics.n_firings += i
        statistics.maximum += i
        quality = replace(Quality.empty(4), n_tokens=1, n_firings=i, hidden_sum=np.ones(4, np.int64))
        save_arrays(path, statistics, quality, RandomWindows(np.zeros(0)))
    one = paths[0].stat().st_size
    tracemalloc.start()
    try:
        statistics, quality = add_up(paths, RandomWindows(np.zeros(0)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (statistics.n_firings[0], statistics.maximum[0]) == (28, 7.0)
    assert (quality.n_tokens, quality.n_firings, quality.hidden_sum[0]) == (8, 28, 8)
    assert peak < 2.5 * one


def test_a_dtype_that_no_encoder_has_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InputError, match="dtype 'float16': choose float32 or bfloat16"):
        replace(CONFIG, dtype="float16")


def test_a_missing_shard_is_named_and_nothing_is_merged(planted: Planted, tmp_path: Path) -> None:
    gather(planted, tmp_path / "sharded", shard=(1, 3))
    gather(planted, tmp_path / "sharded", shard=(3, 3))
    with pytest.raises(NotFoundError, match="1 of 3 shards never came back: 2-of-3"):
        merge_shards(tmp_path / "sharded")
    assert not (tmp_path / "sharded" / "manifest.json").exists()


def test_shards_of_other_machines_are_adopted(planted: Planted, planted_evidence: Path, tmp_path: Path) -> None:
    for index in (1, 2, 3):
        gather(planted, tmp_path / f"machine-{index}", shard=(index, 3))
    adopt_shards(tmp_path / "together", [tmp_path / f"machine-{index}" for index in (2, 3, 1)])
    merge_shards(tmp_path / "together")
    assert same_bytes(planted_evidence, tmp_path / "together") == []


def test_a_shard_whose_copy_was_cut_off_is_copied_again(
    planted: Planted, planted_evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [tmp_path / f"machine-{index}" for index in (1, 2)]
    for index, machine in enumerate(machines, start=1):
        gather(planted, machine, shard=(index, 2))
    adopt_shards(tmp_path / "together", machines[:1])

    def killed(source: Path, to: Path, **_: Any) -> None:
        to.mkdir(exist_ok=True)
        shutil.copy(source / "checkpoint.json", to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", killed)
        with pytest.raises(KeyboardInterrupt):
            adopt_shards(tmp_path / "together", machines)
    with pytest.raises(NotFoundError, match="1 of 2 shards never came back: 2-of-2"):
        merge_shards(tmp_path / "together")
    adopt_shards(tmp_path / "together", machines)
    merge_shards(tmp_path / "together")
    assert same_bytes(planted_evidence, tmp_path / "together") == []


def test_an_sae_with_other_settings_is_another_pass(planted: Planted, planted_evidence: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    shutil.copytree(planted_evidence, out)
    changed = tmp_path / "sae"
    shutil.copytree(planted.sae, changed)
    cfg = json.loads((changed / "cfg.json").read_text())
    (changed / "cfg.json").write_text(json.dumps({**cfg, "normalize_activations": "layer_norm"}))
    with pytest.raises(MismatchError, match="holds another pass: --sae was"):
        gather(replace(planted, sae=changed), out)
    plan = json.loads((out / "plan.json").read_text())
    del plan["encoder"]  # as passes were begun before
    (out / "plan.json").write_text(json.dumps(plan))
    gather(planted, out)


def test_shards_of_another_pass_are_refused(planted: Planted, tmp_path: Path) -> None:
    gather(planted, tmp_path / "one", shard=(1, 2))
    gather(planted, tmp_path / "two", replace(CONFIG, seed=1), shard=(2, 2))
    with pytest.raises(MismatchError, match="another corpus, config"):
        adopt_shards(tmp_path / "one", [tmp_path / "two"])
    with pytest.raises(NotFoundError, match="2-of-2"):
        merge_shards(tmp_path / "one")


def test_a_small_memory_budget_spills_and_gives_the_same_bytes(
    planted: Planted, planted_evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spilled = []
    original = ShardFolder.spill

    def counted(self: ShardFolder) -> None:
        spilled.append(self.next_chunk)
        original(self)

    monkeypatch.setattr(ShardFolder, "spill", counted)
    reference = gather(planted, tmp_path / "at-once")
    assert spilled == []
    small = gather(planted, tmp_path / "spilled", memory_bytes=1)
    assert len(spilled) > 10, "more runs than are kept apart, so that they are merged on the way too"
    assert same_bytes(reference, small) == []


def test_two_saes_in_one_forward_pass_give_the_bytes_of_two_passes(
    planted: Planted, planted_evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, sae = load_subject(str(planted.subject)), load_sae(str(planted.sae))
    n_forward = []
    hidden = Subject.hidden

    def counted(self: Subject, *args: Any) -> Any:
        n_forward.append(1)
        return hidden(self, *args)

    monkeypatch.setattr(Subject, "hidden", counted)
    alone = gather(planted, tmp_path / "alone")
    n_alone = len(n_forward)
    deeper = subject.hookpoint("gpt_neox.layers.0")
    width = subject.model.config.hidden_size
    targets = {
        tmp_path / "both" / "sae": choose_target(subject, sae, None),
        tmp_path / "both" / "neurons": choose_target(subject, identity_sae(width, deeper.path), deeper.path),
    }
    n_forward.clear()
    gather_for_all(subject, targets, open_corpus(str(planted.corpus)), CONFIG)
    n_more_checks = 1  # of the neurons' own place, before the pass
    assert len(n_forward) == n_alone + n_more_checks, "the corpus went through the subject more than once"
    assert same_bytes(alone, tmp_path / "both" / "sae") == []
    assert EvidenceFolder(tmp_path / "both" / "neurons").n_features == width


_KILLED = """
import sys, time
from pathlib import Path
import labeler.evidence.gather_all as gathering
run = gathering.gather_shard
def slowly(what, done, total):
    print(what, done, flush=True)
    # Where the test kills it, it waits for that, however long the test takes to read of it.
    time.sleep(600 if what == "gather" and done > 12_000 else 0)
gathering.gather_shard = lambda *a, **k: run(*a, **{**k, "on_progress": slowly}, checkpoint_seconds=0.0)
from tests.gathering import gather
from tests.planted import Planted
root = Path(sys.argv[1])
gather(Planted(root / "subject", root / "sae", root / "corpus"), Path(sys.argv[2]))
"""


def start(planted: Planted, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(planted.subject.parent), str(out)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_a_pass_killed_in_the_middle_resumes_to_the_same_bytes(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather(planted, tmp_path / "undisturbed")
    killed = start(planted, tmp_path / "killed")
    assert killed.stdout is not None
    for line in killed.stdout:
        what, done = line.split()
        if what == "gather" and int(done) > 12_000:
            break
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    checkpoint = json.loads((tmp_path / "killed" / "shards" / "1-of-1" / "checkpoint.json").read_text())
    assert checkpoint["next_chunk"] > 0
    assert not checkpoint["complete"]
    progress: list[tuple[str, int]] = []
    run = gathering.gather_shard
    seen: dict[str, Any] = {"on_progress": lambda what, done, total: progress.append((what, done))}
    monkeypatch.setattr(gathering, "gather_shard", lambda *a, **k: run(*a, **{**k, **seen}))
    gather(planted, tmp_path / "killed")
    first = next(done for what, done in progress if what == "gather")
    assert first > 0, "the resumed pass began again from nothing"
    assert same_bytes(tmp_path / "undisturbed", tmp_path / "killed") == []


def test_a_folder_of_another_pass_is_refused_and_kept(planted: Planted, tmp_path: Path) -> None:
    gather(planted, tmp_path / "evidence")
    before = (tmp_path / "evidence" / "manifest.json").read_bytes()
    with pytest.raises(MismatchError, match="holds another pass: --seed was 0 and is 1 now"):
        gather(planted, tmp_path / "evidence", replace(CONFIG, seed=1))
    assert (tmp_path / "evidence" / "manifest.json").read_bytes() == before


def test_a_finished_pass_is_not_run_again(planted: Planted, tmp_path: Path) -> None:
    gather(planted, tmp_path / "evidence")
    before = (tmp_path / "evidence" / "manifest.json").stat().st_mtime_ns
    time.sleep(0.01)
    gather(planted, tmp_path / "evidence")
    assert (tmp_path / "evidence" / "manifest.json").stat().st_mtime_ns == before


def test_quality_of_an_exact_sae_is_measured(evidence: EvidenceFolder) -> None:
    truth = sum(float((true_activations(evidence, f) > 0).mean()) for f in range(N_FEATURES))
    assert evidence.manifest["quality"]["l0"] == pytest.approx(truth)
    assert evidence.manifest["quality"]["dead_share"] == pytest.approx(1 / N_FEATURES)
    assert 0 < evidence.manifest["quality"]["explained_variance"] < 1


def sae_in(folder: Path, planted: Planted, **cfg: object) -> Path:
    """The planted SAE with another configuration."""
    shutil.copytree(planted.sae, folder)
    values = json.loads((folder / "cfg.json").read_text())
    values |= {k: v for k, v in cfg.items() if k != "metadata"}
    values["metadata"] |= cfg.get("metadata", {})
    (folder / "cfg.json").write_text(json.dumps(values))
    return folder


def test_an_sae_on_a_modules_input_is_judged_on_that_input(
    planted: Planted, evidence: EvidenceFolder, tmp_path: Path
) -> None:
    """The first block's input is the embedding, so quality and statistics are those of the embedding itself."""
    sae = sae_in(tmp_path / "sae", planted, metadata={"hook_name": "blocks.0.hook_resid_pre"})
    folder = EvidenceFolder(gather(replace(planted, sae=sae), tmp_path / "evidence"))
    assert folder.manifest["reads"] == "input"
    mine, theirs = (e.manifest["quality"] for e in (folder, evidence))
    assert mine.keys() == theirs.keys()
    assert all(mine[k] == (pytest.approx(theirs[k]) if isinstance(theirs[k], float) else theirs[k]) for k in mine)
    assert folder.statistics(0) == evidence.statistics(0)


def test_a_transcoder_is_judged_on_what_it_should_give(
    planted: Planted, evidence: EvidenceFolder, tmp_path: Path
) -> None:
    named = sae_in(
        tmp_path / "named",
        planted,
        architecture="transcoder",
        apply_b_dec_to_input=False,
        metadata={"hook_name_out": "gpt_neox.layers.0.mlp"},
    )
    quality = EvidenceFolder(gather(replace(planted, sae=named), tmp_path / "one", force=True)).manifest["quality"]
    assert quality["explained_variance"] < evidence.manifest["quality"]["explained_variance"]
    unnamed = sae_in(tmp_path / "unnamed", planted, architecture="transcoder", apply_b_dec_to_input=False)
    quality = EvidenceFolder(gather(replace(planted, sae=unnamed), tmp_path / "two")).manifest["quality"]
    assert quality["explained_variance"] is None
    assert quality["l0"] == pytest.approx(evidence.manifest["quality"]["l0"])


def test_neurons_are_gathered_as_features(planted: Planted, tmp_path: Path) -> None:
    subject = load_subject(str(planted.subject))
    with pytest.raises(InputError, match="needs --hookpoint"):
        neurons(subject, None)
    sae = neurons(subject, "gpt_neox.embed_in")
    out = gather_evidence(subject, sae, open_corpus(str(planted.corpus)), CONFIG, tmp_path / "evidence")
    folder = EvidenceFolder(out)
    q = 1 + CHARACTERS.index("Q")
    assert folder.statistics(q).n_firings == int((np.asarray(folder.corpus.tokens) == q).sum())
    assert folder.manifest["quality"]["explained_variance"] == pytest.approx(1.0)
