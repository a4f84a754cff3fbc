"""The containers' plan, as far as it can be tried without an engine: what it names exists, and its commands work."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml
from packaging.requirements import Requirement

from labeler.evidence.store import EvidenceFolder
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.states import GatherRequest
from labeler.terms import JobState
from tests.gathering import CONFIG
from tests.planted import Planted
from tests.waiting import HANGS
from tests.workers.conftest import REPOSITORY, Service, a_service, free_port, new_database

PLAN: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = PLAN["services"]
BIN = Path(sys.executable).parent
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def test_what_the_plan_names_exists() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    for name, service in SERVICES.items():
        assert ("image" in service) != ("build" in service), name
        if "build" in service:
            assert service["build"]["target"] in targets, name
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"], f"{name} waits for the health of {other}"
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in PLAN["volumes"], name
    assert {"redis", "postgres", "migrate", "api", "worker-gather", "worker-label", "vllm"} == set(SERVICES)


def test_the_plan_is_one_that_compose_reads(tmp_path: Path) -> None:
    assert schema_check(REPOSITORY / "docker-compose.yml").returncode == 0
    wrong = {**PLAN, "services": {**SERVICES, "redis": {**SERVICES["redis"], "imge": "redis"}}}
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(wrong))
    assert "imge" in schema_check(tmp_path / "wrong.yml").stdout


def schema_check(plan: Path) -> subprocess.CompletedProcess[str]:
    words = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", plan]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="the linter's wheel has no build for this platform")
def test_the_dockerfile_has_nothing_that_its_linter_minds(tmp_path: Path) -> None:
    assert linted(REPOSITORY / "Dockerfile") == ""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("USER 1000", "USER root"))
    assert "Last USER should not be root" in linted(tmp_path / "Dockerfile")


def linted(dockerfile: Path) -> str:
    return subprocess.run([BIN / "hadolint", dockerfile], capture_output=True, text=True, check=False).stdout


def test_the_cache_that_may_hold_a_token_is_not_in_the_data_folder() -> None:
    """A request to the service may name any file of the data folder as a corpus, and a reader then sees its text."""
    homes = [Path(home) for home in re.findall(r"\bHF_HOME=(\S+)", DOCKERFILE)]
    assert homes
    for service in SERVICES.values():
        mounts = {v.partition(":")[2] for v in service.get("volumes", [])}
        if service.get("build", {}).get("target") == "worker" and "HF_TOKEN" in service["environment"]:
            assert all(any(home.is_relative_to(mount) for mount in mounts) for home in homes), (
                "else it is lost at a restart"
            )
        homes += [Path(value) for name, value in service.get("environment", {}).items() if name.startswith("HF_HOME")]
    assert not any(home.is_relative_to("/data") for home in homes)


def test_what_the_images_copy_exists_and_is_sent_to_the_engine() -> None:
    """`.dockerignore` leaves out everything but what it names."""
    sources = [s for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for s in line.split()[:-1]]
    ignore = (REPOSITORY / ".dockerignore").read_text().split()
    assert sources
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in ignore, source
    assert ignore[0] == "*"


def test_every_variable_is_one_that_we_read() -> None:
    read = (REPOSITORY / "labeler" / "settings.py").read_text()
    ours = {v for s in SERVICES.values() for v in s.get("environment", {}) if v.startswith(("LABELER_", "OPENAI_"))}
    assert ours
    assert all(f'"{v}"' in read for v in ours), ours


def test_no_secret_stands_in_the_files() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|KEY|TOKEN", name):
                assert re.fullmatch(r"\$\{\w+:[-?].*\}", str(value)), name
    assert "secret" not in DOCKERFILE.lower()
    assert all(
        not line.partition("=")[2] for line in (REPOSITORY / ".env.example").read_text().splitlines() if line[0] != "#"
    )


def test_the_image_without_torch_has_all_that_the_web_process_imports() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    group = project["dependency-groups"]["api"]
    code = "import sys, api.__main__, labeler.llm.client, labeler.label_sets.embed, workers.enqueue, labeler.export.export, labeler.cli\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    modules = {m.partition(".")[0] for m in done.stdout.split()}
    assert "torch" not in modules
    # Imported by others where they happen to be installed, and done without where not.
    optional = {"setuptools", "pyyaml", "opentelemetry_api", "greenlet", "sniffio", "xxhash", "labeler"}
    of_module = packages_distributions()
    imported = {_name(d) for m in modules for d in of_module.get(m, [])} - optional
    assert imported <= _with_all_they_need(group)
    assert {"torch", "transformers"}.isdisjoint(map(_name, group))


def _with_all_they_need(requirements: list[str]) -> set[str]:
    found: set[str] = set()
    todo = [Requirement(r) for r in requirements]
    while todo:
        wanted = todo.pop()
        if wanted.extras or _name(wanted.name) not in found:
            found.add(_name(wanted.name))
            # What is not installed here, for the sake of another platform, cannot be imported.
            with suppress(PackageNotFoundError):
                needed = [Requirement(r) for r in requires(wanted.name) or []]
                todo += [n for n in needed if any(_applies(n, extra) for extra in ("", *wanted.extras))]
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match.group().lower().replace("-", "_")


@pytest.fixture
def plain(postgres: str, planted_evidence: Path, tmp_path: Path) -> Any:
    with a_service(new_database(postgres), tmp_path, planted_evidence) as service:
        yield service


def test_the_very_commands_gather_label_and_answer(plain: Service, planted: Planted, tmp_path: Path) -> None:
    """From an empty database to labels, by the commands of the plan, against PostgreSQL and Redis."""
    assert plain.start_command(command_of("migrate")).wait(HANGS) == 0
    port = free_port()
    plain.start_command([*command_of("api")[:3], "--host", "127.0.0.1", "--port", str(port)])
    for worker in ("worker-gather", "worker-label"):
        plain.start_command([w.replace("${LABEL_PROCESSES:-4}", "1") for w in command_of(worker)])
    jobs, out = Jobs(plain.store), tmp_path / "gathered"
    request = GatherRequest(
        str(planted.subject), str(planted.sae), str(planted.corpus), str(out), n_shards=2, config=CONFIG
    )
    gathered = plain.wait_for(jobs.submit_gather(request), JobState.DONE)
    assert EvidenceFolder(out).hash == EvidenceFolder(plain.evidence).hash
    assert gathered.evidence_id is not None
    labelled = jobs.submit(gathered.evidence_id, plain.recipe, "0-7")
    plain.wait_for(labelled, JobState.DONE)
    assert plain.counts(labelled) == {"labeled": 6, "silent": 1, "rare": 1}
    assert answers(f"http://127.0.0.1:{port}/healthz")
    # The web server ends by the signal that it was sent, once it has closed its connections.
    assert plain.stop_workers() == [-signal.SIGTERM, 0, 0]


def command_of(service: str) -> list[str]:
    """What the container runs, with this interpreter."""
    default = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0]
    first, *rest = SERVICES[service].get("command") or yaml.safe_load(default)
    return [str(BIN / first), *rest]


def answers(url: str) -> bool:
    deadline = time.monotonic() + HANGS
    while time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=HANGS) as response:
                return bool(response.status == 200)
        except HTTPError:
            return False
        except OSError:
            time.sleep(0.1)
    return False
