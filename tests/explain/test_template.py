"""A user's own prompt: what it may name, what it cannot reach, and that its mistakes show before anything is paid."""

from __future__ import annotations

import pytest

from labeler.errors import InputError
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
