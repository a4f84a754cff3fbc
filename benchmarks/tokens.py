"""What a full result costs in tokens, counted with cl100k on real evidence, beside what published methods cost.

    python benchmarks/tokens.py [--features N] [--json]

A full result is a label from 40 contexts, its simulation on 20 held-out contexts of 32 tokens, and detection on 40. Prompts
are those that `label_feature` sends for features of the demo's SAE, on the Python standard library (400,000 tokens, gathered
at the first run and kept in the folder for temporary files). Nobody answers: the replies are what a perfect reader would
write, made from the truth of each feature. The label is the look-up label of the feature, or what fits of it in a line.

Tokens are those of the messages' text; what an endpoint adds around a message (some 7 tokens a request) is not counted.
Fails where the mean of all features passes a limit: 6,000 input tokens, 600 output tokens, 6 requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, quantiles

from cl100k import cl100k

from labeler.evidence.store import EvidenceFolder
from labeler.llm import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply
from labeler.pipeline import label_feature
from labeler.recipe import Recipe
from labeler.records import FeatureEvidence, State, Usage
from labeler.score.detection import detection_items
from labeler.score.simulate_prompts import spelled
from labeler.steps.read import read_evidence

CACHE = Path(tempfile.gettempdir()) / "labeler-benchmarks"
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "token_costs.json"
N_TOKENS = 400_000
LIMITS = {"requests": 6, "input": 6_000, "output": 600}
STAGES = ("explain", "simulate", "detection")

# The published methods, with how many contexts of 32 tokens each figure is for.
PUBLISHED = {
    "explainer, delphi": ("delphi_explainer 40x32", 40, "output~"),
    "simulation one token at a time, Bills et al.": ("oai_TBT ctx=32 (10 seqs)", 10, "output"),
    "simulation all at once, Bills et al.": ("oai_AAO ctx=32 (10 seqs)", 10, "output"),
    "simulation echoed as JSON": ("fork_JSON ctx=32 (10 seqs)", 10, "output_total(if model echoes schema)"),
    "detection, delphi, 5 a request": ("delphi_detection 100ex 5/prompt", 100, "output"),
    "detection, delphi, 20 a request": ("delphi_detection 100ex 20/prompt", 100, "output"),
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--features", type=int, default=100, help="random features that can be labelled")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    encoding = cl100k(CACHE)
    folder = EvidenceFolder(evidence())
    costs = asyncio.run(
        measure(folder, options.features, lambda text: len(encoding.encode(text, disallowed_special=())))
    )
    print(json.dumps(as_json(costs)) if options.json else table(costs))
    return int(any(mean(c.total[name] for c in costs) > limit for name, limit in LIMITS.items()))


def evidence() -> Path:
    """The demo's evidence, gathered once; a pass that was cut off continues."""
    from labeler.cli.demo import gather_demo
    from labeler.evidence.merge import is_merged

    if not is_merged(CACHE / "evidence"):
        gather_demo(CACHE, N_TOKENS, lambda what, done, total: print(f"\r{what} {done:,}", end="", file=sys.stderr))
        print(file=sys.stderr)
    return CACHE / "evidence"


@dataclass
class Cost:
    """Requests and tokens of one feature, by stage."""

    by_stage: dict[str, dict[str, int]] = field(default_factory=lambda: {s: dict.fromkeys(LIMITS, 0) for s in STAGES})

    @property
    def total(self) -> dict[str, int]:
        return {name: sum(stage[name] for stage in self.by_stage.values()) for name in LIMITS}


async def measure(folder: EvidenceFolder, n: int, count: Callable[[str], int]) -> list[Cost]:
    recipe = Recipe.from_names("openai:any", scorers=["detection"], simulate="top-and-random")
    costs: list[Cost] = []
    for feature in random.Random(0).sample(range(folder.n_features), folder.n_features):
        found = read_evidence(folder, feature, recipe)
        if found.too_little is not None or (len(found.explain), len(found.held_out)) < (40, 40):
            continue
        llm = TruthLLM(found, count)
        result = await label_feature(found, recipe, llm, [])
        score = result.score("simulation")
        if result.state is not State.LABELED or score is None or (score.value or 0.0) < 0.9:
            raise SystemExit(f"feature {feature}: the truth was not read back: {result.reason or score}")
        costs.append(llm.cost)
        if len(costs) == n:
            break
    return costs


