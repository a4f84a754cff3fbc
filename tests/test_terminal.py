"""The terminal: texts of models and corpora are shown, never obeyed; what is undefined never looks like 0."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Literal

import pytest
from rich.color_triplet import ColorTriplet
from rich.console import Console, ConsoleRenderable
from rich.style import Style
from rich.text import Text

from labeler.records import (
    HISTOGRAM_EDGES,
    Context,
    FeatureStatistics,
    Label,
    LabeledFeature,
    Score,
    Simulation,
    Source,
    Split,
    State,
)
from labeler.sae.train import TrainProgress
from labeler.terminal import (
    activation_histogram,
    coverage_table,
    feature_panel,
    label_sets_table,
    label_table,
    number,
    painted,
    progress,
    quality_table,
    score_histogram,
    training_line,
    training_table,
    visible,
)

HOSTILE = "[bold red]x[/bold red]\x1b[2J\x1b]0;owned\x07\u202e"
SHOWN = "[bold red]x[/bold red]␛[2J␛]0;owned␇‹202E›"


@pytest.fixture(autouse=True)
def _neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's own terminal asks of Rich is not under test."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def shown(renderable: ConsoleRenderable | str, *, colour: bool = False, width: int = 160) -> str:
    system: Literal["truecolor"] | None = "truecolor" if colour else None
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, color_system=system, legacy_windows=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def statistics(n_firings: int = 40) -> FeatureStatistics:
    histogram = [0] * (len(HISTOGRAM_EDGES) + 1)
    histogram[20], histogram[22] = n_firings // 4, n_firings - n_firings // 4
    splits = {Split.EXPLAIN: 20, Split.HELD_OUT: 20}
    return FeatureStatistics(
        5000, n_firings, 160, 40, splits, {Split.EXPLAIN: 96, Split.HELD_OUT: 64}, 2.0, 8.0, tuple(histogram)
    )


def context(
    tokens: tuple[str, ...] = ("def", "\n", " Q"),
    activations: tuple[float, ...] = (0.0, 4.0, 8.0),
    source: Source = Source.TOP,
    split: Split = Split.HELD_OUT,
) -> Context:
    return Context(0, 1, split, source, tuple(range(len(tokens))), tokens, activations)


def labeled(score: Score | None, *, text: str = "the letter Q", explainer: str = "openai:m") -> LabeledFeature:
    simulations = (
        Simulation(context(), (0.0, 0.0, 9.0)),
        Simulation(context(source=Source.RANDOM, activations=(0.0, 0.0, 0.0)), None, "malformed: 2 for 3"),
    )
    scores = (score,) if score else ()
    return LabeledFeature(5, State.LABELED, statistics(), None, Label(text, explainer), scores, simulations)


SCORE = Score("simulation", 0.72, None, 0.61, 0.8, 20, 1, 4.2, 0.048, 20, 0.55)


@pytest.mark.parametrize("token", ["\x1b[31m", "\x9b2J", "\r", "\x00", "\x7f", "\u202e", "\u2028", "\ud800", "\u200b"])
def test_control_characters_become_signs(token: str) -> None:
    sign = visible(token)
    assert sign.isprintable()
    assert sign != ""
    assert token not in sign


def test_ordinary_text_is_left_alone() -> None:
    assert visible("naïve 日本 [x] «q»") == "naïve 日本 [x] «q»"
    assert visible("a\n\tb") == "a⏎⇥b"


@pytest.mark.parametrize("colour", [False, True])
def test_hostile_texts_are_shown_and_not_obeyed(colour: bool) -> None:
    contexts = [context(tokens=(HOSTILE,), activations=(1.0,), split=Split.EXPLAIN)]
    feature = labeled(SCORE, text=HOSTILE, explainer=HOSTILE)
    failed = LabeledFeature(6, State.FAILED, statistics(), HOSTILE)
    undefined = labeled(Score("simulation", None, HOSTILE))
    screen = "".join(
        shown(r, colour=colour, width=300)
        for r in (
            feature_panel(feature, explained=contexts),
            feature_panel(failed),
            feature_panel(undefined),
            label_table([feature, failed, undefined], HOSTILE.replace("\x1b", "").replace("\x07", "")),
            label_sets_table([{"id": HOSTILE, "name": HOSTILE, "corpus": HOSTILE}]),
        )
    )
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", screen)
    assert without_colours.count(SHOWN) >= 9
    assert "\x1b" not in without_colours
    assert "\x07" not in screen


def background(style: str | Style) -> ColorTriplet:
    assert isinstance(style, Style)
    assert style.bgcolor is not None
    return style.bgcolor.get_truecolor()


def test_painted_colours_only_what_fires_and_the_maximum_most() -> None:
    text = painted(context(), 8.0)
    assert text.plain == "def⏎ Q"
    backgrounds = {text.plain[s.start : s.end]: background(s.style) for s in text.spans}
    assert set(backgrounds) == {"⏎", " Q"}
    assert backgrounds[" Q"].blue > backgrounds["⏎"].blue


def test_without_colours_firing_tokens_are_bracketed() -> None:
    assert painted(context(), 8.0, plain=True).plain == "def<<⏎|5>><< Q|10>>"
    assert painted(context(activations=(0.0, 0.0, 0.01)), 8.0, plain=True).plain == "def⏎<< Q|1>>"


def test_the_simulation_stands_under_the_truth() -> None:
    truth, simulated = painted(context(), 8.0, (5.0, 0.0, 0.0), predicted_maximum=10.0, plain=True).plain.split("\n")
    assert truth == "def<<⏎|5>><< Q|10>>"
    assert simulated == "<<def|5>>⏎ Q"


def test_a_silent_context_and_a_zero_maximum_are_not_painted() -> None:
    assert painted(context(activations=(0.0, 0.0, 0.0)), 0.0).spans == []


def test_the_panel_chooses_brackets_by_the_console() -> None:
    panel = feature_panel(labeled(SCORE))
    assert "<< Q|10>>" in shown(panel)
    assert "<<" not in shown(panel, colour=True)


def test_the_panel_says_which_strengths_rest_on_little() -> None:
    feature = labeled(SCORE)
    first, *others = feature.simulations
    assert "rest on less" not in shown(feature_panel(feature), width=200)
    flagged = replace(feature, simulations=(replace(first, n_flagged=2), *others))
    few = "2 of its strengths rest on less than a thousandth of the simulator's probability"
    assert shown(feature_panel(flagged), width=200).count(few) == 1


def test_the_panel_says_all_there_is() -> None:
    seen = [context(split=Split.EXPLAIN), context(source=Source.SAMPLED, split=Split.EXPLAIN)]
    lines = [
        " ".join(line.strip("│ \n").split())
        for line in shown(feature_panel(labeled(SCORE), explained=seen)).split("\n")
    ]
    for expected in (
        "the letter Q",
        "by openai:m",
        "score 0.72 [0.61, 0.80], 20 sequences",
        "left out 1 sequences without a usable simulation",
        "null z 4.2, p 0.048 (20 labels of other features)",
        "baseline 0.55",
        "fires on 40 of 5,000 tokens (0.8%), in 40 of 160 windows",
        "activation mean 2 where it fires, maximum 8",
        "activations 0.707 ▃ █ 2 (log scale)",
        "TOP EXPLAIN 1 of 1",
        "TOP HELD_OUT 1 of 1",
        "SAMPLED EXPLAIN 1 of 1",
        "RANDOM HELD_OUT 1 of 1",
        "truth def<<⏎|5>><< Q|10>>",
        "simulated def⏎<< Q|10>>",
        "simulated none: malformed: 2 for 3",
    ):
        assert expected in lines


def test_the_panel_shows_whatever_scores_there_are_and_what_stands_beside_them() -> None:
    result = labeled(Score("simulation", 0.5, n=20, n_failed=1))
    others = (
        Score("detection", 0.75, low=0.6, high=0.875, n=37, n_failed=3),
        Score("detection_auroc", 0.9, n=40, baseline_token_lookup=0.8125),
        Score("fuzzing_same", None, "no held-out contexts of this kind"),
    )
    panel = shown(feature_panel(replace(result, scores=(*result.scores, *others))))
    rows = {name: re.search(rf"{name} +(.*?) *│", panel) for name in ("detection", "detection auroc", "fuzzing same")}
    assert [match and match[1] for match in rows.values()] == [
        "0.75  [0.60, 0.88], 37 sequences; 3 left out",
        "0.90, 40 sequences; token look-up 0.81",
        "undefined: no held-out contexts of this kind",
    ]


def test_a_lookup_label_is_named_as_the_baseline() -> None:
    assert "0.55 (this label is the baseline)" in shown(feature_panel(labeled(SCORE, explainer="lookup")))
    assert "is the baseline" not in shown(feature_panel(labeled(SCORE)))


def test_undefined_is_said_with_its_reason_and_never_as_a_number() -> None:
    feature = labeled(Score("simulation", None, "the simulation is constant"))
    assert "undefined: the simulation is constant" in shown(feature_panel(feature))
    row = next(line for line in shown(label_table([feature])).split("\n") if "letter Q" in line)
    assert row.split()[:2] == ["5", "undefined"]
    assert "0.00" not in row
    assert "no score: the simulation is constant" in row


def test_a_feature_without_a_label_shows_its_state_and_reason() -> None:
    silent = LabeledFeature(8, State.SILENT, statistics(0), "never fired on 5,000 tokens")
    assert "no label: never fired on 5,000 tokens" in shown(feature_panel(silent))
    assert "silent: never fired on 5,000 tokens" in shown(label_table([silent]))


def test_activation_histogram_shows_every_bin_that_is_not_empty() -> None:
    counts = [0] * (len(HISTOGRAM_EDGES) + 1)
    counts[0], counts[1], counts[-1] = 1, 10_000, 1
    text = activation_histogram(counts).plain
    assert text.startswith("activations  0 ▁█ ")
    assert text.endswith("▁ over 1.02e+03  (log scale)")


def test_score_histogram_counts_undefined_apart() -> None:
    lines = shown(score_histogram([0.0, 0.05, 1.0, -0.15], 3)).split("\n")
    counts = {line[:12].strip(): int(line.split()[-1]) for line in lines if " to " in line}
    assert (counts["0.0 to 0.1"], counts["0.9 to 1.0"], counts["−0.2 to −0.1"]) == (2, 1, 1)
    assert sum(counts.values()) == 4
    assert "median 0.03 of 4; 3 undefined" in "\n".join(lines)
    assert shown(score_histogram([], 3)).strip() == "no scores; 3 undefined"


def test_tables_of_counts_and_quality() -> None:
    coverage = shown(coverage_table({State.LABELED: 3, State.FAILED: 1}))
    assert re.search(r"labeled +3 +75\.0%", coverage)
    assert re.search(r"failed +1 +25\.0%", coverage)
    assert "silent" not in coverage
    quality = shown(quality_table({"l0": 16.0, "explained_variance": None, "dead_share": 0.25}))
    assert re.search(r"L0\) +16\.0", quality)
    assert re.search(r"variance explained +—", quality)
    assert "cross-entropy" not in quality, "not measured is not shown"
    sets = shown(label_sets_table([{"id": 4, "n_labeled": 1200, "n_features": 1536, "median_score": None}]))
    assert re.search(r"^4  —\n +1,200 labels of 1,536 features; median score —; cost unknown *\n", sets)


def test_the_quality_of_an_sae_in_full() -> None:
    measured = {
        "fvu": 0.0973,
        "density_log10_edges": [-3.0, -2.6667, -2.3333, -2.0, -1.6667],
        "density_features": [0, 1, 8, 0],
        "cross_entropy_recovered": 0.974,
        "cross_entropy_recovered_zero": None,
        "cross_entropy": 3.7,
        "cross_entropy_sae": 3.751,
        "cross_entropy_mean": 6.2,
    }
    text = shown(quality_table(measured))
    assert re.search(r"FVU\) +0\.097", text)
    assert "2.2e-03 ▁█ 1.0e-02" in text
    assert "97.4% against the mean" in text
    assert "undefined against zeros" in text
    assert "3.700 as it is, 3.751 reconstructed, 6.200 at the mean" in text
    unknown = {"cross_entropy_recovered": None, "cross_entropy_reason": "the file \x1b[31m does not say"}
    assert "undefined: the file ␛[31m does not say" in shown(quality_table(unknown))


def test_training_in_a_line_and_in_a_table() -> None:
    progress = TrainProgress(1_000, 4_096_000, 0.01234567, 31.96, None, 0.0, 123_456.7)
    assert training_line(progress) == "loss 0.01235, L0 32.0, explained —, dead 0.0%"
    text = shown(training_table(replace(progress, explained_variance=0.913)))
    assert "4,096,000 in 1,000 steps, 123,457 a second" in text
    assert re.search(r"variance explained +91\.3%", text)


def test_numbers_as_shown() -> None:
    assert [number(x) for x in (-0.001, -0.5, None, float("nan"))] == ["0.00", "−0.50", "—", "—"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_a_log_is_one_line_every_ten_seconds() -> None:
    clock, out = Clock(), io.StringIO()
    with progress(Console(file=out, width=80), clock=clock) as bar:
        task = bar.add_task("label [features]", total=100)
        for _ in range(100):
            clock.now += 0.25
            bar.advance(task)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0] == "label [features]  0 of 100"
    assert lines[1].startswith("label [features]  40 of 100  4/s  ")
    assert lines[1].endswith(" s left")
    assert lines[-1].startswith("label [features]  100 of 100")
    assert "\x1b" not in out.getvalue()


def test_the_rate_of_what_is_reported_in_bursts_is_that_of_all_of_it() -> None:
    """Documents are tokenized together and then counted one by one, within a millisecond."""
    clock, out = Clock(), io.StringIO()
    with progress(Console(file=out, width=80), clock=clock) as bar:
        task = bar.add_task("tokenize", total=100_000, before=20_000, completed=20_000)
        for _ in range(3):
            clock.now += 10
            for _ in range(100):
                clock.now += 1e-6
                bar.advance(task, 100)
    first, *later = out.getvalue().splitlines()
    assert first == "tokenize  20,000 of 100,000"
    rates = [int(line.split("  ")[2].removesuffix("/s").replace(",", "")) for line in later]
    assert len(rates) == 3
    assert max(rates) <= 1_000


def test_a_step_that_does_not_move_is_told_of_all_the_same() -> None:
    clock, out = Clock(), io.StringIO()
    with progress(Console(file=out, width=80), clock=clock) as bar:
        task = bar.add_task("load the subject", total=None, is_one_step=True)
        for seconds in (1, 8, 1, 10):
            clock.now += seconds
            bar.say_if_due()
        bar.update(task, completed=1, total=1)
        clock.now += 20
        bar.say_if_due()
    assert out.getvalue().splitlines() == [
        "load the subject",
        "load the subject  for 10 s",
        "load the subject  for 20 s",
        "load the subject  done",
    ]


def test_progress_on_a_terminal_is_a_bar_with_rate() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None, legacy_windows=False)
    with progress(console, clock=clock) as bar:
        task = bar.add_task("gather", total=1000)
        for _ in range(4):
            clock.now += 1
            bar.advance(task, 200)
        bar.refresh()
    assert "800 of 1,000" in out.getvalue()
    assert "200/s" in out.getvalue()


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress(clock=clock) as bar:
        task = bar.add_task("gather", total=1)
        bar.advance(task)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "gather  1 of 1" in captured.err


def test_painted_is_text_that_rich_will_not_parse() -> None:
    assert isinstance(painted(context(tokens=("[red]",), activations=(1.0,)), 1.0), Text)
