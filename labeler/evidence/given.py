"""Write evidence that others have gathered: their contexts and facts, without subject, SAE or corpus.

    their files ──facts, contexts──► write_given ──► evidence, as evidence/merge.py makes it

TOP contexts are EXPLAIN; contexts drawn from intervals of the activation are HELD_OUT (as SAMPLED). Each context is a
document of its own. The manifest names what is unknown: there are no counts, no RANDOM windows and no neighbors, and so
no HARD windows. Instead of counts there are

    statistics.density.npy, statistics.maximum.npy   [n_features] as they state it; NaN where they do not
    statistics.n_firing_windows.npy                  [2, n_features] windows that they show, in which the feature fires
"""

from __future__ import annotations

import hashlib
import json
import platform
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from labeler import __version__
from labeler.errors import FormatError, InputError, MismatchError
from labeler.evidence.format import HEAD
from labeler.evidence.given_files import (
    Facts,
    GivenFacts,
    Shown,
    highest,
    write_contexts,
    write_corpus,
    write_random,
    write_token_counts,
)
from labeler.evidence.manifest import write_manifest
from labeler.evidence.quality import DENSITY_LOG10_EDGES, density_histogram
from labeler.evidence.store import BY_OTHERS
from labeler.files import NpyWriter, partial_folder, put_in_place, read_json
from labeler.recipe import GatherConfig
from labeler.records import Split
from labeler.subject.vocabulary import save_vocabulary

__all__ = ["GivenContext", "GivenFacts", "GivenSource", "write_given"]

LONGEST_WINDOW = 255  # tokens: places in a window are kept in a byte
_SHORTEST_WINDOW = 4
_ABSENT = (
    "how often each feature fires, and on how many tokens and windows: the density is as they state it",
    "RANDOM and HARD contexts: scores rest on the contexts of activation intervals alone, and are not comparable with others",
    "how many windows of the corpus a context stands for: there is no weighted score",
    "which documents the contexts are from: each counts as a document of its own",
)


@dataclass(frozen=True)
class GivenSource:
    """The origin of the evidence, and its subject and SAE.

    None, or "unknown" where a text is needed: it is not stated.
    """

    kind: str  # "neuronpedia" or "saedashboard"
    model: str
    source: str
    subject: dict[str, Any]  # as in a manifest
    hookpoint: str
    reads: str
    sae: dict[str, Any]  # as in a manifest, without n_features
    corpus: str
    n_features: int | None = None  # None: up to the last one that is shown


@dataclass(frozen=True)
class GivenContext:
    """One context that the source shows."""

    feature_index: int
    id: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    is_top: bool


def write_given(
    out: Path,
    source: GivenSource,
    facts: Iterable[GivenFacts],
    contexts: Iterable[GivenContext],
    window_tokens: int | None = None,
) -> dict[str, Any]:
    """Write an evidence folder and return its manifest; `out` appears whole or not at all.

    Contexts longer than `window_tokens` (default: none, and at most 255) are cut to a window around their peak. Raises
    what the iterables raise, FormatError where there is no context, MismatchError where `out` holds something else. The
    same source written again leaves `out` as it is.
    """
    if window_tokens is not None and not _SHORTEST_WINDOW <= window_tokens <= LONGEST_WINDOW:
        raise InputError(f"window of {window_tokens} tokens: choose {_SHORTEST_WINDOW} to {LONGEST_WINDOW}")
    with partial_folder(out) as partial:
        (partial / "corpus").mkdir()
        (partial / "contexts").mkdir()
        with ExitStack() as files:
            writer = _Writer(partial, files)
            for fact in facts:
                writer.add_facts(fact)
            for context in contexts:
                writer.add_context(context)
        manifest = writer.finish(source, window_tokens)
        if not _is_there(out, manifest):
            put_in_place(partial, out)
    return dict(read_json(out / "manifest.json"))


def _is_there(out: Path, manifest: dict[str, Any]) -> bool:
    """Return True if this evidence is in `out` already. Raises MismatchError where something else is."""
    if not out.exists() or not any(out.iterdir()):
        return False
    known = read_json(out / "manifest.json") if (out / "manifest.json").exists() else {}
    if known.get("hash") != manifest["hash"]:
        raise MismatchError(f"{out} is in use, and does not hold this evidence: choose another --out")
    return True