class TruthLLM:
    """Writes what is true of one feature, and counts."""

    def __init__(self, found: FeatureEvidence, count: Callable[[str], int]) -> None:
        self.cost = Cost()
        self._found, self._count = found, count
        self._highest = max(c.peak for c in found.held_out)

    async def complete(self, prompt: Prompt) -> Reply:
        text = prompt.messages[-1].content
        reply = {"explain": self._label, "simulate": self._strengths, "detection": self._matches}[prompt.purpose](text)
        stage = self.cost.by_stage[prompt.purpose]
        stage["requests"] += 1
        stage["input"] += sum(self._count(m.content) for m in prompt.messages)
        stage["output"] += self._count(reply)
        return Reply(reply, "stop", Usage(1), prompt.model)

    async def echo(self, prompt: EchoPrompt) -> Echo:
        raise NotImplementedError

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        raise NotImplementedError

    def _label(self, text: str) -> str:
        assert self._found.lookup is not None
        return f"LABEL: {self._found.lookup.text}"

    def _strengths(self, text: str) -> str:
        shown = text.partition("\n\nContext 1\n")[2].rpartition("\n\nThe feature detects")[0].split("\n\nContext ")
        by_lines = {"\n".join(map(spelled, c.tokens)): c for c in self._found.held_out}
        reply = {}
        for n, lines in enumerate(shown, start=1):
            context = by_lines[lines if n == 1 else lines.partition("\n")[2]]
            reply[str(n)] = named(
                [*map(spelled, context.tokens)], [round(10 * a / self._highest) for a in context.activations]
            )
        return json.dumps(reply, separators=(",", ":"), ensure_ascii=False)

    def _matches(self, text: str) -> str:
        fires = {item.shown for item in detection_items(self._found.held_out) if item.positive}
        lines = text.partition("Contexts:\n")[2].rpartition("\n\nThe feature detects")[0].split("\n")
        return ",".join([*(line[:2] for line in lines if line[3:] in fires), "0"])


def named(tokens: Sequence[str], strengths: Sequence[int]) -> dict[str, int]:
    """The shortest way to name them: a token once where all of its kind are alike, else each that fires."""
    places = defaultdict(list)
    for token, strength in zip(tokens, strengths, strict=True):
        places[token].append(strength)
    reply = {}
    for token, found in places.items():
        if len(set(found)) == 1:
            reply |= {token: found[0]} if found[0] else {}
        else:
            reply |= {f"{token}#{k}": strength for k, strength in enumerate(found, start=1) if strength}
    return reply


def as_json(costs: Sequence[Cost]) -> dict[str, object]:
    return {
        "features": len(costs),
        **{stage: spread([c.by_stage[stage] for c in costs]) for stage in STAGES},
        "total": spread([c.total for c in costs]),
    }


def spread(rows: Sequence[dict[str, int]]) -> dict[str, dict[str, float]]:
    columns = {name: [row[name] for row in rows] for name in LIMITS}
    return {
        name: {"mean": mean(values), "p95": quantiles(values, n=20)[-1], "max": max(values)}
        for name, values in columns.items()
    }


def table(costs: Sequence[Cost]) -> str:
    lines = [f"{len(costs)} features of the demo's SAE; tokens of cl100k, mean (95th percentile, highest)", ""]
    lines += [f"{'stage':<58}{'requests':>9}{'input':>24}{'output':>20}"]
    rows = {stage: [c.by_stage[stage] for c in costs] for stage in STAGES} | {"all": [c.total for c in costs]}
    contexts = {"explain": "40 contexts", "simulate": "20 contexts of 32", "detection": "40 contexts", "all": ""}
    for stage, of_stage in rows.items():
        s = spread(of_stage)
        cells = [f"{s[n]['mean']:,.0f} ({s[n]['p95']:,.0f}, {s[n]['max']:,.0f})" for n in ("input", "output")]
        lines.append(
            f"{f'{stage}, {contexts[stage]}'.rstrip(', '):<58}{s['requests']['mean']:>9.1f}{cells[0]:>24}{cells[1]:>20}"
        )
    lines.append(f"{'limit':<58}{LIMITS['requests']:>9}{LIMITS['input']:>24,}{LIMITS['output']:>20,}")
    within = sum(all(c.total[n] <= LIMITS[n] for n in LIMITS) for c in costs)
    lines += [
        "",
        f"{within} of {len(costs)} features are within all limits each.",
        "",
        "Published methods, by their own prompts:",
    ]
    published = json.loads(GOLDEN.read_text())
    for name, (key, n_contexts, output) in PUBLISHED.items():
        entry = published[key]
        name = f"{name}, {n_contexts} contexts"
        lines.append(f"{name:<58}{entry['calls']:>9,}{entry['input_total']:>24,}{entry[output]:>20,}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
