"""Terminal output: records in, Rich renderables out. Nothing here prints by itself.

Texts of models and corpora are data: they enter Rich as `Text`, never as markup, and control characters become
visible signs, so that no token can move the cursor or recolor the screen.
"""

from __future__ import annotations

import math
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

from labeler.headline import headline
from labeler.numbers import number
from labeler.records import (
    HISTOGRAM_EDGES,
    Context,
    FeatureStatistics,
    LabeledFeature,
    Score,
    Simulation,
    Source,
    Split,
    State,
)

if TYPE_CHECKING:
    from labeler.sae.train import TrainProgress

STATE_STYLES = {
    State.LABELED: "green",
    State.RARE: "yellow",
    State.SILENT: "bright_black",
    State.FAILED: "red",
    State.PENDING: "cyan",
}
_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥", "\x7f": "␡"}
_BLOCKS = " ▁▂▃▄▅▆▇█"
# From gray to full color at about one lightness: white text reads on all of it, and it shows on black and on white.
_TRUTH = ((98, 110, 124), (11, 95, 208))
_SIMULATED = ((122, 108, 92), (176, 72, 6))


def visible(text: str) -> str:
    """Replace every control, format and surrogate character of `text` by a visible sign."""
    return "".join(_sign(c) for c in text)


def _sign(char: str) -> str:
    if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char
    if char in _SIGNS:
        return _SIGNS[char]
    return chr(0x2400 + ord(char)) if ord(char) < 32 else f"‹{ord(char):04X}›"


def stdout() -> Console:
    """Return the console for results. It is wide enough for tables even if its width is unknown."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def is_plain(console: Console) -> bool:
    """Return True where colors do not show: a pipe, a file, NO_COLOR."""
    return console.color_system is None or console.no_color


@dataclass(frozen=True)
class _ByConsole:
    """A drawing with colors, or with brackets where the console has none."""

    draw: Callable[[bool], ConsoleRenderable]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.draw(is_plain(console))


# Contexts


def painted(
    context: Context,
    maximum: float,
    predicted: Sequence[float] | None = None,
    *,
    predicted_maximum: float | None = None,
    plain: bool = False,
) -> Text:
    """Draw the tokens of a context, each on a background as strong as its activation relative to `maximum`.

    With `predicted`, a second line has the same tokens on backgrounds of the prediction, relative to
    `predicted_maximum` (default: the highest prediction here). With `plain`, a firing token is `<<token|1..10>>`.
    """
    text = _line(context.tokens, context.activations, maximum, _TRUTH, plain)
    if predicted is not None:
        highest = max(predicted, default=0.0) if predicted_maximum is None else predicted_maximum
        text.append("\n").append_text(_line(context.tokens, predicted, highest, _SIMULATED, plain))
    return text


def _line(tokens: Sequence[str], values: Sequence[float], maximum: float, ramp: tuple[Any, Any], plain: bool) -> Text:
    text = Text(overflow="fold")
    for token, value in zip(tokens, values, strict=True):
        level = min(1.0, value / maximum) if maximum > 0 and value > 0 else 0.0
        if level == 0:
            text.append(visible(token))
        elif plain:
            text.append(f"<<{visible(token)}|{max(1, round(level * 10))}>>")
        else:
            text.append(visible(token), _background(level, ramp))
    return text


def _background(level: float, ramp: tuple[Any, Any]) -> Style:
    red, green, blue = (round(low + (high - low) * level) for low, high in zip(*ramp, strict=True))
    return Style(color="#ffffff", bgcolor=f"#{red:02x}{green:02x}{blue:02x}", bold=level >= 0.5)


def _pair(simulation: Simulation, maximum: float, predicted_maximum: float, plain: bool) -> Table:
    """Draw truth and simulation of one held-out context, one above the other."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    context = simulation.context
    grid.add_row("truth", painted(context, maximum, plain=plain))
    if simulation.predicted is None:
        grid.add_row("simulated", Text(f"none: {visible(simulation.reason or '')}", style="italic red"))
    else:
        grid.add_row("simulated", _line(context.tokens, simulation.predicted, predicted_maximum, _SIMULATED, plain))
    if simulation.n_flagged:
        few = f"{simulation.n_flagged} of its strengths rest on less than a thousandth of the simulator's probability"
        grid.add_row("", Text(few, style="italic dim"))
    return grid


