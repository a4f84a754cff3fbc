"""constraints.txt: a complete lock that pip and uv take on any machine, and that is what is installed here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The libraries of CUDA builds of torch are torch's own to choose; these four install the others.
NOT_LOCKED = re.compile(r"(nvidia|cuda)-.*|triton|pip|setuptools|wheel|uv|sae-labeler")
PLATFORMS = {"linux": "x86_64", "darwin": "arm64", "win32": "AMD64"}


def test_the_lock_holds_versions_and_markers_alone() -> None:
    """Without hashes, addresses and local versions such as `+cpu`, which only some machines could install."""
    for pin in PINS:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
        assert pin.url is None, pin
        assert not pin.extras, pin
        assert not re.match(r"nvidia-|triton", pin.name), pin
    assert "torch==2.13.0" in map(str, PINS)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_requirement_has_one_version_in_the_lock(python: str, platform: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
        "platform_machine": PLATFORMS[platform],
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    missing = {str(r) for r in _direct_requirements() if _applies(r, environment) and not _locked(r, environment)}
    assert not missing, "run `make lock`"


def test_what_is_installed_is_what_the_lock_names() -> None:
    """Ours and all that it asks for; what someone else put into the environment is not our affair."""
    locked = {(canonicalize_name(p.name), p.specifier) for p in PINS if _applies(p)}
    installed = dict(
        _with_requirements("sae-labeler", frozenset(PROJECT["project"]["optional-dependencies"]) - {"docs"})
    )
    assert len(installed) > 100
    wrong = {
        f"{name} {version}"
        for name, version in installed.items()
        if not NOT_LOCKED.fullmatch(name)
        and not any(name == pinned and version.partition("+")[0] in specifier for pinned, specifier in locked)
    }
    assert not wrong, "run `make lock` or install anew"


def _direct_requirements() -> Iterable[Requirement]:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    listed = [project["dependencies"], *project["optional-dependencies"].values(), *groups.values()]
    return map(Requirement, [*PROJECT["build-system"]["requires"], *(r for part in listed for r in part)])


def _applies(requirement: Requirement, environment: dict[str, str] | None = None) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _locked(requirement: Requirement, environment: dict[str, str]) -> bool:
    name = canonicalize_name(requirement.name)
    versions = [str(p.specifier).removeprefix("==") for p in PINS if p.name == name and _applies(p, environment)]
    return len(versions) == 1 and versions[0] in requirement.specifier


def _with_requirements(name: str, extras: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(name, version) of an installed package and of all that it asks for."""
    waiting = [(name, extras)]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in done or (done and NOT_LOCKED.fullmatch(name)):
            continue
        done.add((name, extras))
        found = distribution(name)
        yield name, found.version
        for requirement in map(Requirement, found.requires or ()):
            if any(_applies(requirement, {"extra": extra}) for extra in extras or {""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
