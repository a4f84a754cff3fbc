"""Read a Recipe from TOML. Every message names the key, the known keys, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, InputError, NotFoundError
from labeler.explain.needs import check_recipe
from labeler.files import check_inside, check_regular, parse_toml, read_small
from labeler.recipe import (
    EXPLAINERS,
    SIMULATORS,
    ContextsConfig,
    ExplainerConfig,
    Recipe,
    ScorerConfig,
    SimulatorConfig,
    TriageConfig,
)
from labeler.recipes.values import Table

_LARGEST = 64 << 10  # bytes of a recipe or a template, a hundred times those that come with the package
_OF_RECIPE = ("n_null", "confidence", "seed")
_EXPLAINER = ("temperature", "max_tokens", "best_of", "revise")
_SIMULATOR = ("contexts_per_request", "temperature", "max_tokens", "simulate", "top_logprobs")
_SCORER = ("contexts_per_request", "temperature", "max_tokens", "top_logprobs")
_CONTEXTS = tuple(name for name in ContextsConfig.__dataclass_fields__ if name not in ("draws", "aside"))
_TRIAGE = tuple(TriageConfig.__dataclass_fields__)


def known_recipes() -> dict[str, str]:
    """Return the recipes that come with the package: by name, the purpose of each."""
    return {name: text_of(name).splitlines()[0].removeprefix("# ") for name in _names()}


def text_of(name: str) -> str:
    """Return the text of a recipe that comes with the package."""
    return resources.files("labeler.recipes").joinpath(f"{name}.toml").read_text("utf-8")


def _names() -> list[str]:
    files = resources.files("labeler.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def read_recipe(source: str, explainer: str | None = None, simulator: str | None = None) -> Recipe:
    """Return the recipe in a file, or one by name. `explainer` and `simulator` ("lookup", "openai:MODEL") override it.

    Raises InputError, NotFoundError or FormatError: a recipe that is returned can be run.
    """
    path = Path(source)
    if source in _names():
        return parse_recipe(text_of(source), source, None, explainer, simulator)
    try:
        check_regular(path)
    except NotFoundError:
        raise NotFoundError(
            f"recipe {source!r}: no such file, and no recipe of that name: known are {', '.join(_names())}"
        ) from None
    return parse_recipe(_text(path, f"recipe {source}"), source, path.parent, explainer, simulator)


def recipe_values(path: Path) -> dict[str, Any]:
    """Return the unchecked values of a recipe's file, for a service to check. Raises NotFoundError or FormatError."""
    return parse_toml(_text(path, f"recipe {path}"), f"recipe {path}")


def parse_recipe(
    text: str, name: str, folder: Path | None = None, explainer: str | None = None, simulator: str | None = None
) -> Recipe:
    """Return the recipe in a text; its template would lie in `folder`."""
    values = parse_toml(text, f"recipe {name}")
    try:
        recipe = _recipe(Table(values), folder, explainer, simulator)
        check_recipe(recipe)
    except (InputError, FormatError) as error:
        raise type(error)(f"recipe {name}: {error}") from None
    return recipe


def recipe_from_values(values: Mapping[str, Any], explainer: str | None = None, simulator: str | None = None) -> Recipe:
    """Return the recipe in a request, as in a file. It may name no template: a path here is not the requester's."""
    table = Table(values, "")
    if "template" in table.table("explainer"):
        raise InputError("explainer.template names a file, which a request may not: use a recipe without one")
    recipe = _recipe(table, None, explainer, simulator)
    check_recipe(recipe)
    return recipe


def _recipe(table: Table, folder: Path | None, explainer: str | None, simulator: str | None) -> Recipe:
    table.only("model", "explainer", "simulator", "contexts", "scorers", "triage", *_OF_RECIPE)
    model = table.text("model")
    explains = _explainer(_overridden(table.table("explainer"), explainer), model, folder)
    # A model given for one part stands for all that name none.
    asked = table.table("simulator")
    if explains.kind == "lookup" and explainer is not None and not (model or asked.text("model")):
        simulator = simulator or explainer
    simulates = _simulator(_overridden(asked, simulator), model or explains.model)
    scorers = [_scorer(t, model or simulates.model) for t in table.tables("scorers")]
    contexts = table.table("contexts")
    contexts.only(*_CONTEXTS)
    triage = table.table("triage")
    triage.only(*_TRIAGE)
    return Recipe(
        explains,
        simulates,
        contexts.build(ContextsConfig, _CONTEXTS),
        tuple(scorers),
        # A look-up explainer, named in place of the file's, leaves nothing to be spared.
        triage.build(TriageConfig, _TRIAGE) if "triage" in table and explains.kind != "lookup" else None,
        **table.values(Recipe, _OF_RECIPE),
    )