# One feature


def feature_panel(
    result: LabeledFeature, n_contexts: int = 3, *, explained: Iterable[Context] = ()
) -> ConsoleRenderable:
    """Draw everything known of one feature, with up to `n_contexts` contexts of each source and split.

    `explained` holds what the explainer saw (`evidence.of(Split.EXPLAIN)`); held-out contexts are in the result.
    """
    shown = tuple(explained)
    return _ByConsole(lambda plain: _panel(result, shown, n_contexts, plain))


def _panel(result: LabeledFeature, explained: Sequence[Context], n_contexts: int, plain: bool) -> Panel:
    title = Text.assemble(f"feature {result.feature_index}  ", (result.state.value, STATE_STYLES[result.state]))
    if result.statistics.mark is not None:
        title.append(f"  {result.statistics.mark}", "yellow")
    parts: list[ConsoleRenderable] = [_headline(result), Text(""), _numbers(result)]
    if any(result.statistics.histogram):
        parts += [Text(""), activation_histogram(result.statistics.histogram)]
    for source in Source:
        parts += _explained(result, [c for c in explained if c.source is source], n_contexts, plain)
        parts += _simulated(result, [s for s in result.simulations if s.context.source is source], n_contexts, plain)
    return Panel(Group(*parts), title=title, title_align="left", padding=(1, 2))


def _headline(result: LabeledFeature) -> Text:
    if result.label is None:
        return Text(f"no label: {visible(result.reason or '')}", style="italic")
    return Text.assemble((visible(result.label.text), "bold"), (f"\nby {visible(result.label.explainer)}", "dim"))


def _numbers(result: LabeledFeature) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    if result.origin is not None:
        grid.add_row("how", Text(visible(f"{result.origin.method}: {result.origin.why}")))
        for c in result.origin.candidates:
            score = "no score" if c.score is None else number(c.score)
            kept = "kept" if c.kept else "not kept"
            grid.add_row("", Text(f"{c.decided}, {kept}, {score} on {c.n} contexts set aside: {visible(c.text)}"))
    if result.label is not None:
        for name, text in _score_lines(result):
            grid.add_row(Text(name), Text(text))
    s = result.statistics
    grid.add_row("fires on", Text(_fires_on(s)))
    mean = f"mean {s.mean:.3g} where it fires" if s.mean else None
    if known := [text for text in (mean, f"maximum {s.max:.3g}" if s.max else None) if text is not None]:
        grid.add_row("activation", Text(", ".join(known)))
    return grid


def _fires_on(s: FeatureStatistics) -> str:
    if s.n_firings is None or s.n_tokens is None or s.n_firing_windows is None:
        stated = "" if s.density is None else f" ({percent(s.density)} of tokens, as those say who gathered it)"
        return f"{sum(s.n_firing_windows_by_split.values()):,} windows that are known{stated}"
    return (
        f"{s.n_firings:,} of {s.n_tokens:,} tokens ({percent(s.density)}), "
        f"in {s.n_firing_windows:,} of {s.n_windows:,} windows"
    )


def _score_lines(result: LabeledFeature) -> Iterable[tuple[str, str]]:
    score = result.score("simulation")
    if score is None:
        yield "score", "not made"
        return
    yield "score", with_interval(score)
    if score.n_failed:
        yield "left out", f"{score.n_failed} sequences without a usable simulation"
    if score.null_p is not None or score.null_z is not None:
        z, p = number(score.null_z, 1), number(score.null_p, 3)
        yield "null", f"z {z}, p {p} ({score.null_n} labels of other features)"
    is_baseline = result.label is not None and result.label.explainer == "lookup"
    yield "baseline", number(score.baseline_token_lookup) + (" (this label is the baseline)" if is_baseline else "")
    for other in result.scores:
        if other is not score:
            name = visible(other.name.removeprefix("simulation_").replace("_", " "))
            yield name, with_interval(other) + _beside(other, score)


