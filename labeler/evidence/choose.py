"""Choose the contexts that the explainer sees, and those on which the label is scored (docs/reading-a-score.md).

    HELD_OUT documents   report: the scores of a label                    chosen first, exactly as the design draws them
                         choose, show, compare: parts set aside           repeat nothing of the above
    EXPLAIN documents    what the explainer sees, in one or more draws    repeat nothing of the above

Near-duplicates are left out from the top of this table downwards, so that design weights stay exact. No text that was
copied between documents is both shown to an explainer and scored. A hash of its tokens decides a document's part, so
two copies of a document are in one part.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from labeler.evidence.duplicates import NearDuplicates, shingles, shingles_of_all
from labeler.evidence.format import SPLITS
from labeler.evidence.hard import hard_windows
from labeler.evidence.order import N_DECILES, deciles, one_a_document_first, round_robin, round_robin_of_documents
from labeler.evidence.store import EvidenceFolder, Windows
from labeler.recipe import PART_SHARES, ContextsConfig
from labeler.records import Context, FeatureEvidence, Source, Split

_FEWEST_SILENT = 3
_REPORT = "report"


def choose_evidence(
    folder: EvidenceFolder, feature_index: int, config: ContextsConfig, seed: int = 0
) -> FeatureEvidence:
    """Return one feature's evidence as a recipe wants it; the same seed gives the same evidence on every machine."""
    chooser = _Chooser(folder, feature_index, config, seed)
    held_out = chooser.held_out()
    aside = {part: chooser.set_aside(part) for part in config.aside}
    explain, *more = [chooser.explain(draw) for draw in range(max(config.draws, 1))]
    return FeatureEvidence(
        feature_index,
        folder.statistics(feature_index),
        explain,
        held_out,
        more_draws=tuple(more),
        choose=aside.get("choose", ()),
        show=aside.get("show", ()),
        compare=aside.get("compare", ()),
    )


def explain_windows(
    folder: EvidenceFolder, feature_index: int, held_out: Iterable[Context], near_duplicate: float
) -> dict[Source, Windows]:
    """Return, by source, all gathered EXPLAIN windows of a feature that repeat none of the held-out contexts."""
    scored = NearDuplicates(near_duplicate, shingles_of_all(folder, held_out))
    kept = {}
    for source in (Source.TOP, Source.SAMPLED, Source.RANDOM):
        windows = folder.windows(feature_index, source, Split.EXPLAIN)
        # The shared RANDOM windows are compared only where the feature fires: elsewhere they teach nothing but silence.
        compared = np.flatnonzero(windows.peak > 0)
        grams = shingles(folder, windows.token_ids[compared], windows.length[compared])
        repeats = [i for i, g in zip(compared, grams, strict=True) if scored.has(g)]
        kept[source] = windows.take(np.setdiff1d(np.arange(len(windows)), repeats))
    return kept


def part_of(folder: EvidenceFolder, document: int, aside: Sequence[str], seed: int) -> str:
    """Return the part of a HELD_OUT document: one of `aside`, or "report". Each part has its own range within [0, 1).

    A document keeps its part whatever else is set aside, except that the documents of an unused part report.
    """
    place, start = folder.document_fraction(document, f"part:{seed}"), 0.0
    for part, share in PART_SHARES.items():
        if start <= place < start + share and part in aside:
            return part
        start += share
    return _REPORT