def _explainer(table: Table, model: str | None, folder: Path | None) -> ExplainerConfig:
    table.only("method", "model", "template", "split", *_EXPLAINER)
    table.refuse_split("explain", "an explainer sees EXPLAIN documents alone")
    template = _template(table, folder)
    named = table.text("model") or model
    default = "template" if template is not None else "max-activation" if named else "lookup"
    method = table.one_of("method", EXPLAINERS, default)
    if method == "lookup":
        return table.build(ExplainerConfig, _EXPLAINER)
    return table.build(
        ExplainerConfig,
        _EXPLAINER,
        kind="openai",
        model=_model(table, model, "--explainer openai:MODEL"),
        prompt_version=EXPLAINERS[method],
        template=template,
    )


def _simulator(table: Table, model: str | None) -> SimulatorConfig:
    table.only("method", "model", "split", *_SIMULATOR)
    table.refuse_split("held_out", "what a label is scored on must not be what it was explained from")
    method = table.one_of("method", SIMULATORS, "sparse" if table.text("model") or model else "lookup")
    if method == "lookup":
        return table.build(SimulatorConfig, _SIMULATOR)
    asked = SimulatorConfig.of(_model(table, model, "--simulator openai:MODEL"), method)
    return table.build(
        SimulatorConfig,
        _SIMULATOR,
        kind="openai",
        model=asked.model,
        prompt_version=asked.prompt_version,
        **({} if "top_logprobs" in table else {"top_logprobs": asked.top_logprobs}),
    )


def _scorer(table: Table, model: str | None) -> ScorerConfig:
    table.only("kind", "model", "split", *_SCORER)
    table.refuse_split("held_out", "what a label is scored on must not be what it was explained from")
    kind = table.text("kind")
    if kind is None:
        raise InputError(f'{table.where} has no kind: add kind = "detection", for example')
    # An embedding model is another model than one that writes.
    default = None if kind == "embedding" else model
    return table.build(ScorerConfig, _SCORER, kind=kind, model=_model(table, default, "a line with model ="))


def _model(table: Table, default: str | None, flag: str) -> str:
    model = table.text("model") or default
    if not model:
        raise InputError(f'{table.where} names no model to ask: add {flag}, or model = "..." to the file')
    return model


def _template(table: Table, folder: Path | None) -> str | None:
    """Return the text of the template, which must lie in the recipe's folder, links followed: strangers may write
    recipes.
    """
    named = table.text("template")
    if named is None:
        return None
    where = f"{table.where}.template"
    if folder is None:
        raise InputError(f"{where} names a file, and this recipe lies in no folder")
    if Path(named).is_absolute() or ".." in Path(named).parts:
        raise InputError(
            f"{where}: {named!r} leads out of the recipe's folder; put the template there and name it alone"
        )
    path = folder / named
    check_inside(path, folder)
    return _text(path, where)


def _text(path: Path, what: str) -> str:
    try:
        return read_small(path, _LARGEST).decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{what}: not UTF-8 text") from None
    except (NotFoundError, FormatError) as error:
        raise type(error)(f"{what}: {error}") from None


def _overridden(table: Table, flag: str | None) -> Table:
    """Return the table as the command line changes it: `lookup` replaces it, `openai:MODEL` its model."""
    if flag is None:
        return table
    if flag == "lookup":
        return table.replaced({"method": "lookup"})
    kind, _colon, model = flag.partition(":")
    if kind != "openai" or not model:
        raise InputError(
            f"--{table.where} {flag!r} is not known: choose `lookup` or `openai:MODEL`, such as openai:gpt-5-mini"
        )
    values: Mapping[str, Any] = {**table.raw, "model": model}
    asks = {"explainer": "max-activation", "simulator": "sparse"}[table.where]
    if table.text("method") in (None, "lookup") and "template" not in table:
        values = {**values, "method": asks}
    return table.replaced(values)
