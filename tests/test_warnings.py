"""The rule in pyproject.toml: what our own modules are warned of fails a test, what others are is shown."""

from __future__ import annotations

import warnings

import pytest

OURS = ["labeler", "labeler.llm.client", "workers.app", "api.app", "tests.test_cli"]
OTHERS = ["transformers.modeling_utils", "apiclient", "mylabeler.api", "torch.nn.modules.module"]


def warn_in(module: str, category: type[Warning]) -> None:
    warnings.warn_explicit("a trial", category, filename=f"{module}.py", lineno=1, module=module, registry={})


@pytest.mark.parametrize("module", OURS)
@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, DeprecationWarning, FutureWarning])
def test_a_warning_of_ours_is_an_error(module: str, category: type[Warning]) -> None:
    with pytest.raises(category, match="a trial"):
        warn_in(module, category)


@pytest.mark.parametrize("module", OTHERS)
def test_a_warning_of_another_package_is_shown(module: str) -> None:
    with warnings.catch_warnings(record=True) as shown:  # unlike `pytest.warns`, it leaves the rule as it is
        warn_in(module, UserWarning)
    assert [str(w.message) for w in shown] == ["a trial"]


def test_a_leak_is_an_error_wherever_it_is_noticed() -> None:
    with pytest.raises(ResourceWarning):
        warn_in("weakref", ResourceWarning)
