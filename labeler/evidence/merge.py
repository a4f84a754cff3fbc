"""Make evidence from shards: add up sums, merge contexts, and write the manifest last.

The evidence folder:

    manifest.json       provenance, counts and SAE quality; without it the folder is not evidence
    corpus/             the tokenized corpus (subject/sequences.py)
    vocabulary.*.npy    the text of each token id, as UTF-8 bytes and offsets
    token_counts.npy    [2, vocabulary] how often each token occurs, by split
    statistics.*.npy    [n_features] exact counts (evidence/state.py)
    contexts/           TOP and SAMPLED contexts by split (evidence/contexts.py)
    random.*.npy        RANDOM windows, shared by all features, and who fires in them
    output.*.npy, neighbours.*.npy   what the decoder says without any text (evidence/directions.py)
    hashes-*.npy        of the blocks of all of these files (evidence/hashes.py)
    losses.json         cross-entropy recovered, where it was asked for (evidence/patching.py)
    names.json          what people call the subject and the SAE, where they said so (labeler/names.py)
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from labeler import __version__
from labeler.errors import MismatchError, NotFoundError
from labeler.evidence.contexts import ContextsReader, ContextsWriter, best_of_runs
from labeler.evidence.format import HEAD, SPLITS, position_dtype
from labeler.evidence.manifest import rewrite_manifest, write_manifest
from labeler.evidence.quality import describe_quality
from labeler.evidence.ragged import starts_of
from labeler.evidence.self_check import SELF_CHECK, describe, read_self_check
from labeler.evidence.state import (
    KINDS,
    Quality,
    RandomWindows,
    Statistics,
    kind_name,
    load_arrays,
    random_positions,
)
from labeler.files import clear_disk_errors, map_npy, read_json, save_npy, write_json
from labeler.recipe import GatherConfig
from labeler.records import Source
from labeler.subject.sequences import TokenizedCorpus, open_tokenized


def shard_name(shard: tuple[int, int]) -> str:
    return f"{shard[0]}-of-{shard[1]}"


def shard_folder(out: Path, shard: tuple[int, int]) -> Path:
    return out / "shards" / shard_name(shard)


def is_merged(out: Path) -> bool:
    return (out / "manifest.json").exists()


def keep_names(out: Path, names: dict[str, str]) -> None:
    """Keep the names that people give the subject and the SAE, also in finished evidence, whose hash stays the same."""
    write_json(out / "names.json", names)
    if is_merged(out):
        rewrite_manifest(out, names=names)


def find_shards(out: Path) -> list[Path]:
    """Return the folders of all shards of a pass, each complete. Raises NotFoundError naming those that are not."""
    found = sorted((out / "shards").glob("*-of-*"))
    if not found:
        raise NotFoundError(f"{out}: no shards here; run `labeler gather ... --out {out}` first")
    counts = {int(p.name.split("-of-")[1]) for p in found}
    if len(counts) > 1:
        raise MismatchError(
            f"{out}: shards of different cuts ({', '.join(p.name for p in found)}): remove those of one cut"
        )
    n = counts.pop()
    wanted = [shard_folder(out, (i, n)) for i in range(1, n + 1)]
    missing = [p.name for p in wanted if not _is_complete(p)]
    if missing:
        raise NotFoundError(
            f"{out}: {len(missing)} of {n} shards never came back: {', '.join(missing)}; "
            "run them (again) with `labeler gather --shard I/N`, which continues what was begun, then merge"
        )
    return wanted


def adopt_shards(out: Path, others: Sequence[Path]) -> None:
    """Copy into `out` the shards that were gathered into other folders, on other machines perhaps.

    `out` may be new. Raises MismatchError where a folder holds another pass; nothing is copied from it.
    """
    for other in others:
        if not (other / "plan.json").exists():
            raise NotFoundError(
                f"{other}: no gathering pass here; give a folder that `labeler gather --shard` has written"
            )
        if not (out / "plan.json").exists():
            _adopt_plan(out, other)
        mine, theirs = (_pass_identity(folder) for folder in (out, other))
        if mine != theirs:
            differing = ", ".join(k for k in mine | theirs if mine.get(k) != theirs.get(k))
            raise MismatchError(f"{other} holds a pass with another {differing} than {out}: merge shards of one pass")
        for shard in sorted((other / "shards").glob("*-of-*")):
            if _is_complete(shard) and not _is_complete(out / "shards" / shard.name):
                with clear_disk_errors(out):
                    _adopt_shard(shard, out / "shards")


def _adopt_shard(shard: Path, shards: Path) -> None:
    # Under a name that no shard has until it is whole: the checkpoint may be copied before the files that it counts.
    partial = shards / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(shard, partial)
    shutil.rmtree(shards / shard.name, ignore_errors=True)
    partial.rename(shards / shard.name)


def _adopt_plan(out: Path, other: Path) -> None:
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(other / "corpus", out / "corpus", dirs_exist_ok=True)
        for pattern in (
            "vocabulary.*.npy",
            "output.*.npy",
            "neighbours.*.npy",
            "losses.json",
            "names.json",
            SELF_CHECK,
        ):
            for path in other.glob(pattern):
                shutil.copy(path, out)
        shutil.copy(other / "plan.json", out)


def _pass_identity(folder: Path) -> dict[str, Any]:
    plan, corpus = read_json(folder / "plan.json"), read_json(folder / "corpus" / "corpus.json")
    return _without_places({**plan, "corpus": corpus})


def _is_complete(folder: Path) -> bool:
    checkpoint = folder / "checkpoint.json"
    return checkpoint.exists() and bool(read_json(checkpoint)["complete"])


def merge_shards(out: Path, seconds: float | None = None) -> Path:
    """Write the evidence of a pass whose shards are all complete; returns `out`. Needs neither subject nor SAE."""
    if not (out / "plan.json").exists():
        raise NotFoundError(f"{out}: no gathering pass here; run `labeler gather ... --out {out}` first")
    if is_merged(out):
        return out
    plan = read_json(out / "plan.json")
    corpus = open_tokenized(out / "corpus")
    config = GatherConfig.from_dict(plan["config"])
    shards = [(folder, read_json(folder / "checkpoint.json")) for folder in find_shards(out)]
    for folder, checkpoint in shards:
        if checkpoint["fingerprint"] != corpus.fingerprint:
            raise MismatchError(f"{folder} was gathered from another corpus than {out / 'corpus'}")
    random = RandomWindows(random_positions(corpus, config))
    statistics, quality = add_up([folder / checkpoint["state"] for folder, checkpoint in shards], random)
    with clear_disk_errors(out):
        _write_contexts(out, shards, config, plan["sae"]["n_features"], corpus)
        _write_statistics(out, statistics)
        _write_random(out, random, plan["sae"]["n_features"], corpus)
        counts = _write_token_counts(out, corpus, len(map_npy(out / "vocabulary.starts.npy")) - 1)
        manifest = _manifest(plan, corpus, config, statistics, quality, counts, seconds)
        if (check := read_self_check(out)) is not None:
            manifest["self_check"] = describe(check)
        if (out / "losses.json").exists():
            manifest["quality"] |= read_json(out / "losses.json")
        if (out / "names.json").exists():
            manifest["names"] = read_json(out / "names.json")
        write_manifest(out, manifest)
        shutil.rmtree(out / "shards")
        (out / SELF_CHECK).unlink(missing_ok=True)  # the manifest has it now
    return out


def add_up(states: Sequence[Path], random: RandomWindows) -> tuple[Statistics, Quality]:
    """Add up the states of one or more shards; two at a time are in memory."""
    statistics, quality = load_arrays(states[0], random)
    for path in states[1:]:
        more = load_arrays(path, random)
        statistics.add(more[0])
        quality.add(more[1])
        del more  # before the next one is there
    return statistics, quality


def _write_contexts(
    out: Path, shards: list[tuple[Path, dict[str, Any]]], config: GatherConfig, n_features: int, corpus: TokenizedCorpus
) -> None:
    (out / "contexts").mkdir(exist_ok=True)
    dtype = position_dtype(corpus)
    for source, split in KINDS:
        name = kind_name(source, split)
        runs = [
            ContextsReader(folder / "runs" / run / name, with_rank=True)
            for folder, checkpoint in shards
            for run in checkpoint["runs"]
        ]
        k = (config.n_top if source is Source.TOP else config.n_sampled)[SPLITS.index(split)]
        writer = ContextsWriter(out / "contexts" / name, n_features, dtype, with_rank=False)
        for best in best_of_runs(runs, k, n_features):
            writer.append(best)
        writer.close()


def _write_statistics(out: Path, statistics: Statistics) -> None:
    for f in fields(statistics):
        save_npy(out / f"statistics.{f.name}.npy", getattr(statistics, f.name))


def _write_random(out: Path, random: RandomWindows, n_features: int, corpus: TokenizedCorpus) -> None:
    feature, window, offset, value = random.arrays()
    save_npy(out / "random.position.npy", random.positions)
    save_npy(out / "random.held_out.npy", np.asarray(corpus.held_out)[corpus.document_of(random.positions)])
    save_npy(out / "random.feature_starts.npy", starts_of(np.bincount(feature, minlength=n_features)))
    for name, array in (("window", window), ("offset", offset), ("value", value)):
        save_npy(out / f"random.{name}.npy", array)


def _write_token_counts(out: Path, corpus: TokenizedCorpus, n_vocabulary: int) -> np.ndarray:
    counts = np.zeros((2, n_vocabulary), dtype=np.int64)
    for document in range(corpus.n_documents):
        low, high = int(corpus.document_starts[document]), int(corpus.document_starts[document + 1])
        ids = np.asarray(corpus.tokens[low:high])
        counts[int(corpus.held_out[document])] += np.bincount(ids, minlength=n_vocabulary)
    save_npy(out / "token_counts.npy", counts)
    return counts


def _manifest(
    plan: dict[str, Any],
    corpus: TokenizedCorpus,
    config: GatherConfig,
    statistics: Statistics,
    quality: Quality,
    token_counts: np.ndarray,
    seconds: float | None,
) -> dict[str, Any]:
    n_windows = _windows_by_split(corpus, config.window_tokens)
    held_out = np.asarray(corpus.held_out)
    identity = {**plan, "corpus": {"spec": corpus.spec, "fingerprint": corpus.fingerprint}}
    return {
        **HEAD,
        "hash": hashlib.sha256(json.dumps(_without_places(identity), sort_keys=True).encode()).hexdigest()[:16],
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **identity,
        "corpus": {
            **identity["corpus"],
            "n_documents": corpus.n_documents,
            "n_tokens": corpus.n_tokens,
            "n_sequences": corpus.n_sequences,
            "n_windows": int(n_windows.sum()),
        },
        "splits": {
            str(split): {
                "n_documents": int((held_out == i).sum()),
                "n_tokens": int(token_counts[i].sum()),
                "n_windows": int(n_windows[i]),
            }
            for i, split in enumerate(SPLITS)
        },
        "quality": describe_quality(statistics, quality),
        "seconds": seconds,
        "versions": _versions(),
    }


def _without_places(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity without the paths where things happened to lie: their hashes say what they are."""
    return {
        **identity,
        "subject": {k: v for k, v in identity["subject"].items() if k != "id"},
        "sae": {k: v for k, v in identity["sae"].items() if k not in ("path", "scan", "layer")},
        "corpus": identity["corpus"]["fingerprint"],
    }


def _windows_by_split(corpus: TokenizedCorpus, window_tokens: int) -> np.ndarray:
    counts = np.zeros(2, dtype=np.int64)
    step = 1 << 20  # sequences at a time: the corpus may not fit in memory
    for low in range(0, corpus.n_sequences, step):
        bounds = np.asarray(corpus.sequence_starts[low : low + step + 1])
        held_out = np.asarray(corpus.held_out)[corpus.document_of(bounds[:-1])].astype(np.int64)
        counts += np.bincount(held_out, weights=-(-np.diff(bounds) // window_tokens), minlength=2).astype(np.int64)
    return counts


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"labeler": __version__, "python": platform.python_version()} | {
        p: version(p) for p in ("torch", "transformers")
    }