def _beside(score: Score, main: Score) -> str:
    """Write further facts of a score: `; token look-up 0.81; 3 left out`."""
    baseline = score.baseline_token_lookup
    known = [f"token look-up {number(baseline)}"] if baseline is not None else []
    if score.n_failed and score.n_failed != main.n_failed:
        known.append(f"{score.n_failed} left out")
    return "".join(f"; {part}" for part in known)


def with_interval(score: Score) -> str:
    """Write `0.72  [0.61, 0.80], 20 sequences`, or the reason why there is no value."""
    if score.value is None:
        return f"undefined: {visible(score.reason or '')}"
    known = score.low is not None and score.high is not None
    interval = f"  [{number(score.low)}, {number(score.high)}]" if known else ""
    return f"{number(score.value)}{interval}" + (f", {score.n} sequences" if score.n else "")


def _explained(result: LabeledFeature, contexts: Sequence[Context], n: int, plain: bool) -> list[ConsoleRenderable]:
    kept = [c for c in contexts if c.split is Split.EXPLAIN]
    lines = [Padding(painted(c, result.statistics.max or 0.0, plain=plain), (0, 0, 1, 2)) for c in _spread(kept, n)]
    return [_heading(kept[0].source, Split.EXPLAIN, len(lines), len(kept)), *lines] if lines else []


def _simulated(
    result: LabeledFeature, simulations: Sequence[Simulation], n: int, plain: bool
) -> list[ConsoleRenderable]:
    highest = max((max(s.predicted, default=0.0) for s in result.simulations if s.predicted is not None), default=0.0)
    pairs = [
        Padding(_pair(s, result.statistics.max or 0.0, highest, plain), (0, 0, 1, 2)) for s in _spread(simulations, n)
    ]
    if not pairs:
        return []
    return [_heading(simulations[0].context.source, Split.HELD_OUT, len(pairs), len(simulations)), *pairs]


def _spread(members: Sequence[Any], n: int) -> list[Any]:
    """Choose `n` members evenly from first to last, since sampled contexts are sorted by peak."""
    if n < 2 or len(members) <= n:
        return list(members[: max(0, n)])
    return [members[round(i * (len(members) - 1) / (n - 1))] for i in range(n)]


def _heading(source: Source, split: Split, shown: int, total: int) -> Text:
    return Text.assemble(("\n" + source.name, "bold"), f"  {split.name}  ", (f"{shown} of {total}", "dim"))


def activation_histogram(histogram: Sequence[int]) -> Text:
    """Draw firing tokens per half-octave of activation as block characters, from the lowest to the highest bin."""
    filled = [i for i, n in enumerate(histogram) if n]
    first, last = filled[0], filled[-1]
    bars = _bars(histogram[first : last + 1])
    low = HISTOGRAM_EDGES[first - 1] if first else 0.0
    high = f"{HISTOGRAM_EDGES[last]:.3g}" if last < len(HISTOGRAM_EDGES) else f"over {HISTOGRAM_EDGES[-1]:.3g}"
    return Text.assemble(("activations  ", "dim"), f"{low:.3g} ", (bars, "blue"), f" {high}", ("  (log scale)", "dim"))


def _bars(counts: Sequence[int]) -> str:
    """Draw one block per count. Every nonzero count shows."""
    highest = max(counts)
    return "".join(_BLOCKS[math.ceil(n / highest * (len(_BLOCKS) - 1))] for n in counts)


# Many features


