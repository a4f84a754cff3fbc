"""Are the scores worth trusting? Planted features, labels of known worth, a simulator that errs at a set rate.

    python benchmarks/validity.py [--quick] [--json]

Nothing is asked of an LLM. Corpora are drawn (benchmarks/planted_corpus.py) and gathered by the product's own pass;
contexts are chosen, simulated and scored by the product's own code. Four questions:

coverage    Does the 95% interval hold the true score? For the weighted score that is the correlation over all windows
            of all corpora; for the pooled one the correlation over the mixture that its contexts are drawn from (TOP of
            each corpus, and as many windows drawn from all). Bands of two standard errors come from the corpora.
ranking     Is the right label above each wrong one, on the same contexts, by the pooled score, by the weighted one, and
            by the one over all contexts together? The simulator errs in places: on a token it overlooks under one label
            it overlooks it under another. A last column shows what becomes of the order where every label has a luck of
            its own.
null        Are p-values of labels that belong to other features uniform (Kolmogorov-Smirnov), and is the
            false-discovery rate held in a label set that is half right and half unrelated?
breadth     How much do the pooled and the weighted score fall from the right label to one that is too broad?
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from planted_corpus import (
    GRADES,
    Errors,
    Feature,
    Text,
    activations,
    at,
    gather,
    label_tables,
    plant_features,
    simulate,
    write_text,
)

from labeler.evidence.choose import choose_evidence, null_features
from labeler.evidence.store import EvidenceFolder
from labeler.recipe import ContextsConfig, GatherConfig, Recipe
from labeler.records import Context, Score, Simulation, Source
from labeler.score.lookups import table_of
from labeler.score.null import benjamini_hochberg
from labeler.score.scores import simulation_scores
from labeler.score.simulate_by_lookup import predict_all, simulate_by_lookup
from labeler.steps.null import NullLabels
from labeler.steps.read import read_evidence

ESTIMANDS = {"pooled": "simulation", "weighted": "simulation_weighted"}
N_DOCUMENTS, N_FEATURES, N_NULL, FDR = 500, 16, 100, 0.05


@dataclass(frozen=True)
class World:
    """One corpus, gathered, with what every feature does on it."""

    text: Text
    values: np.ndarray  # [n_features, n_tokens] activations
    folder: EvidenceFolder
    held_out: np.ndarray  # [n_tokens] bool


def worlds(n: int, features: list[Feature], rng: np.random.Generator) -> Iterator[World]:
    for seed in rng.integers(1 << 30, size=n).tolist():
        text = write_text(N_DOCUMENTS, rng)
        values = np.stack([activations(f, text, rng) for f in features])
        with tempfile.TemporaryDirectory() as place:
            config = GatherConfig(seed=seed, chunk_tokens=1 << 22, batch_tokens=1 << 16)
            folder = gather(Path(place), text, values, config)
            yield World(text, values, folder, np.asarray(folder.corpus.held_out)[text.document])


def scored(contexts: tuple[Context, ...], predicted: np.ndarray, **compared: Any) -> dict[str, Score]:
    simulations = [Simulation(c, at(c, predicted)) for c in contexts]
    return {s.name: s for s in simulation_scores(simulations, **compared)}


# Coverage, ranking, breadth ------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """Of 1, t, s, t^2, s^2 and t s over all held-out tokens of all corpora, and over those of the TOP contexts."""

    everywhere: np.ndarray
    top: np.ndarray
    n_random: int = 0  # RANDOM tokens that the pooled scores were made of

    def truth(self) -> dict[str, float]:
        share = self.n_random / self.everywhere[0]
        return {"pooled": _correlation(self.top + share * self.everywhere), "weighted": _correlation(self.everywhere)}


def _sums(t: np.ndarray, s: np.ndarray) -> np.ndarray:
    return np.array([len(t), t.sum(), s.sum(), t @ t, s @ s, t @ s])


def _correlation(sums: np.ndarray) -> float:
    t, s, tt, ss, ts = sums[1:] / sums[0]
    return float((ts - t * s) / math.sqrt((tt - t * t) * (ss - s * s)))


def graded_labels(n_worlds: int, rng: np.random.Generator, contexts: ContextsConfig) -> dict[str, Any]:
    features = plant_features(N_FEATURES, rng)
    labels = [label_tables(feature, rng) for feature in features]
    sums = {(f, g): Sums(np.zeros(6), np.zeros(6)) for f in range(N_FEATURES) for g in GRADES}
    found: dict[tuple[int, int], dict[str, dict[str, Score]]] = {}
    alone: dict[tuple[int, int], dict[str, dict[str, Score]]] = {}
    for w, world in enumerate(worlds(n_worlds, features, rng)):
        for f in range(N_FEATURES):
            chosen = choose_evidence(world.folder, f, contexts).held_out
            truth = world.values[f].astype(np.float64)
            found[w, f] = {}
            for grade, table in labels[f].items():
                predicted = simulate(table, world.text, Errors(), np.random.default_rng([w, f]))
                found[w, f][grade] = scored(chosen, predicted)
                _add(sums[f, grade], world, chosen, truth, predicted)
            if w < n_worlds / 4:
                alone[w, f] = {g: scored(chosen, simulate(t, world.text, Errors(), rng)) for g, t in labels[f].items()}
    truths = {key: s.truth() for key, s in sums.items()}
    return {
        "coverage": {e: _coverage(found, truths, e) for e in ESTIMANDS},
        "ranking": {
            "pooled": _ranking(found, "simulation"),
            "weighted": _ranking(found, "simulation_weighted"),
            "all contexts": _ranking(found, "simulation_all"),
            "all, own luck": _ranking(alone, "simulation_all"),
        },
        "breadth": {
            e: {g: float(np.mean([truths[f, g][e] for f in range(N_FEATURES)])) for g in GRADES[:3]} for e in ESTIMANDS
        },
    }


def _add(sums: Sums, world: World, chosen: tuple[Context, ...], truth: np.ndarray, predicted: np.ndarray) -> None:
    sums.everywhere += _sums(truth[world.held_out], predicted[world.held_out])
    for context in chosen:
        if context.source is Source.TOP:
            sums.top += _sums(np.array(at(context, truth)), np.array(at(context, predicted)))
        # Silent windows beyond the RANDOM ten stand in the score too; there are none while ten are mostly silent.
        sums.n_random += len(context.tokens) * (context.source is Source.RANDOM)


def _coverage(
    found: dict[tuple[int, int], dict[str, dict[str, Score]]], truths: dict[Any, dict[str, float]], estimand: str
) -> dict[str, Any]:
    rows: dict[str, list[tuple[int, bool, float]]] = defaultdict(list)
    without = 0
    for (w, f), by_grade in found.items():
        for grade, scores in by_grade.items():
            score, truth = scores[ESTIMANDS[estimand]], truths[f, grade][estimand]
            if score.low is None or score.high is None:
                without += 1
                continue
            row = (w, score.low <= truth <= score.high, score.high - score.low)
            rows[grade].append(row)
            rows["all"].append(row)
    return {grade: _share(rows[grade]) for grade in ("all", *GRADES)} | {"without interval": without}


def _share(rows: list[tuple[int, bool, float]]) -> dict[str, float]:
    by_world = defaultdict(list)
    for w, covered, _ in rows:
        by_world[w].append(covered)
    means = [float(np.mean(c)) for c in by_world.values()]
    return {
        "covered": float(np.mean([c for _, c, _ in rows])),
        "two_errors": 2.0 * float(np.std(means, ddof=1)) / math.sqrt(len(means)),
        "median_width": float(np.median([width for *_, width in rows])),
        "n": len(rows),
    }


def _ranking(found: dict[tuple[int, int], dict[str, dict[str, Score]]], name: str) -> dict[str, float]:
    """How often the right label is above each wrong one, and above all; an undefined score is below every other."""
    above = np.array(
        [
            [_or_lowest(s["right"][name].value) > _or_lowest(s[g][name].value) for g in GRADES[1:]]
            for s in found.values()
        ]
    )
    by_grade = dict(zip(GRADES[1:], above.mean(axis=0).tolist(), strict=True))
    return by_grade | {"all of them": float(above.all(axis=1).mean()), "n": len(above)}


def _or_lowest(value: float | None) -> float:
    return -1.0 if value is None else value


# The null ------------------------------------------------------------------------------------------------------------


def unrelated_labels(n_worlds: int, rng: np.random.Generator) -> dict[str, Any]:
    """p-values of labels of other features, and false discoveries in label sets that are half right, half unrelated."""
    p_values: dict[str, list[float | None]] = {"looked up": [], "simulated": []}
    false_shares, found = [], []
    for _ in range(n_worlds):
        # Other features each time: the same label against the same null would give nearly the same p-value.
        features = plant_features(N_NULL + 1 + 2 * N_FEATURES, rng)
        (tested,) = (
            _tested(w, [label_tables(f, rng) for f in features], p_values, rng) for w in worlds(1, features, rng)
        )
        right, unrelated = tested
        half = len(right) // 2
        rates = benjamini_hochberg([*right[:half], *unrelated[half:]])
        discovered = [i for i, rate in enumerate(rates) if rate is not None and rate <= FDR]
        false_shares.append(sum(i >= half for i in discovered) / max(1, len(discovered)))
        found.append(sum(i < half for i in discovered) / half)
    return {
        "p_values": {name: _uniform([p for p in values if p is not None]) for name, values in p_values.items()},
        "false_discovery_rate": float(np.mean(false_shares)),
        "two_errors": 2.0 * float(np.std(false_shares, ddof=1)) / math.sqrt(n_worlds),
        "right_labels_found": float(np.mean(found)),
    }


def _tested(
    world: World, labels: list[dict[str, np.ndarray]], p_values: dict[str, list[float | None]], rng: np.random.Generator
) -> tuple[list[float | None], list[float | None]]:
    """p of the right label and of an unrelated one for every feature that is not in the null."""
    recipe = replace(Recipe(), n_null=N_NULL)
    null = NullLabels(world.folder, recipe)
    members = null_features(world.folder, recipe.contexts, N_NULL + 1, recipe.seed)
    evidence = [read_evidence(world.folder, f, recipe) for f in range(len(labels)) if f not in members]
    evidence = [e for e in evidence if e.too_little is None]
    right, unrelated = [], []
    rng.shuffle(evidence)  # type: ignore[arg-type]
    for e, stranger in zip(evidence, [*evidence[1:], evidence[0]], strict=True):
        others = predict_all([table_of(label) for label in null.for_feature(e.feature_index)], e.held_out)
        assert stranger.lookup is not None
        looked_up = simulation_scores(simulate_by_lookup(stranger.lookup, e.held_out), null=others)
        own, strange = (
            scored(e.held_out, simulate(labels[f]["right"], world.text, Errors(), rng), null=others)[
                "simulation"
            ].null_p
            for f in (e.feature_index, stranger.feature_index)
        )
        p_values["looked up"].append(next(s.null_p for s in looked_up if s.name == "simulation"))
        p_values["simulated"].append(strange)
        right.append(own)
        unrelated.append(strange)
    return right, unrelated


def _uniform(p: list[float]) -> dict[str, float]:
    """The Kolmogorov-Smirnov distance to the uniform distribution, and what share of such samples is as far from it.

    p-values of 100 null labels are multiples of 1/101, so a distance of up to .01 is theirs by nature.
    """
    x = np.sort(np.array(p))
    n = len(x)
    steps = np.arange(n + 1) / n
    distance = float(max((steps[1:] - x).max(), (x - steps[:-1]).max()))
    reach = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance  # Stephens 1970
    tail = 2.0 * sum((-1) ** (k - 1) * math.exp(-2.0 * (k * reach) ** 2) for k in range(1, 101))
    return {"n": n, "distance": distance, "p": min(1.0, tail), "at most .05": float((x <= 0.05).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the corpora: it runs; what it shows is rough")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end in one line of JSON")
    arguments = parser.parse_args()
    began = time.process_time()
    rng = np.random.default_rng(arguments.seed)
    n_graded, n_null = (3, 2) if arguments.quick else (20, 10)
    report = graded_labels(n_graded, rng, ContextsConfig()) | {"null": unrelated_labels(n_null, rng)}
    report["cpu_seconds"] = round(time.process_time() - began, 1)
    show(report)
    if arguments.json:
        print(json.dumps(report))


def show(report: dict[str, Any]) -> None:
    print(f"{'label':28}" + "".join(f"{e + ': covered, width':>32}" for e in ESTIMANDS))
    for grade in ("all", *GRADES):
        cells = [report["coverage"][e][grade] for e in ESTIMANDS]
        print(
            f"{grade:28}"
            + "".join(f"{c['covered']:19.1%} ±{c['two_errors']:5.1%}{c['median_width']:6.2f}" for c in cells)
        )
    print(f"\n{'right label above':28}" + "".join(f"{name:>16}" for name in report["ranking"]))
    for grade in (*GRADES[1:], "all of them"):
        print(f"{grade:28}" + "".join(f"{shares[grade]:16.1%}" for shares in report["ranking"].values()))
    print(f"\n{'true score':28}" + "".join(f"{g:>16}" for g in GRADES[:3]))
    for estimand, scores in report["breadth"].items():
        print(f"{estimand:28}" + "".join(f"{v:16.3f}" for v in scores.values()))
    null = report["null"]
    for name, u in null["p_values"].items():
        print(
            f"\nnull, {name}: n {u['n']}, Kolmogorov-Smirnov {u['distance']:.3f}, p {u['p']:.2f}, {u['at most .05']:.1%} at most .05",
            end="",
        )
    print(
        f"\nfalse discoveries at {FDR:.0%}: {null['false_discovery_rate']:.1%} ±{null['two_errors']:.1%}; right labels found: {null['right_labels_found']:.0%}"
    )
    print(f"{report['cpu_seconds']} CPU seconds")


if __name__ == "__main__":
    main()
