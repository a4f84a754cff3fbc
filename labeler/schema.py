"""The columns and the scores of a label set, declared once: name, type, range, meaning, and the places that show them.

Rows, REST, filters, orders, summaries, exports, imports, the page's table and docs/columns.md follow from what is
declared here. A score that is not declared has the same columns and the same places, with a general meaning:

    detection  detection_low  detection_high  detection_n  detection_null_z  detection_null_p  detection_baseline
    detection_reason
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from functools import cache
from typing import Literal

from labeler.records import State

End = Literal["min", "max"]  # of the values that a filter lets through


class Kind(StrEnum):
    """The type of a column's values."""

    TEXT = "text"
    COUNT = "whole number"
    NUMBER = "number"
    TIME = "time"
    CONTEXTS = "list of contexts"


class Use(Flag):
    """The places that show a column. All columns are exported."""

    NONE = 0
    LISTED = auto()  # a value of each row in REST
    FILTERED = auto()  # NAME_min and NAME_max
    SORTED = auto()  # sort=NAME and sort=-NAME
    SUMMARIZED = auto()  # its median stands in the summary and in the card
    COMPARED = auto()  # read where two label sets are compared
    IMPORTED = auto()


_KEPT = Use.LISTED | Use.IMPORTED
_ORDERED = Use.FILTERED | Use.SORTED
_CHOSEN = _KEPT | _ORDERED