def score_histogram(values: Iterable[float], undefined_count: int) -> ConsoleRenderable:
    """Draw labels per 0.1 of score. Undefined scores are counted below, never drawn at 0."""
    scores = list(values)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    bins = Counter(min(9, math.floor(s * 10 + 1e-9)) for s in scores)
    highest = max(bins.values(), default=1)
    for i in range(min(0, *bins), 10) if bins else ():
        edges = f"{number(i / 10, 1)} to {number((i + 1) / 10, 1)}"
        grid.add_row(edges, Text(_bar(bins[i] / highest, 40), "blue"), f"{bins[i]:,}")
    middle = f"median {number(median(scores))} of {len(scores):,}" if scores else "no scores"
    below = f"{middle}; {undefined_count:,} undefined" if undefined_count else middle
    return Group(grid, Text(below, style="dim")) if scores else Text(below, style="dim")


def _bar(share: float, width: int) -> str:
    """Draw a horizontal bar, exact to an eighth of a character. Every nonzero value shows."""
    eighths = math.ceil(share * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def coverage_table(counts: Mapping[State, int]) -> Table:
    """Draw a table of the features in each state, with their share."""
    total = sum(counts.values())
    table = _table("state", "features", "share", "", right=("features", "share"))
    for state in State:
        if n := counts.get(state, 0):
            style = STATE_STYLES[state]
            table.add_row(Text(state.value, style), f"{n:,}", percent(n / total), Text(_bar(n / total, 30), style))
    table.add_section()
    table.add_row("all", f"{total:,}", "", "")
    return table


def quality_table(quality: Mapping[str, Any]) -> Table:
    """Draw a table of the SAE's own quality (the manifest's `quality`)."""
    table = _table("the SAE itself", "", right=("",))
    for name, key, show in (
        ("features active per token (L0)", "l0", lambda x: number(x, 1)),
        ("variance explained", "explained_variance", percent),
        ("variance unexplained (FVU)", "fvu", lambda x: number(x, 3)),
        ("features that never fired", "dead_share", percent),
        ("features in 1 to 19 windows", "rare_share", percent),
        ("tokens reconstructed", "n_tokens_reconstructed", lambda x: f"{x:,}"),
    ):
        found = headline(quality, key)
        text = "—" if found.value is None else show(found.value)
        table.add_row(name, text if found.over_all is None else f"{text} ({show(found.over_all)} over all tokens)")
    if quality.get("massive_share") is not None:
        what = f"massive tokens, norm over {quality['massive_multiple']:.0f} times the median"
        table.add_row(what, percent(quality["massive_share"]))
    if any(quality.get("density_features") or ()):
        table.add_row("densities, features by share of tokens", density_bars(quality))
    for name, text in _loss_rows(quality):
        table.add_row(name, text)
    return table


def density_bars(quality: Mapping[str, Any]) -> Text:
    """Draw the manifest's density histogram as block characters, from the lowest to the highest filled bin."""
    counts, edges = quality["density_features"], quality["density_log10_edges"]
    filled = [i for i, n in enumerate(counts) if n]
    low, high = (f"{10 ** edges[i]:.1e}" for i in (filled[0], filled[-1] + 1))
    return Text.assemble(f"{low} ", (_bars(counts[filled[0] : filled[-1] + 1]), "blue"), f" {high}")


def _loss_rows(quality: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Return the rows about cross-entropy, or none if it was not measured."""
    if "cross_entropy_recovered" not in quality:
        return
    recovered = quality["cross_entropy_recovered"]
    if recovered is None:
        yield "cross-entropy recovered", f"undefined: {visible(quality.get('cross_entropy_reason') or '')}"
        return
    yield "cross-entropy recovered", f"{percent(recovered)} against the mean"
    zero = quality.get("cross_entropy_recovered_zero")
    yield "", "undefined against zeros" if zero is None else f"{percent(zero)} against zeros"
    yield (
        "cross-entropy, nats per token",
        " ".join(
            f"{number(quality[key], 3)} {what}"
            for key, what in (
                ("cross_entropy", "as it is,"),
                ("cross_entropy_sae", "reconstructed,"),
                ("cross_entropy_mean", "at the mean"),
            )
        ),
    )


def training_line(progress: TrainProgress) -> str:
    """Write the state of training in one line."""
    explained = "—" if progress.explained_variance is None else percent(progress.explained_variance)
    return (
        f"loss {progress.loss:.4g}, L0 {number(progress.l0, 1)}, explained {explained}, "
        f"dead {percent(progress.dead_share)}"
    )


def training_table(final: TrainProgress) -> Table:
    """Draw a table of the final figures of training, on its last batch."""
    table = _table("at the end of training", "", right=("",))
    explained = final.explained_variance
    for name, value in (
        ("tokens", f"{final.n_tokens:,} in {final.step:,} steps, {final.tokens_per_second:,.0f} a second"),
        ("loss", f"{final.loss:.4g}"),
        ("features active per token (L0)", number(final.l0, 1)),
        ("variance explained", "—" if explained is None else percent(explained)),
        ("dead features", percent(final.dead_share)),
    ):
        table.add_row(name, value)
    return table


def label_table(rows: Iterable[LabeledFeature], title: str | None = None) -> Table:
    """Draw one line per feature, in the order given: score with interval, baseline, density, label or reason."""
    numeric = ("feature", "score", "baseline", "density")
    table = _table("feature", "score", "interval", "baseline", "density", "label", right=numeric)
    table.title, table.title_justify = Text(title, "bold") if title else None, "left"
    for feature in rows:
        density = percent(feature.statistics.density)
        table.add_row(str(feature.feature_index), *_score_cells(feature.score("simulation")), density, _label(feature))
    return table


def _score_cells(score: Score | None) -> tuple[str, str, str]:
    if score is None:
        return "", "", ""
    known = score.low is not None and score.high is not None
    interval = f"{number(score.low)} to {number(score.high)}" if known else ""
    value = "undefined" if score.value is None else number(score.value)
    return value, interval, number(score.baseline_token_lookup)


def _label(feature: LabeledFeature) -> Text:
    if feature.label is None:
        return Text(f"{feature.state.value}: {visible(feature.reason or '')}", STATE_STYLES[feature.state])
    score = feature.score("simulation")
    text = Text(visible(feature.label.text))
    if score is not None and score.value is None:
        text.append(f"  (no score: {visible(score.reason or '')})", "dim")
    return text


def label_sets_table(label_sets: Iterable[Mapping[str, Any]]) -> Group:
    """Draw some lines for each label set, from mappings, in 80 columns. A missing value shows as a dash.

    Keys: id, name, hookpoint, explainer, simulator, evidence, corpus, recipe, n_labeled, n_features, n_failed,
    median_score, cost_usd, created_at.
    """
    return Group(*(_label_set(row) for row in label_sets))


def _label_set(row: Mapping[str, Any]) -> Group:
    def said(key: str) -> str:
        return visible(str(row.get(key) or "—"))

    labeled, total, failed, cost = (row.get(key) for key in ("n_labeled", "n_features", "n_failed", "cost_usd"))
    of = "" if total is None else f" of {total:,} features"
    numbers = [
        "—" if labeled is None else f"{labeled:,} labels{of}",
        *([f"{failed:,} failed"] if failed else []),
        f"median score {number(row.get('median_score'))}",
        "cost unknown" if cost is None else f"${cost:,.2f}",
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    by = said("explainer") + (f", simulated by {said('simulator')}" if said("simulator") != said("explainer") else "")
    for name, text in (
        ("hookpoint", said("hookpoint")),
        ("by", by),
        ("evidence", said("evidence")),
        ("corpus", said("corpus")),
        ("recipe", said("recipe")),
        ("made", said("created_at")[:16]),
    ):
        grid.add_row(name, Text(text))
    title = Text.assemble((f"{said('id')}  ", "bold"), (said("name"), "bold"), overflow="fold")
    return Group(title, Padding(Group(Text("; ".join(numbers)), grid), (0, 0, 1, len(said("id")) + 2)))


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in columns:
        numeric = name in right
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    return table


def percent(share: float | None) -> str:
    if share is None:
        return "unknown"
    return f"{share:.3%}" if 0 < share < 0.001 else f"{share:.1%}"


# Progress

_BEAT_SECONDS = 1.0  # time between checks whether a line is due


def progress(
    console: Console | None = None, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> Progress:
    """Show a progress bar on stderr, with rate and time left. Without a terminal, write a line every `every` seconds."""
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        _Done(),
        _Rate(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    if console.is_terminal:
        return Progress(*columns, console=console, get_time=clock, expand=True)
    return _Lines(*columns, console=console, get_time=clock, every=every)


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_done(task))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task), style="dim")


def _done(task: Task) -> str:
    if task.fields.get("is_one_step"):
        return "done" if task.finished else ""
    return f"{task.completed:,.0f}" if task.total is None else f"{task.completed:,.0f} of {task.total:,.0f}"


def _rate(task: Task) -> str:
    speed = _speed(task)
    return "" if not speed else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"


def _speed(task: Task) -> float | None:
    """Return the mean speed since the task began; None in its first second.

    Work that is reported in bursts, such as documents that are tokenized together, has no other speed.
    """
    if task.fields.get("is_one_step"):
        return None
    seconds = task.elapsed if task.finished_time is None else task.finished_time
    n = task.completed - task.fields.get("before", 0)
    return n / seconds if seconds is not None and seconds >= 1 and n > 0 else None


def _seconds_left(task: Task) -> float | None:
    speed = _speed(task)
    return None if speed is None or task.total is None or task.finished else (task.total - task.completed) / speed


class _Lines(Progress):
    """Progress for logs, without cursor movement: a line at the start, one every `every` seconds, one at the end.

    The lines come even while a task makes no progress, so that a slow step does not look like one that hangs.
    """

    def __init__(self, *columns: ProgressColumn, console: Console, get_time: Callable[[], float], every: float) -> None:
        super().__init__(*columns, console=console, get_time=get_time, disable=True)
        self._every = every
        self._last: dict[TaskID, float] = {}
        self._ended: set[TaskID] = set()
        self._current: TaskID | None = None
        self._stopped = threading.Event()
        self._beat = threading.Thread(target=self._beat_until_stopped, daemon=True)

    def start(self) -> None:
        super().start()
        self._beat.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._beat.is_alive():
            self._beat.join()
        super().stop()

    def _beat_until_stopped(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            self.say_if_due()

    def say_if_due(self) -> None:
        """Write the state of the current task, if the last line is long enough ago."""
        with self._lock:
            if self._current is not None and self._current not in self._ended:
                self._say(self._current)

    def add_task(self, *args: Any, **fields: Any) -> TaskID:
        task = super().add_task(*args, **fields)
        with self._lock:
            self._last[task] = -math.inf
            self._say(task)
        return task

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        with self._lock:
            self._say(task_id)

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        with self._lock:
            self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        task, now = self._tasks[task_id], self.get_time()
        self._current = task_id
        ends = task.finished and task_id not in self._ended
        if not ends and now - self._last[task_id] < self._every:
            return
        self._last[task_id] = now
        if task.finished:
            self._ended.add(task_id)
        remaining = _seconds_left(task)
        left = "" if remaining is None else f"{remaining:,.0f} s left"
        # Without a rate, the elapsed time shows that something happens.
        since = f"for {task.elapsed:,.0f} s" if (task.elapsed or 0) >= 1 and not (_rate(task) or task.finished) else ""
        words = [task.description, _done(task), _rate(task), left or since]
        self.console.print("  ".join(w for w in words if w), markup=False, highlight=False, soft_wrap=True)