class _Chooser:
    def __init__(self, folder: EvidenceFolder, feature: int, config: ContextsConfig, seed: int) -> None:
        self.folder, self.feature, self.config, self.seed = folder, feature, config, seed
        self.rng = np.random.default_rng([seed, feature])
        self.apart: list[frozenset[int]] = []  # shingles of all contexts of HELD_OUT documents
        self._pools: dict[tuple[Source, Split], Windows] = {}

    def held_out(self) -> tuple[Context, ...]:
        if self.folder.by_others:
            return self._intervals()
        top = self._distinct_top(Split.HELD_OUT, self.config.held_out_top, self.config.held_out_top * 4, self._fresh())
        taken = np.array([c.token_start for c in top])
        chosen = (*top, *self._random(taken), *self._sampled_by_design())
        self._keep_apart(chosen)
        n_hard = self.config.held_out_hard or 0
        return chosen + self._hard(Split.HELD_OUT, n_hard, self._unlike_apart(), taken=chosen)

    def _intervals(self) -> tuple[Context, ...]:
        """Choose from the activation intervals of evidence that others have gathered, spread over deciles.

        The contexts have no weights, since the files do not say how many windows of the corpus each stands for.
        """
        windows, documents = self._windows(Source.SAMPLED, Split.HELD_OUT)
        strata = deciles(windows.peak)
        order = round_robin([self.rng.permutation(np.flatnonzero(strata == d)) for d in range(1, N_DECILES + 1)])
        n = self.config.held_out_top + self.config.held_out_random + self.config.held_out_sampled
        chosen = self._contexts(windows, order[:n], Source.SAMPLED, Split.HELD_OUT, documents)
        self._keep_apart(chosen)
        return chosen

    def set_aside(self, part: str) -> tuple[Context, ...]:
        """Choose a few contexts of other documents.

        Those that show a label its mistakes are spread over the deciles.
        """
        rng, seen = self._rng("aside", part), self._unlike_apart()
        n_firing, n_random = self.config.aside_top, self.config.aside_random
        chosen: tuple[Context, ...] = ()
        sources: tuple[Source, ...] = (Source.SAMPLED, Source.TOP) if part == "show" else (Source.TOP,)
        if self.folder.by_others:  # there are only intervals, with silent contexts among them
            sources, n_firing, n_random = (Source.SAMPLED,), n_firing + n_random, 0
        for source in sources:
            chosen += self._some(source, n_firing - len(chosen), part, rng, seen)
        chosen += self._some(Source.RANDOM, n_random, part, rng, seen)
        self._keep_apart(chosen)
        if part == "show":
            chosen += self._hard(Split.HELD_OUT, n_random, seen, part, taken=chosen)
        return chosen

    def _some(
        self, source: Source, n: int, part: str, rng: np.random.Generator, seen: NearDuplicates
    ) -> tuple[Context, ...]:
        windows, documents = self._windows(source, Split.HELD_OUT, part)
        order = np.arange(len(windows)) if source is Source.TOP else rng.permutation(len(windows))
        rows = self._distinct(windows, one_a_document_first(order, documents), n, seen)
        return self._contexts(windows, rows, source, Split.HELD_OUT, documents)

    def explain(self, draw: int) -> tuple[Context, ...]:
        # The first draw continues the stream of the held-out choice, as it did before there were others.
        rng = self.rng if draw == 0 else self._rng("draw", str(draw))
        seen = self._unlike_apart()
        n, pool = self.config.explain_top, self.config.explain_top_pool
        top = self._distinct_top(Split.EXPLAIN, n, pool, seen, rng)
        chosen = (*top, *self._sampled_over_deciles(top, seen, rng if draw else None))
        return chosen + self._hard(Split.EXPLAIN, self.config.explain_hard or 0, seen, taken=chosen)

    def _rng(self, *names: str) -> np.random.Generator:
        """Return a random stream for one choice only, so that no choice changes another."""
        salt = int.from_bytes(hashlib.sha256(":".join(names).encode()).digest()[:4], "big")
        return np.random.default_rng([self.seed, self.feature, salt])

    def _fresh(self) -> NearDuplicates:
        return NearDuplicates(self.config.near_duplicate)

    def _unlike_apart(self) -> NearDuplicates:
        return NearDuplicates(self.config.near_duplicate, self.apart)

    def _keep_apart(self, contexts: Iterable[Context]) -> None:
        self.apart += shingles_of_all(self.folder, contexts)

    def _windows(self, source: Source, split: Split, part: str = _REPORT) -> tuple[Windows, np.ndarray]:
        """Return the gathered windows of a split and their documents; of HELD_OUT, those of one part of the documents."""
        windows = self._pool(source, split)
        documents = self.folder.corpus.document_of(windows.position)
        if split is Split.EXPLAIN or not self.config.aside:
            return windows, documents
        parts = [part_of(self.folder, int(d), self.config.aside, self.seed) for d in documents]
        here = np.flatnonzero(np.array([p == part for p in parts], dtype=bool))
        return windows.take(here), documents[here]

    def _pool(self, source: Source, split: Split) -> Windows:
        """Return all gathered windows of a split, read once; HARD windows are found among those of all sources."""
        if (pool := self._pools.get((source, split))) is None:
            if source is Source.HARD:
                pool = hard_windows(self.folder, self.feature, split, self._rng("hard", split))
            else:
                pool = self.folder.windows(self.feature, source, split)
            self._pools[source, split] = pool
        return pool

    def _contexts(
        self, windows: Windows, rows: Iterable[int], source: Source, split: Split, documents: np.ndarray
    ) -> tuple[Context, ...]:
        return tuple(self.folder.context(windows, i, source, split, int(documents[i])) for i in rows)

    def _distinct_top(
        self, split: Split, n: int, pool: int, seen: NearDuplicates, shuffle: np.random.Generator | None = None
    ) -> tuple[Context, ...]:
        """Return `n` of the `pool` highest windows: at most one per document while there are enough documents, no
        repeats.
        """
        windows, documents = self._windows(Source.TOP, split)
        order = np.arange(min(pool, len(windows)))
        if shuffle is not None:
            shuffle.shuffle(order)
        chosen = self._distinct(windows, one_a_document_first(order, documents), n, seen)
        return self._contexts(windows, sorted(chosen), Source.TOP, split, documents)

    def _distinct(self, windows: Windows, order: Sequence[int] | np.ndarray, n: int, seen: NearDuplicates) -> list[int]:
        chosen: list[int] = []
        for low in range(0, len(order), max(n, 1)):
            rows = np.asarray(order[low : low + n], dtype=np.int64)
            grams = shingles(self.folder, windows.token_ids[rows], windows.length[rows])
            for i, of_row in zip(rows.tolist(), grams, strict=True):
                if len(chosen) == n:
                    return chosen
                if not seen.has(of_row):
                    seen.add(of_row)
                    chosen.append(i)
        return chosen

    def _hard(
        self,
        split: Split,
        n: int,
        seen: NearDuplicates,
        part: str = _REPORT,
        *,
        taken: Sequence[Context],
    ) -> tuple[Context, ...]:
        """Return `n` windows that look like the feature's and on which it is silent; fewer where fewer are known."""
        if n == 0:
            return ()
        windows, documents = self._windows(Source.HARD, split, part)
        starts = np.array([c.token_start for c in taken])
        order = self._apart_from(windows, np.arange(len(windows)), starts)
        rows = self._distinct(windows, order, n, seen)
        contexts = self._contexts(windows, rows, Source.HARD, split, documents)
        if split is Split.HELD_OUT:
            self._keep_apart(contexts)
        return contexts

    def _apart_from(self, windows: Windows, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the entries of `order` that overlap no window beginning at one of `starts`."""
        width = self.folder.window_tokens
        away = np.abs(windows.position[order][:, None] - starts[None, :])
        return np.asarray(order[away.min(axis=1, initial=width) >= width])

    def _sampled_over_deciles(
        self, top: Sequence[Context], seen: NearDuplicates, rng: np.random.Generator | None
    ) -> tuple[Context, ...]:
        """Return EXPLAIN windows over the deciles of the feature's firing windows, of other documents while there are
        enough.
        """
        windows, documents = self._windows(Source.SAMPLED, Split.EXPLAIN)
        strata = deciles(windows.peak)
        groups = [np.flatnonzero(strata == d) for d in range(N_DECILES, 0, -1)]
        groups = [rng.permutation(g) for g in groups] if rng else groups
        order = round_robin_of_documents(groups, documents, (c.document for c in top))
        chosen = self._distinct(windows, order, self.config.explain_sampled, seen)
        chosen.sort(key=lambda i: -windows.peak[i])
        return tuple(
            self.folder.context(windows, i, Source.SAMPLED, Split.EXPLAIN, int(documents[i]), stratum=int(strata[i]))
            for i in chosen
        )

    def _random(self, taken: np.ndarray) -> tuple[Context, ...]:
        """Draw uniformly from all held-out windows; the silent ones stand for all silent windows of the split."""
        windows, documents = self._windows(Source.RANDOM, Split.HELD_OUT)
        order = self._apart_from(windows, self.rng.permutation(len(windows)), taken)
        n = self.config.held_out_random
        chosen, rest = order[:n], order[n:]
        silent = chosen[windows.peak[chosen] == 0]
        if len(silent) < _FEWEST_SILENT:
            # A feature that fires nearly everywhere: without a silent window there is no estimate for the whole corpus.
            silent = np.append(silent, rest[windows.peak[rest] == 0][: _FEWEST_SILENT - len(silent)])
        n_silent = self.folder.n_windows[Split.HELD_OUT] - self._n_firing(Split.HELD_OUT)
        weight = n_silent / len(silent) if len(silent) else None
        contexts = []
        for i in (*chosen, *(s for s in silent if s not in chosen)):
            is_silent = i in silent
            contexts.append(
                self.folder.context(
                    windows,
                    int(i),
                    Source.RANDOM,
                    Split.HELD_OUT,
                    int(documents[i]),
                    weight=weight if is_silent else None,
                    stratum=0 if is_silent else None,
                )
            )
        return tuple(contexts)

    def _sampled_by_design(self) -> tuple[Context, ...]:
        """Return held-out firing windows, equally many of each decile, each with the number of windows that it stands
        for.

        Two-phase sampling (Neyman 1938): the gathered sample is uniform over the firing windows. Its deciles are the
        strata, or as many equal parts as there are windows to choose. Within a stratum the choice is uniform again.
        Weight = N_firing / m * m_h / n_h. Where documents are set aside, m counts the windows of the other documents,
        which are a random part of all.
        """
        windows, documents = self._windows(Source.SAMPLED, Split.HELD_OUT)
        n = self.config.held_out_sampled
        if len(windows) == 0 or n == 0:
            return ()
        n_strata = min(n, N_DECILES)
        strata, decile = deciles(windows.peak, n_strata), deciles(windows.peak)
        members = [np.flatnonzero(strata == d) for d in range(1, n_strata + 1)]
        chosen = round_robin([self.rng.permutation(m) for m in members])[:n]
        n_chosen = Counter(int(strata[i]) for i in chosen)
        per_window = self._n_firing(Split.HELD_OUT) / len(windows)
        return tuple(
            self.folder.context(
                windows,
                i,
                Source.SAMPLED,
                Split.HELD_OUT,
                int(documents[i]),
                weight=per_window * len(members[strata[i] - 1]) / n_chosen[int(strata[i])],
                stratum=int(decile[i]),
            )
            for i in sorted(chosen, key=lambda i: -windows.peak[i])
        )

    def _n_firing(self, split: Split) -> int:
        return self.folder.firing_windows(self.feature)[SPLITS.index(split)]


def null_features(folder: EvidenceFolder, config: ContextsConfig, n: int, seed: int) -> list[int]:
    """Return `n` features whose labels stand in for "some other feature", the same for a whole label set."""
    enough = np.flatnonzero(
        (np.asarray(folder.n_firing_windows) >= np.array(config.min_firing_windows)[:, None]).all(axis=0)
    )
    salt = f"null:{seed}:".encode()
    return sorted(enough.tolist(), key=lambda f: hashlib.sha256(salt + str(f).encode()).digest())[:n]
