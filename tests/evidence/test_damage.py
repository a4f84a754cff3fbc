"""Evidence that is damaged on disk: named by file, never a traceback, and never a changed result that nobody notices."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.errors import DamagedError, DamagedFeatureError, InputError
from labeler.evidence.check import check_evidence
from labeler.evidence.hashes import BLOCK_BYTES, covered_files
from labeler.evidence.manifest import read_manifest, rewrite_manifest, write_manifest
from labeler.evidence.store import EvidenceFolder
from labeler.pipeline import label_features
from labeler.recipe import Recipe
from labeler.records import LabeledFeature, Source, Split, State
from labeler.steps.null import NullLabels
from tests.gathering import without_hashes

RECIPE = replace(Recipe(), n_null=2)
FEATURES = (0, 2, 6, 20)
BAD = 2  # the feature that the damage to one feature is done to
Results = dict[int, LabeledFeature]
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def unhashed(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_hashes(planted_evidence, tmp_path_factory.mktemp("unhashed") / "evidence")


@pytest.fixture
def evidence(planted_evidence: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planted_evidence, tmp_path / "evidence"))


@pytest.fixture
def old(unhashed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unhashed, tmp_path / "old"))


@pytest.fixture(scope="module")
def whole(planted_evidence: Path) -> Results:
    return labeled(planted_evidence)


def labeled(folder: Path, features: tuple[int, ...] = FEATURES) -> Results:
    async def work() -> Results:
        found = label_features(EvidenceFolder(folder), features, RECIPE, None)
        return {result.feature_index: apart_from_null(result) async for result in found}

    return asyncio.run(work())


def apart_from_null(result: LabeledFeature) -> LabeledFeature:
    """Where a feature of the null is damaged, another one stands in for it."""
    scores = tuple(replace(s, null_z=None, null_p=None, null_n=0, null_mean=None) for s in result.scores)
    return replace(result, scores=scores)


# Damage


def to_array(name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Damage:
    """Change an array, in place or for another one."""

    def damage(folder: Path) -> None:
        array = np.load(folder / f"{name}.npy")
        changed = change(array)
        np.save(folder / f"{name}.npy", array if changed is None else changed)

    return damage


def put(name: str, at: Any, value: float) -> Damage:
    return to_array(name, lambda array: array.__setitem__(at, value))


def at_first_of(kind: str, starts: str, name: str, value: float) -> Damage:
    """Change the first element of feature BAD."""

    def damage(folder: Path) -> None:
        first = int(np.load(folder / f"{kind}.{starts}.npy")[BAD])
        put(f"{kind}.{name}", first, value)(folder)

    return damage


def to_manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Damage:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 40)


def instead(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def to_hashes(change: Callable[[Path], object]) -> Damage:
    return lambda folder: change(next(folder.glob("hashes-*.npy")))


VALUES, TOP_STARTS = "contexts/top_explain.value.npy", "contexts/top_explain.feature_starts"

# Seen with and without hashes: each ends the run, and names the file.
ENDS_THE_RUN: dict[str, tuple[Damage, str]] = {
    "another JSON type": (write("manifest.json", "[1, 2]"), "manifest.json"),
    "too deep": (write("manifest.json", "[" * 200_000), "manifest.json"),
    "not JSON": (write("manifest.json", "{"), "manifest.json"),
    "without sae": (to_manifest(lambda m: m.pop("sae")), "manifest.json"),
    "without its config": (to_manifest(lambda m: m["config"].pop("window_tokens")), "manifest.json"),
    "absurd sizes": (to_manifest(lambda m: m["sae"].update(n_features=10**18)), "manifest.json"),
    "sizes of 1e18": (to_manifest(lambda m: m["sae"].update(n_features=1e18)), "manifest.json"),
    "a size in words": (to_manifest(lambda m: m["sae"].update(n_features="32")), "manifest.json"),
    "fewer windows than none": (to_manifest(lambda m: m["splits"]["explain"].update(n_windows=-5)), "manifest.json"),
    "manifest is a folder": (instead("manifest.json", Path.mkdir), "manifest.json"),
    "manifest is a pipe": (instead("manifest.json", os.mkfifo), "manifest.json"),
    "falling feature_starts": (put(TOP_STARTS, 3, 0), f"{TOP_STARTS}.npy"),
    "feature_starts behind the end": (put(TOP_STARTS, -1, 10**6), f"{TOP_STARTS}.npy"),
    "falling entry_starts": (put("contexts/sampled_held_out.entry_starts", 5, -1), "sampled_held_out.entry_starts.npy"),
    "falling vocabulary": (put("vocabulary.starts", 4, 10**9), "vocabulary.starts.npy"),
    "falling sequences": (put("corpus/sequence_starts", 2, 10**9), "corpus/sequence_starts.npy"),
    "a deleted array": (remove("statistics.histogram.npy"), "statistics.histogram.npy"),
    "deleted contexts": (remove(VALUES), VALUES),
    "deleted corpus": (remove("corpus/corpus.json"), "corpus/corpus.json"),
    "an array cut short": (cut(VALUES), VALUES),
    "tokens cut short": (cut("corpus/tokens.npy"), "corpus/tokens.npy"),
    "another dtype": (to_array("statistics.n_firings", lambda a: a.astype(np.float64)), "statistics.n_firings.npy"),
    "text": (to_array("statistics.maximum", lambda a: a.astype("<U9")), "statistics.maximum.npy"),
    "another shape": (to_array("statistics.n_firing_windows", lambda a: a.T.copy()), "statistics.n_firing_windows.npy"),
    "RANDOM windows shortened": (to_array("random.position", lambda a: a[:-7]), "random."),
    "an empty file": (write("token_counts.npy", ""), "token_counts.npy"),
    "no array": (write("random.window.npy", "\x93NUMPY"), "random.window.npy"),
    "a folder": (instead("statistics.maximum.npy", Path.mkdir), "statistics.maximum.npy"),
    "a pipe": (instead("vocabulary.bytes.npy", os.mkfifo), "vocabulary.bytes.npy"),
    "a corpus of another JSON type": (write("corpus/corpus.json", "[]"), "corpus/corpus.json"),
}

# What all features share, and looks right: seen by its hash alone.
SEEN_BY_HASH: dict[str, tuple[Damage, str]] = {
    "vocabulary bytes": (put("vocabulary.bytes", 30, ord("~")), "vocabulary.bytes.npy"),
    "a token": (put("corpus/tokens", 777, 5), "corpus/tokens.npy"),
    "splits": (to_array("corpus/held_out", lambda a: ~a), "corpus/held_out.npy"),
    "counts of tokens": (put("token_counts", (0, 3), 1), "token_counts.npy"),
    "RANDOM windows of another folder": (to_array("random.position", lambda a: a[::-1].copy()), "random.position.npy"),
    "RANDOM splits": (to_array("random.held_out", lambda a: ~a), "random.held_out.npy"),
    "a digit in the manifest": (to_manifest(lambda m: m["splits"]["explain"].update(n_windows=77)), "manifest.json"),
    "a manifest without hashes": (to_manifest(lambda m: [m.pop(k) for k in ("files", "digest")]), "manifest.json"),
    "a manifest without digest": (to_manifest(lambda m: m.pop("digest")), "manifest.json"),
    "no manifest": (remove("manifest.json"), "manifest.json"),
    "deleted hashes": (to_hashes(Path.unlink), "hashes-"),
    "changed hashes": (to_hashes(lambda path: flip(path, path.stat().st_size - 3)), "hashes-"),
}

# Of one feature, and impossible: seen without hashes too, and the others go on.
FAILS_ONE: dict[str, tuple[Damage, str]] = {
    "infinite maximum": (put("statistics.maximum", BAD, np.inf), "statistics.maximum.npy"),
    "maximum that is no number": (put("statistics.maximum", BAD, np.nan), "statistics.maximum.npy"),
    "negative count": (put("statistics.n_firings", BAD, -4), "statistics.n_firings.npy"),
    "negative windows": (put("statistics.n_firing_windows", (0, BAD), -4), "statistics.n_firing_windows.npy"),
    "absurd windows": (put("statistics.n_firing_windows", (1, BAD), 10**12), "statistics.n_firing_windows.npy"),
    "negative sum": (put("statistics.activation_sum", BAD, -1), "statistics.activation_sum.npy"),
    "histogram": (put("statistics.histogram", (BAD, 1), 2**32 - 1), "statistics.histogram.npy"),
    "an activation that is no number": (at_first_of("contexts/top_explain", "entry_starts", "value", np.nan), VALUES),
    "offset behind the window": (
        at_first_of("contexts/sampled_held_out", "entry_starts", "offset", 255),
        "contexts/sampled_held_out.offset.npy",
    ),
    "window outside the corpus": (
        at_first_of("contexts/top_held_out", "feature_starts", "start", 2**32 - 1),
        "contexts/top_held_out.start.npy",
    ),
    "firings of another window": (
        at_first_of("contexts/top_explain", "feature_starts", "n_entries", 250),
        "contexts/top_explain.n_entries.npy",
    ),
    "RANDOM window that is not there": (at_first_of("random", "feature_starts", "window", 65_000), "random.window.npy"),
    "RANDOM activation": (at_first_of("random", "feature_starts", "value", -np.inf), "random.value.npy"),
}


@pytest.mark.parametrize(("damage", "file"), ENDS_THE_RUN.values(), ids=ENDS_THE_RUN)
@pytest.mark.parametrize("has_hashes", [True, False], ids=["hashes", "none"])
def test_damage_to_what_all_share_ends_the_run_with_the_name_of_the_file(
    evidence: Path, old: Path, has_hashes: bool, damage: Damage, file: str
) -> None:
    folder = evidence if has_hashes else old
    damage(folder)
    with pytest.raises(InputError) as raised:
        labeled(folder)
    assert raised.value.exit_code == 2
    assert file in str(raised.value)
    assert any(file in found.file or file in str(found.problem) for found in check_evidence(folder).problems)


@pytest.mark.parametrize(("damage", "file"), SEEN_BY_HASH.values(), ids=SEEN_BY_HASH)
def test_damage_that_looks_right_is_seen_by_its_hash(evidence: Path, damage: Damage, file: str) -> None:
    damage(evidence)
    with pytest.raises(InputError, match=file):
        labeled(evidence)


@pytest.mark.parametrize(("damage", "file"), FAILS_ONE.values(), ids=FAILS_ONE)
def test_a_value_that_cannot_be_costs_one_feature(old: Path, whole: Results, damage: Damage, file: str) -> None:
    damage(old)
    found = labeled(old)
    assert found[BAD].state is State.FAILED
    assert file in str(found[BAD].reason)
    assert str(old) not in str(found[BAD].reason)
    assert {f: r for f, r in found.items() if f != BAD} == {f: r for f, r in whole.items() if f != BAD}


@pytest.mark.parametrize(("damage", "file"), FAILS_ONE.values(), ids=FAILS_ONE)
def test_a_damaged_block_fails_its_features_and_the_others_go_on(
    evidence: Path, whole: Results, damage: Damage, file: str
) -> None:
    damage(evidence)
    found = labeled(evidence)
    assert found[BAD].state is State.FAILED
    assert file in str(found[BAD].reason)
    assert "gather again" in str(found[BAD].reason)
    for feature, result in found.items():
        assert result == whole[feature] or (result.state is State.FAILED and file in str(result.reason))


def test_features_of_other_blocks_are_labeled_as_before(evidence: Path, whole: Results) -> None:
    starts = np.load(evidence / "contexts/top_explain.entry_starts.npy")
    last = int(starts[FEATURES[-1]])
    assert (last - int(starts[FEATURES[1]])) * 4 > 2 * BLOCK_BYTES, "the features are in blocks of their own"
    put("contexts/top_explain.value", last, 99.0)(evidence)
    found = labeled(evidence)
    assert found[FEATURES[-1]].state is State.FAILED
    assert {f: found[f] for f in FEATURES[:2]} == {f: whole[f] for f in FEATURES[:2]}


def test_the_command_names_the_file_and_labels_the_others(run, evidence: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    db = ("--db", tmp_path / "labeler.db")
    at_first_of("contexts/top_explain", "entry_starts", "value", 99.0)(evidence)
    done = run("label", evidence, "--features", "0-31", *db)
    assert done.code == 4, done.err  # as for every run in which a feature failed
    assert VALUES in done.err
    shown = json.loads(run("label", evidence, "--features", "20", *db, "--json").out)
    assert shown["summary"]["counts"]["labeled"] > 10
    assert shown["summary"]["counts"]["failed"] >= 1
    vocabulary = evidence / "vocabulary.bytes.npy"
    flip(vocabulary, 150)
    done = run("label", evidence, *db)
    assert (done.code, "vocabulary.bytes.npy" in done.err) == (2, True)
    done = run("show", evidence, 0, *db)
    assert (done.code, "vocabulary.bytes.npy" in done.err) == (2, True)


# The command that checks all


def test_whole_evidence_is_said_to_be_whole(run, planted_evidence: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("check", "evidence", planted_evidence)
    assert done.code == 0, done.err
    assert "all match the hashes of the gathering pass" in done.out
    found = json.loads(run("check", "evidence", planted_evidence, "--json").out)
    assert found["checked"] is True
    assert found["damaged"] == 0
    named = {file["file"] for file in found["files"]}
    # plan.json is what a pass is recognized by; no result rests on it.
    written = {p.relative_to(planted_evidence).as_posix() for p in planted_evidence.rglob("*") if p.is_file()}
    assert written - named == {"plan.json"}


def test_damage_is_reported_by_file(run, evidence: Path) -> None:  # type: ignore[no-untyped-def]
    flip(evidence / VALUES, 128 + 3 * BLOCK_BYTES + 5)
    cut("token_counts.npy")(evidence)
    done = run("check", "evidence", evidence)
    assert done.code == 2
    assert f"{VALUES}: bytes 24,704 to 32,895 are not what was written" in done.out
    assert "token_counts.npy: expected" in done.out
    assert "2 of" in done.err
    found = json.loads(run("check", "evidence", evidence, "--json").out)
    assert [f["file"] for f in found["files"] if f["problem"]] == [VALUES, "token_counts.npy"]


def test_evidence_of_earlier_versions_is_read_and_said_to_be_unchecked(run, old: Path, whole: Results) -> None:  # type: ignore[no-untyped-def]
    assert labeled(old) == whole
    done = run("check", "evidence", old)
    assert done.code == 0
    assert "unchecked" in done.out
    put("statistics.maximum", BAD, np.inf)(old)
    done = run("check", "evidence", old)
    assert done.code == 2
    assert "statistics.maximum.npy: 1 values that cannot be" in done.out


def test_the_check_says_that_there_is_no_evidence(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("check", "evidence", tmp_path / "nowhere")
    assert done.code == 2
    assert "no such folder" in done.err


# Chance damage


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 8)
    path.write_bytes(data)


def flipped(folder: Path, seed: int) -> Iterator[str]:
    """One byte after another is changed, one in each file, and put back."""
    rng = random.Random(seed)
    for name in [*covered_files(folder), "manifest.json"]:
        before = (folder / name).read_bytes()
        flip(folder / name, rng.randrange(len(before)))
        yield name
        (folder / name).write_bytes(before)


def noticed(folder: Path, whole: Results) -> bool | None:
    """Whether the damage is noticed; None where it changes nothing that is read."""
    try:
        found = labeled(folder, FEATURES[:2])
    except InputError:  # anything else is a bug of ours
        return True
    for feature, result in found.items():
        if result.state is State.FAILED:
            return True
        if result != whole[feature]:
            return False
    return None


def test_chance_damage_is_never_a_result_that_nobody_notices(evidence: Path, whole: Results) -> None:
    for name in flipped(evidence, seed=1):
        assert noticed(evidence, whole) is not False, name
        assert [f.file for f in check_evidence(evidence).problems] == [name]


def test_without_the_checks_chance_damage_goes_unnoticed(old: Path, whole: Results) -> None:
    """So the test above can fail; and here as there, nothing ends with a traceback."""
    assert [name for name in flipped(old, seed=1) if noticed(old, whole) is False]


# What writes into evidence that is finished


def test_what_comes_later_is_covered_and_what_was_damaged_stays_so(evidence: Path) -> None:
    names = set(read_manifest(evidence)["files"]["of"])
    late = {"neighbours.features.npy", "neighbours.cosines.npy"}
    kept = {name: (evidence / name).read_bytes() for name in late}
    manifest = read_manifest(evidence)
    del manifest["files"]
    for name in late:
        (evidence / name).unlink()
    write_manifest(evidence, manifest)
    assert set(read_manifest(evidence)["files"]["of"]) == names - late
    for name, data in kept.items():
        (evidence / name).write_bytes(data)
    assert not EvidenceFolder(evidence).files.has("neighbours.cosines.npy"), "without a hash it does not count yet"
    flip(evidence / VALUES, 300)
    rewrite_manifest(evidence, quality={**manifest["quality"], "cross_entropy": 1.0})
    assert set(read_manifest(evidence)["files"]["of"]) == names
    assert [f.file for f in check_evidence(evidence).problems] == [VALUES], "sealed anew, it would count as right"
    assert len(list(evidence.glob("hashes-*.npy"))) == 1


def test_a_manifest_that_is_rewritten_keeps_the_hash_of_the_evidence(evidence: Path, planted_evidence: Path) -> None:
    rewrite_manifest(evidence, quality={**read_manifest(evidence)["quality"], "cross_entropy": 1.0})
    assert EvidenceFolder(evidence).hash == EvidenceFolder(planted_evidence).hash
    assert not check_evidence(evidence).problems


def test_hashes_are_a_small_part_of_the_evidence(planted_evidence: Path) -> None:
    hashes = next(planted_evidence.glob("hashes-*.npy"))
    files = read_manifest(planted_evidence)["files"]["of"].values()
    n_blocks = sum((header > 0) + -(-(size - header) // BLOCK_BYTES) for size, header, _ in files)
    assert hashes.stat().st_size == 128 + 16 * n_blocks


def test_one_feature_is_read_without_reading_the_corpus(evidence: Path) -> None:
    """A token that no window of the feature holds is another feature's business."""
    folder = EvidenceFolder(evidence)
    folder.windows(0, Source.TOP, Split.EXPLAIN)
    assert not folder.files.array("statistics.histogram.npy")._known[1:].any()
    put("statistics.histogram", (0, 0), 7)(evidence)
    with pytest.raises(DamagedFeatureError, match="histogram"):
        EvidenceFolder(evidence).statistics(0)
    put("corpus/tokens", 3, 1)(evidence)
    with pytest.raises(DamagedError, match="tokens"):
        EvidenceFolder(evidence).check_shared()


def test_a_damaged_file_is_told_once_for_all_features_of_the_null(
    evidence: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to_array("contexts/top_explain.value", lambda array: np.full_like(array, 1.0))(evidence)
    NullLabels(EvidenceFolder(evidence), replace(Recipe(), n_null=3))
    [line] = [record.getMessage() for record in caplog.records]
    assert re.match(r"\d+ features of the null are replaced by others, .*contexts/top_explain\.value", line)