class _Writer:
    """Writes everything in the order in which it comes; `finish` then sorts it by feature."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self._folder = folder
        self._vocabulary: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self._facts = Facts(folder, files)
        self._feature, self._is_top, self._peak = array("i"), array("b"), array("f")
        self._peak_at, self._length, self._n_entries = array("q"), array("q"), array("q")
        self._tokens = files.enter_context(NpyWriter(folder / "corpus" / "tokens.npy", np.uint32))
        self._offset = files.enter_context(NpyWriter(folder / "offset.npy", np.uint32))
        self._value = files.enter_context(NpyWriter(folder / "value.npy", np.float32))
        self._ids = files.enter_context((folder / "corpus" / "document_ids.jsonl").open("w", encoding="utf-8"))

    def add_facts(self, facts: GivenFacts) -> None:
        self._digest.update(repr(facts).encode("utf-8", "surrogatepass"))
        self._facts.add(facts, self._id)

    def _id(self, token: str) -> int:
        return self._vocabulary.setdefault(token, len(self._vocabulary))

    def add_context(self, context: GivenContext) -> None:
        ids = np.fromiter(map(self._id, context.tokens), np.uint32, len(context.tokens))
        values = np.array(context.activations, dtype=np.float32)
        fires = np.flatnonzero(values)
        self._tokens.append(ids)
        self._offset.append(fires)
        self._value.append(values[fires])
        self._ids.write(json.dumps(context.id) + "\n")
        self._digest.update(f"{context.feature_index}:{context.is_top}:".encode())
        self._digest.update("\x1f".join(context.tokens).encode("utf-8", "surrogatepass") + values.tobytes())
        self._feature.append(context.feature_index)
        self._is_top.append(context.is_top)
        self._peak.append(float(values.max()))
        self._peak_at.append(int(values.argmax()))
        self._length.append(len(ids))
        self._n_entries.append(len(fires))

    def finish(self, source: GivenSource, window_tokens: int | None) -> dict[str, Any]:
        if not self._feature:
            raise FormatError(
                f"{source.model}/{source.source}: holds no activations, so there is nothing to label from"
            )
        shown = Shown(
            *(
                np.array(c)
                for c in (self._feature, self._is_top, self._peak, self._peak_at, self._length, self._n_entries)
            )
        )
        last = max(int(shown.feature.max()), self._facts.last)
        n_features = source.n_features if source.n_features is not None else last + 1
        if last >= n_features:
            raise FormatError(f"{source.model}/{source.source}: feature {last} of an SAE that has {n_features:,}")
        window = min(window_tokens or LONGEST_WINDOW, max(int(shown.length.max()), _SHORTEST_WINDOW))
        save_vocabulary(self._folder, list(self._vocabulary))
        write_corpus(self._folder, source.corpus, shown, self._digest.hexdigest()[:16])
        firing = write_contexts(self._folder, shown, window, n_features)
        densities = self._facts.finish(n_features, firing, highest(shown, n_features))
        write_random(self._folder, n_features)
        write_token_counts(self._folder, shown, len(self._vocabulary))
        manifest = _manifest(source, shown, window, n_features, densities, self._digest.hexdigest())
        write_manifest(self._folder, manifest)
        return manifest


def _manifest(
    source: GivenSource, shown: Shown, window: int, n_features: int, densities: np.ndarray, digest: str
) -> dict[str, Any]:
    config = asdict(GatherConfig(window_tokens=window, sequence_tokens=max(window, 256)))
    identity = {"by": source.kind, "model": source.model, "source": source.source, "window": window, "digest": digest}
    fires = densities[densities > 0]
    return {
        **HEAD,
        "hash": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "subject": source.subject,
        "hookpoint": source.hookpoint,
        "reads": source.reads,
        "sae": {**source.sae, "n_features": n_features},
        "corpus": {
            "spec": source.corpus,
            "fingerprint": digest[:16],
            "n_documents": len(shown.length),
            "n_tokens": int(shown.length.sum()),
            "n_sequences": len(shown.length),
            "n_windows": len(shown.length),
        },
        "config": {**json.loads(json.dumps(config)), "hash": "by others"},
        "splits": {
            str(split): {
                "n_documents": int(here.sum()),
                "n_tokens": int(shown.length[here].sum()),
                "n_windows": int(here.sum()),
            }
            for split, here in ((Split.EXPLAIN, shown.is_top != 0), (Split.HELD_OUT, shown.is_top == 0))
        },
        "quality": {
            "l0": None,
            "explained_variance": None,
            "fvu": None,
            "dead_share": None,
            "rare_share": None,
            "density_log10_edges": list(DENSITY_LOG10_EDGES),
            "density_features": density_histogram(fires, 1) if len(fires) else [0] * (len(DENSITY_LOG10_EDGES) - 1),
        },
        "seconds": None,
        "versions": {
            "labeler": __version__,
            "python": platform.python_version(),
            "torch": "not used",
            "transformers": "not used",
        },
        BY_OTHERS: {
            "kind": source.kind,
            "model": source.model,
            "source": source.source,
            "absent": list(_ABSENT),
            "n_without_density": int(np.isnan(densities).sum()),
        },
    }
