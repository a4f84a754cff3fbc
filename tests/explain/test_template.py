"""A user's own prompt: what it may name, what it cannot reach, and that its mistakes show before anything is paid."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from labeler.errors import InputError
from labeler.explain import template as template_module
from labeler.explain.template import _SAMPLE as SAMPLE
from labeler.explain.template import check_template, reads_output, template_prompt
from labeler.recipe import EXPLAINERS, ExplainerConfig

ASKS = "Reply LABEL: ...\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ context }}", "names 'context', which is not there: known are contexts, hard, promoted"),
        ("{% for c in contexts %}", "cannot be read: .*endfor.*line 2"),
        ("{{ contexts[0].activation }}", "cannot be rendered: .*no attribute 'activation'"),
        ("{{ contexts[99].text }}", "cannot be rendered"),
        ("{{ contexts + 1 }}", "cannot be rendered"),
        ("{{ 1 // 0 }}", "cannot be rendered"),
        ("{{ legend|shout }}", "cannot be read: No filter named 'shout'"),
        ("{{ contexts.__class__.__mro__ }}", "cannot be rendered: .*unsafe"),
        ("{{ contexts.append(1) }}", "cannot be rendered: .*unsafe"),
        ("{% include '/etc/passwd' %}", "cannot be rendered"),
        ("{{ hard|length }}", "`hard` contexts: say how many with contexts.explain_hard"),
    ],
)
def test_what_cannot_work_is_refused(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_template(ASKS + template, has_hard=False)


def test_a_template_must_ask_for_what_is_read() -> None:
    with pytest.raises(InputError, match="LABEL: "):
        check_template("{{ contexts|length }}", has_hard=False)


def test_a_template_that_works_passes() -> None:
    check_template(ASKS + "{{ contexts|length }} {{ hard|length }}", has_hard=True)


def test_output_is_read_where_a_template_names_it() -> None:
    assert reads_output("{{ promoted[0] }}")
    assert reads_output("{% for t in suppressed %}{{ t }}{% endfor %}")
    assert not reads_output("{{ contexts[0].text }} promoted")


def test_text_is_not_escaped_as_html() -> None:
    config = ExplainerConfig("openai", "m", EXPLAINERS["template"], template="{{ contexts[0].marked }} <b>")
    assert template_prompt(SAMPLE, config).messages[0].content == "a<< b|10>><<¶|5>> <b>"


@pytest.fixture(scope="module")
def impatient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        hasty = template_module._Renderer(0.2)
        patch.setattr(template_module, "_renderer", hasty)
        yield
        hasty.close()


@pytest.mark.parametrize(
    "template",
    [
        "{{ 10 ** (10 ** 10) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ range(99999)|list|sum(attribute='real') ** 99999 ** 9 }}",
        "{% for i in range(99999) %}{{ ((contexts[0].text ~ ' ') * 99999)|wordcount }}{% endfor %}",
    ],
)
def test_a_template_without_end_is_ended(impatient: None, template: str) -> None:
    with pytest.raises(InputError, match=r"processor time|calls itself without end"):
        check_template(ASKS + template, has_hard=False)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{{ '%1000000000d'|format(1) }}{{ '%1000000000d'|format(1) }}",
        "{{ '{:2000000000}'.format(1) }}",
        "{{ 'a'|center(2000000000) }}",
        "{% for i in range(99999) %}{{ contexts[0].text * 99 }}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{{ range(10 ** 9)|list }}",
        "{{ lipsum(n=99999) }}",
        "{{ " + "(" * 50_000 + ")" * 50_000 + " }}",
        "{{ " + "not " * 5000 + "1 }}",
        "{% if 1 %}" * 500 + "{% endif %}" * 500,
    ],
    ids=lambda template: template[:40],
)
def test_a_template_without_measure_is_refused(template: str) -> None:
    with pytest.raises(InputError, match=r"cannot be (read|rendered): "):
        check_template(ASKS + template, has_hard=False)


def test_after_one_that_was_ended_the_next_is_rendered_in_threads_and_loops_too(impatient: None) -> None:
    config = ExplainerConfig("openai", "m", EXPLAINERS["template"], template="{{ contexts[0].pairs }}")

    def said(_: int = 0) -> str:
        return template_prompt(SAMPLE, config).messages[0].content

    async def several() -> list[str]:
        return list(await asyncio.gather(*(asyncio.to_thread(said) for _ in range(4))))

    with pytest.raises(InputError, match="processor time"):
        check_template(ASKS + "{{ 10 ** (10 ** 10) }}", has_hard=False)
    with ThreadPoolExecutor(4) as pool:
        found = {*pool.map(said, range(20)), *asyncio.run(several())}
    assert found == {"[('a', 0), (' b', 10), ('¶', 5)]"}


def test_what_renders_is_given_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    fresh = template_module._Renderer()
    try:
        fresh.ask("read", "variables", "{{ contexts }}")
        assert fresh._process is not None
        with open(f"/proc/{fresh._process.pid}/environ", "rb") as environment:
            assert b"sk-secret" not in environment.read()
        assert fresh._process.pid != os.getpid()
    finally:
        fresh.close()


def test_what_a_template_says_of_itself_is_cut() -> None:
    with pytest.raises(InputError, match="has no attribute 'aaa") as raised:
        check_template("LABEL: {{ contexts[0]['a' * 100000] }}", has_hard=False)
    assert len(str(raised.value)) < 1_000
