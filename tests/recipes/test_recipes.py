"""Recipes as files: what they say is what is run, and what cannot be run says so before anything is paid for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from labeler.errors import FormatError, InputError, LabelerError, NotFoundError
from labeler.explain.needs import check_recipe
from labeler.recipe import (
    EXPLAINERS,
    ContextsConfig,
    ExplainerConfig,
    Recipe,
    ScorerConfig,
    SimulatorConfig,
    TriageConfig,
)
from labeler.recipes import known_recipes, parse_recipe, read_recipe, recipe_from_values

EVERYTHING = """
model = "big"
seed = 7
n_null = 50
confidence = 0.9

[explainer]
method = "contrastive"
best_of = 3
revise = true
temperature = 1        # a whole number where a number is meant
max_tokens = 300

[simulator]
method = "logprobs"
model = "small"
simulate = "top-and-random"
contexts_per_request = 5
max_tokens = 900
split = "held_out"

[contexts]
explain_top = 10
explain_hard = 4
min_firing_windows = [5, 6]

[[scorers]]
kind = "detection"
contexts_per_request = 20

[[scorers]]
kind = "embedding"
model = "near"

[triage]
keep_lookup_from = 0.8
"""


OUTSIDE = {
    "../secret": lambda folder: None,
    "sub/../../secret": lambda folder: None,
    "{secret}": lambda folder: None,
    "link": lambda folder: (folder / "link").symlink_to(folder.parent / "secret"),
    "linked/secret": lambda folder: (folder / "linked").symlink_to(folder.parent),
}


@pytest.mark.parametrize("named", OUTSIDE)
def test_a_template_outside_the_recipe_s_folder_is_not_read(tmp_path: Path, named: str) -> None:
    (tmp_path / "secret").write_text("Reply LABEL: ...")
    folder = tmp_path / "recipe"
    folder.mkdir()
    OUTSIDE[named](folder)
    path = named.format(secret=tmp_path / "secret")
    (folder / "mine.toml").write_text(f"model = 'm'\n[explainer]\ntemplate = '{path}'")
    with pytest.raises(InputError, match=r"leads out of"):
        read_recipe(str(folder / "mine.toml"))


@pytest.mark.parametrize("name", ["mine.toml", "mine.jinja"])
def test_a_fifo_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.toml").write_text("model = 'm'\n[explainer]\ntemplate = 'mine.jinja'")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(FormatError, match=rf"{name} is a FIFO; expected a regular file"):
        read_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = " + "[" * 30_000, "nested deeper than 100 levels"),
        ("x = " + "{a=" * 10_000, "nested deeper than 100 levels"),
        ("a." * 30_000 + "a = 1", "a key of more than 100 parts"),
        ("'a'." * 10_000 + "a = 1", "a key of more than 100 parts"),
        ("seed = " + "9" * 5000, "not TOML: Exceeds the limit"),
        ("# " + "a" * 70_000, "is larger than 64 KiB"),
    ],
    ids=lambda value: value[:20],
)
def test_a_recipe_without_measure_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(FormatError, match=says):
        read_recipe(str(tmp_path / "mine.toml"))


def test_every_key_arrives() -> None:
    assert parse_recipe(EVERYTHING, "mine") == Recipe(
        ExplainerConfig("openai", "big", EXPLAINERS["contrastive"], 1.0, 300, best_of=3, revise=True),
        SimulatorConfig("openai", "small", "logprobs-1", 5, max_tokens=900, simulate="top-and-random", top_logprobs=20),
        ContextsConfig(explain_top=10, explain_hard=4, min_firing_windows=(5, 6)),
        (ScorerConfig("detection", "big", contexts_per_request=20), ScorerConfig("embedding", "near")),
        TriageConfig(0.8),
        n_null=50,
        confidence=0.9,
        seed=7,
    )


@pytest.mark.parametrize("name", known_recipes())
def test_the_recipes_that_come_along_work_and_survive_storage(name: str) -> None:
    recipe = read_recipe(name, None if name == "lookup" else "openai:m")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict(recipe.to_dict()).hash == recipe.hash
    assert known_recipes()[name].endswith(".")


def test_what_the_recipes_are_for() -> None:
    assert read_recipe("lookup") == Recipe()
    assert read_recipe("standard", "openai:m").contexts.held_out_hard == 10
    assert read_recipe("contrastive", "openai:m").contexts.explain_hard == 10
    assert read_recipe("best-of-5", "openai:m").contexts.draws == 5
    assert read_recipe("cascade", "openai:m").triage == TriageConfig(0.9, 0.2)
    hashes = {read_recipe(name, "openai:m").hash for name in known_recipes()}
    assert len(hashes) == len(known_recipes())


def test_flags_go_before_the_file() -> None:
    both = read_recipe("standard", "openai:a", "openai:b")
    assert (both.explainer.model, both.simulator.model, both.scorers[0].model) == ("a", "b", "b")
    one = parse_recipe(EVERYTHING, "mine", explainer="openai:a")
    assert (one.explainer.model, one.explainer.method, one.simulator.model) == ("a", "contrastive", "small")
    none = parse_recipe("model = 'm'\n[triage]", "mine", explainer="lookup")
    assert (none.explainer, none.triage, none.simulator.name) == (ExplainerConfig(), None, "openai:m")
    assert parse_recipe("[simulator]\nmethod = 'sparse'", "mine", explainer="lookup") == Recipe()
    assert read_recipe("lookup", "openai:m") == Recipe.from_names("openai:m")


def test_a_template_is_a_file_beside_the_recipe_and_its_text_is_in_the_hash(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("model = 'm'\n[explainer]\ntemplate = 'mine.jinja'")
    (tmp_path / "mine.jinja").write_text("{{ contexts[0].marked }}\nReply LABEL: ...")
    first = read_recipe(str(tmp_path / "mine.toml"))
    assert first.explainer.method == "template"
    assert first.explainer.template == "{{ contexts[0].marked }}\nReply LABEL: ..."
    (tmp_path / "mine.jinja").write_text("{{ contexts[0].marked }}!\nReply LABEL: ...")
    assert read_recipe(str(tmp_path / "mine.toml")).hash != first.hash
    (tmp_path / "mine.jinja").write_text("{{ kontexts[0].marked }}\nReply LABEL: ...")
    with pytest.raises(InputError, match=r"mine.toml: the explainer's template names 'kontexts', which is not there"):
        read_recipe(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.jinja").unlink()
    with pytest.raises(NotFoundError, match=r"explainer.template: .*mine.jinja: no such file"):
        read_recipe(str(tmp_path / "mine.toml"))


def test_the_values_of_a_request_read_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("LABEL: {{ contexts }}")
    with pytest.raises(InputError, match=r"explainer\.template names a file, which a request may not"):
        recipe_from_values({"model": "m", "explainer": {"template": str(tmp_path / "secret")}})
    asked = {"model": "m", "explainer": {"best_of": 2}}
    assert recipe_from_values(asked) == parse_recipe("model = 'm'\n[explainer]\nbest_of = 2", "the same")


MODEL = "model = 'm'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("explaner = 1", "explaner is no key of a recipe: did you mean explainer?"),
        (MODEL + "[explainer]\nbestof = 5", "explainer.bestof is no key .* did you mean best_of?"),
        (MODEL + "[explainer]\nbest_of = 'five'", "explainer.best_of is 'five': expected a whole number"),
        (MODEL + "[explainer]\nbest_of = 2.0", "explainer.best_of is 2.0: expected a whole number"),
        (MODEL + "[explainer]\nbest_of = true", "explainer.best_of is True: expected a whole number"),
        (MODEL + "[explainer]\nrevise = 1", "explainer.revise is 1: expected true or false"),
        (MODEL + "[explainer]\nbest_of = 0", "explainer.best_of is 0: give 1 to 64"),
        (MODEL + "[explainer]\ntemperature = 3", "explainer.temperature is 3.0: give 0 to 2"),
        (MODEL + "[explainer]\nmethod = 'act-max'", "explainer.method is 'act-max': known are lookup, max-activation,"),
        (MODEL + "[explainer]\nmethod = 'template'", "explainer.template goes with the method `template`"),
        (MODEL + "[explainer]\nmethod = 'output-centric'\nbest_of = 2", "all labels would be the same"),
        ("[explainer]\nmethod = 'contrastive'", "explainer names no model to ask: add --explainer openai:MODEL"),
        ("[explainer]\nmethod = 'lookup'\nbest_of = 2", "the look-up explainer has one label"),
        (
            MODEL + "[simulator]\nmethod = 'dense'",
            "simulator.method is 'dense': known are lookup, sparse, logprobs, echo",
        ),
        (MODEL + "[simulator]\nmax_tokens = -5", "simulator.max_tokens is -5: give 1 or more"),
        (MODEL + "[simulator]\ntemperature = -1", "simulator.temperature is -1.0: give 0 to 2"),
        (MODEL + "[[scorers]]\nkind = 'detection'\nmax_tokens = 0", "scorer.max_tokens is 0: give 1 or more"),
        (MODEL + "[simulator]\nmethod = 'lookup'", "simulator 'lookup' reads the table"),
        (MODEL + "[[scorers]]\nkind = 'vibes'", "scorer 'vibes' is not known: choose detection,"),
        (MODEL + "[[scorers]]\nmodel = 'x'", r"scorers\[0\] has no kind"),
        (MODEL + "[[scorers]]\nkind = 'embedding'", r"scorers\[0\] names no model to ask"),
        (MODEL + "[scorers]\nkind = 'detection'", r"expected a list of tables; write \[\[scorers\]\] above each"),
        (MODEL + "[contexts]\nexplain_top = -1", "contexts.explain_top is -1: give 0 or more"),
        (MODEL + "[contexts]\nmin_firing_windows = 5", "contexts.min_firing_windows is 5: expected a list of 2"),
        (
            MODEL + "[contexts]\nmin_firing_windows = [5, 'x']",
            r"min_firing_windows\[1\] is 'x': expected a whole number",
        ),
        (MODEL + "[contexts]\naside = ['choose']", "contexts.aside is no key of a recipe"),
        (MODEL + "[triage]\nkeep_lookup_from = 2", "triage.keep_lookup_from is 2.0: a score is between -1 and 1"),
        ("confidence = 95", "confidence is 95.0: give the share"),
        ("n_null = -1", "n_null is -1: give 0 or more"),
        ("contexts = 3", r"contexts is 3: expected a table; write \[contexts\] above its keys"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"recipe mine: .*{message}"):
        parse_recipe(text, "mine")


@pytest.mark.parametrize(
    "text",
    [
        "[simulator]\nsplit = 'explain'",
        "[[scorers]]\nkind = 'detection'\nsplit = 'explain'",
        "[explainer]\nsplit = 'held_out'",
        "[contexts]\nnear_duplicate = 1.0",
    ],
)
def test_a_recipe_that_scores_on_what_it_explains_from_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="explain"):
        parse_recipe(MODEL + text, "mine")


def test_a_recipe_of_another_version_is_not_run() -> None:
    recipe = Recipe.from_names("openai:m", scorers=("detection",))
    stored = recipe.to_dict()
    assert Recipe.from_dict(stored) == recipe
    check_recipe(recipe)
    old = Recipe.from_dict({**stored, "version": 2})
    assert (old.version, old.to_dict()["version"], old.hash != recipe.hash) == (2, 2, True)
    with pytest.raises(InputError, match=r"version 2 of the scoring.*version 3: start a new label set"):
        check_recipe(old)
    (scorer,) = recipe.scorers
    with pytest.raises(InputError, match="the prompt 'detection-0', and this version of labeler writes 'detection-1'"):
        check_recipe(replace(recipe, scorers=(replace(scorer, prompt_version="detection-0"),)))
    with pytest.raises(InputError, match="the prompt 'sparse-0'"):
        check_recipe(replace(recipe, simulator=replace(recipe.simulator, prompt_version="sparse-0")))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="recipe mine: not TOML: Expected"):
        parse_recipe("[explainer", "mine")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="not UTF-8"):
        read_recipe(str(tmp_path / "b.toml"))
    with pytest.raises(NotFoundError, match="no recipe of that name: known are best-of-5, cascade, contrastive"):
        read_recipe("standart")
    with pytest.raises(LabelerError, match="--explainer 'gpt' is not known"):
        read_recipe("standard", "gpt")