@dataclass(frozen=True)
class Column:
    """One column. `low` and `high` bound its numbers; an `of_the_set` text is the same in all rows."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    use: Use = Use.IMPORTED
    of_the_set: bool = False
    is_new: bool = False  # older files, written before the column was added, are imported without it
    needed: bool = False  # never empty in a file
    score: str | None = None  # the name of the score that it is a part of
    part: str = ""  # the field of `labeler.records.Score` that it holds

    @property
    def range(self) -> str:
        """Write the unit and the bounds for people; empty where there are none."""
        return ", ".join(part for part in (self.unit, _ends(self.low, self.high)) if part)


def _ends(low: float, high: float) -> str:
    if math.isinf(low):
        return "" if math.isinf(high) else f"at most {high:g}"
    return f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"


@dataclass(frozen=True)
class ScoreKind:
    """A kind of score: its name in results, the name of its column, the range and the meaning of its value."""

    name: str
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    column: str = ""


_BETWEEN = (-1.0, 1.0)
_SHARE = (0.0, 1.0)
_EXPLAINED = (-math.inf, 1.0)
_HELD_OUT = "of predicted and true activations on held-out documents"

SCORES: dict[str, ScoreKind] = {
    kind.name: kind
    for kind in (
        ScoreKind("simulation", f"Pearson correlation {_HELD_OUT}, TOP and RANDOM windows.", *_BETWEEN, "score"),
        ScoreKind(
            "simulation_weighted",
            "The score weighted by the windows that each scored one stands for: an estimate for the whole corpus.",
            *_BETWEEN,
            "score_weighted",
        ),
        ScoreKind("simulation_top", f"Pearson correlation {_HELD_OUT}, TOP windows.", *_BETWEEN),
        ScoreKind("simulation_random", f"Pearson correlation {_HELD_OUT}, RANDOM windows.", *_BETWEEN),
        ScoreKind(
            "simulation_all",
            f"Pearson correlation {_HELD_OUT}, all windows: it orders the labels of one feature.",
            *_BETWEEN,
        ),
        ScoreKind(
            "rsquared",
            "Share of the activations' variance that the predictions explain, as in Bills et al. 2023.",
            *_EXPLAINED,
        ),
        ScoreKind("abs_dev", "Share of the activations' absolute deviation that the predictions explain.", *_EXPLAINED),
        ScoreKind(
            "auroc_token",
            "AUROC of telling the tokens on which the feature fires by the predictions; chance is 0.5.",
            *_SHARE,
        ),
        ScoreKind(
            "average_precision_token", "Average precision of the same; chance is the share of firing tokens.", *_SHARE
        ),
        ScoreKind(
            "auroc_sequence",
            "AUROC of telling the windows that fire by their highest prediction; chance is 0.5.",
            *_SHARE,
        ),
        ScoreKind(
            "detection",
            "Balanced accuracy of telling windows that fire from others by the label; chance is 0.5.",
            *_SHARE,
        ),
        ScoreKind("detection_random", "The same as `detection`, against RANDOM windows only.", *_SHARE),
        ScoreKind("detection_hard", "The same as `detection`, against HARD windows only.", *_SHARE),
        ScoreKind(
            "detection_recall_weak", "Share of weakly firing windows that the label lets a model recognize.", *_SHARE
        ),
        ScoreKind(
            "detection_recall_strong",
            "Share of strongly firing windows that the label lets a model recognize.",
            *_SHARE,
        ),
        ScoreKind(
            "detection_auroc", "AUROC of detection, by how sure the model was of each window; chance is 0.5.", *_SHARE
        ),
        ScoreKind(
            "fuzzing",
            "Balanced accuracy of telling rightly from wrongly marked tokens by the label; chance is 0.5.",
            *_SHARE,
        ),
        ScoreKind("fuzzing_same", "The same as `fuzzing`, against firing windows with silent tokens marked.", *_SHARE),
        ScoreKind("fuzzing_random", "The same as `fuzzing`, against RANDOM windows only.", *_SHARE),
        ScoreKind("fuzzing_hard", "The same as `fuzzing`, against HARD windows only.", *_SHARE),
        ScoreKind(
            "fuzzing_auroc", "AUROC of fuzzing, by how sure the model was of each window; chance is 0.5.", *_SHARE
        ),
        ScoreKind(
            "embedding_auroc",
            "AUROC of the cosine of label and window, firing against silent windows; chance is 0.5.",
            *_SHARE,
        ),
        ScoreKind("embedding_auroc_random", "The same as `embedding_auroc`, against RANDOM windows only.", *_SHARE),
        ScoreKind("embedding_auroc_hard", "The same as `embedding_auroc`, against HARD windows only.", *_SHARE),
        ScoreKind(
            "intervention",
            "Balanced accuracy of telling text steered by the feature from other steered text; chance is 0.5.",
            *_SHARE,
        ),
    )
}


_STATES = ", ".join(state.value for state in State if state is not State.PENDING)
# Beside the main score, these stand on the rows themselves, so that bulk queries need not open the stored scores.
_ON_ROWS = frozenset(("score_weighted", "score_weighted_low", "score_weighted_high", "detection", "fuzzing"))


def _text(
    name: str,
    meaning: str,
    unit: str = "",
    use: Use = _KEPT,
    of_the_set: bool = False,
    is_new: bool = False,
    needed: bool = False,
) -> Column:
    return Column(name, Kind.TEXT, meaning, unit, use=use, of_the_set=of_the_set, is_new=is_new, needed=needed)


def _count(name: str, meaning: str, unit: str, use: Use = _KEPT, needed: bool = False, part: str = "") -> Column:
    score = "simulation" if part else None
    return Column(name, Kind.COUNT, meaning, unit, 0, use=use, needed=needed, score=score, part=part)


def _number(
    name: str, meaning: str, bounds: tuple[float, float], unit: str = "", use: Use = _KEPT, part: str = ""
) -> Column:
    score = "simulation" if part else None
    return Column(name, Kind.NUMBER, meaning, unit, *bounds, use=use, score=score, part=part)


_ANY = (-math.inf, math.inf)
_POSITIVE = (0.0, math.inf)
_SET = Use.IMPORTED

MAIN = "simulation"  # its columns are the ones that begin with `score`
_BEFORE_SCORES: tuple[Column, ...] = (
    _text(
        "subject",
        "The language model: its hub id, the name it was given, or the last folders of its path.",
        use=_SET,
        of_the_set=True,
        needed=True,
    ),
    _text(
        "hookpoint",
        "The module whose output the SAE reads; `PATH:input` where it is the input.",
        "module path",
        _SET,
        of_the_set=True,
        needed=True,
    ),
    _text(
        "sae",
        "The SAE: its hub id, the name it was given, or the last folders of its path.",
        use=_SET,
        of_the_set=True,
        needed=True,
    ),
    Column(
        "label_set_id",
        Kind.COUNT,
        "The label set in the database in which the labels were made.",
        "id",
        0,
        use=_KEPT,
        of_the_set=True,
        is_new=True,
    ),
    _count("feature_index", "The feature of the SAE.", "index", _KEPT | Use.COMPARED, needed=True),
    _text(
        "state", "Whether there is a label, and else why not.", f"one of {_STATES}", _KEPT | Use.COMPARED, needed=True
    ),
    _text(
        "label",
        "The text hypothesis about the feature. Empty unless the state is labeled.",
        "one line",
        _KEPT | Use.COMPARED,
    ),
    _text(
        "explainer", "The writer of the label: `lookup`, or the kind of endpoint and the model.", "lookup or KIND:MODEL"
    ),
    _text(
        "simulator",
        "The predictor of activations from the label.",
        "lookup or KIND:MODEL",
        _SET,
        of_the_set=True,
        is_new=True,
    ),
    _number("score", SCORES[MAIN].meaning, _BETWEEN, use=_CHOSEN | Use.SUMMARIZED | Use.COMPARED, part="value"),
    _number(
        "score_low",
        "Lower end of the score's interval, 95% unless the recipe says otherwise, with the document as the unit.",
        _BETWEEN,
        use=_CHOSEN | Use.COMPARED,
        part="low",
    ),
    _number("score_high", "Upper end of the score's interval.", _BETWEEN, use=_CHOSEN | Use.COMPARED, part="high"),
    _count("score_n", "Held-out windows that the score rests on.", "windows", part="n"),
    _number(
        "score_null_z",
        "The score's distance from those of unrelated labels on the same windows.",
        _ANY,
        "standard deviations",
        part="null_z",
    ),
    _number(
        "score_null_p",
        "Share of unrelated labels that score as high: the p-value of the null.",
        _SHARE,
        use=_CHOSEN,
        part="null_p",
    ),
    _number(
        "baseline_token_lookup",
        "The score of the token look-up on the same windows.",
        _BETWEEN,
        part="baseline_token_lookup",
    ),
)
_AFTER_SCORES: tuple[Column, ...] = (
    _number("density", "Share of the corpus's tokens on which the feature fires.", _SHARE, use=_CHOSEN),
    _number("max_activation", "The highest activation in the corpus.", _POSITIVE, "units of the SAE"),
    _count("n_firings", "Tokens of the corpus on which the feature fires.", "tokens"),
    _text(
        "prompt_version",
        "The explainer's method and the version of its prompt.",
        use=_SET,
        of_the_set=True,
        needed=True,
    ),
    _text(
        "recipe_hash",
        "Hash of all that decides a result; the card holds the recipe itself.",
        "hexadecimal",
        _SET,
        of_the_set=True,
        needed=True,
    ),
    _count("tokens_in", "Tokens that LLMs read for this feature.", "tokens", Use.IMPORTED, needed=True),
    _count("tokens_out", "Tokens that LLMs wrote for this feature.", "tokens", Use.IMPORTED, needed=True),
    _number("cost_usd", "Cost of these tokens; empty where a price is unknown.", _POSITIVE, "US dollars", Use.IMPORTED),
    Column(
        "created_at",
        Kind.TIME,
        "The moment at which the result was stored.",
        "UTC; ISO 8601 with its zone in JSONL and CSV",
        use=_KEPT,
        needed=True,
    ),
    # A missing label or score needs its reason, and a bill its requests.
    _text("reason", "The reason why there is no label. Empty where there is one."),
    Column(
        "score_reason",
        Kind.TEXT,
        "The reason why there is no score, where there is none.",
        use=_KEPT,
        score=MAIN,
        part="reason",
    ),
    _count("requests", "Requests to LLMs for this feature.", "requests", Use.IMPORTED, needed=True),
)
FIXED = _BEFORE_SCORES + _AFTER_SCORES  # in every label set

# Only in label sets that people have reviewed: the newest verdict on the present label, and the newest label that a person wrote.
REVIEWED: tuple[Column, ...] = (
    _text("verdict", "The newest verdict of a person on the label as it is.", "accept, reject or corrected", Use.NONE),
    _text("person_label", "The newest label that a person wrote for the feature; it is not scored.", use=Use.NONE),
    _text("person", "The writer of that label, by the name of the key.", use=Use.NONE),
)
CONTEXTS = Column(
    "top_contexts",
    Kind.CONTEXTS,
    "The feature's strongest EXPLAIN windows: text, tokens, and an activation for each.",
    "units of the SAE; JSON in CSV",
)

_PARTS: tuple[tuple[str, str, str], ...] = (  # (field of Score, end of the column's name, meaning)
    ("value", "", ""),
    ("low", "_low", "Lower end of the interval of `{}`."),
    ("high", "_high", "Upper end of the interval of `{}`."),
    ("n", "_n", "Held-out windows or questions that `{}` rests on."),
    ("null_z", "_null_z", "The distance of `{}` from the values of unrelated labels."),
    ("null_p", "_null_p", "Share of unrelated labels whose `{}` is as high: the p-value of the null."),
    ("baseline_token_lookup", "_baseline", "The value of `{}` that the token look-up gets."),
    ("reason", "_reason", "The reason why there is no `{}`, where there is none."),
)
PARTS = tuple(part for part, _, _ in _PARTS)
_TAKEN = frozenset(column.name for column in (*FIXED, *REVIEWED, CONTEXTS)) | {"width"}
_FITS = re.compile(r"(?!score_)[a-z][a-z0-9_]{0,60}")


@cache
def score_kind(name: str) -> ScoreKind:
    """Return the declaration of a score, or a general one for a score that is not declared."""
    return SCORES.get(name) or ScoreKind(name, f"The score `{name}`, which a scorer beyond the declared ones gave.")


@cache
def column_of(name: str) -> str:
    """Return the name of a score's column: the score's own name, changed where no column can be named so."""
    if name in SCORES:
        return SCORES[name].column or name
    ends = tuple(end for _, end, _ in _PARTS if end)
    if _FITS.fullmatch(name) and name not in _TAKEN and not name.endswith(ends):
        return name
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40]
    return f"of_{plain}_{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}"


@cache
def score_columns(name: str) -> tuple[Column, ...]:
    """Return the columns of a score: its value, and what says how far to trust it."""
    if name == MAIN:
        return tuple(column for part in PARTS for column in FIXED if column.part == part)
    return tuple(_score_column(score_kind(name), *of_part) for of_part in _PARTS)


def _score_column(kind: ScoreKind, part: str, end: str, meaning: str) -> Column:
    prefix = column_of(kind.name)
    name, meaning, of = prefix + end, meaning.format(prefix) or kind.meaning, kind.name
    listed = Use.LISTED if name in _ON_ROWS else Use.NONE
    if part == "reason":
        return Column(name, Kind.TEXT, meaning, score=of, part=part)
    if part == "n":
        return Column(name, Kind.COUNT, meaning, "windows or questions", 0, score=of, part=part)
    if part in ("null_z", "null_p"):
        unit, bounds = ("standard deviations", _ANY) if part == "null_z" else ("", _SHARE)
        use = Use.IMPORTED if part == "null_z" else Use.IMPORTED | _ORDERED
        return Column(name, Kind.NUMBER, meaning, unit, *bounds, use=use, score=of, part=part)
    use = Use.IMPORTED | listed | (Use.NONE if part == "baseline_token_lookup" else _ORDERED)
    use |= Use.SUMMARIZED if part == "value" else Use.NONE
    use |= Use.COMPARED if part in ("value", "low", "high") else Use.NONE
    return Column(name, Kind.NUMBER, meaning, "", kind.low, kind.high, use, score=of, part=part)


def in_order(scores: Iterable[str]) -> list[str]:
    """Sort the names of scores: the declared ones as they are declared, then the others by name."""
    places = {name: place for place, name in enumerate(SCORES)}
    return sorted(set(scores), key=lambda name: (places.get(name, len(places)), name))


def columns_of(
    scores: Mapping[str, Collection[str]], *, reviewed: bool = False, contexts: bool = False
) -> tuple[Column, ...]:
    """Return the columns of a label set in the order of a file. `scores`: the parts that any result has of each score.

    The value and the number of windows of a score are there whenever the score is; other parts where any result has them.
    """
    others = [
        column
        for name in in_order(scores)
        if name != MAIN
        for column in score_columns(name)
        if column.part in ("value", "n") or column.part in scores[name]
    ]
    more = (REVIEWED if reviewed else ()) + ((CONTEXTS,) if contexts else ())
    return (*_BEFORE_SCORES, *others, *_AFTER_SCORES, *more)


# Every column that is known by its name alone; a score beyond the declared ones adds its own.
DECLARED: dict[str, Column] = {
    column.name: column for column in columns_of(dict.fromkeys(SCORES, PARTS), reviewed=True, contexts=True)
}


def named(use: Use, columns: Iterable[Column] = tuple(DECLARED.values())) -> tuple[str, ...]:
    """Return the names of the columns that are used so."""
    return tuple(column.name for column in columns if use in column.use)


LISTED = named(Use.LISTED)


def filters(columns: Iterable[Column] = tuple(DECLARED.values())) -> dict[str, tuple[str, End]]:
    """Return the filters by number: (column, end) by parameter, such as `detection_low_min`: ("detection_low", "min").

    The width of a score's interval stands for a column of its own, as in `detection_width_max`.
    """
    filtered = [column for column in columns if Use.FILTERED in column.use]
    names = [column.name for column in filtered]
    names += [f"{column.name}_width" for column in filtered if column.part == "value"]
    ends: tuple[End, End] = ("min", "max")
    return {f"{name}_{end}": (name, end) for name in names for end in ends}


def sorts(columns: Iterable[Column] = tuple(DECLARED.values())) -> tuple[str, ...]:
    """Return the orders of a list: by index, or by a column, with `-` for falling values."""
    return ("index", *(f"{sign}{name}" for name in named(Use.SORTED, columns) for sign in ("", "-")))
