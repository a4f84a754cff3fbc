"""The shape of the source: which folder may import which."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_folders_form_no_circle() -> None:
    """Also imports inside functions and for types count: a reader follows those too."""
    imports: defaultdict[str, set[str]] = defaultdict(set)
    for folder in ("labeler", "workers", "api"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            here = _unit(file.relative_to(ROOT).with_suffix("").parts)
            imports[here] |= {there for there in _imported(file) if there != here}
    assert len(imports) > 30

    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        raise AssertionError(f"folders import each other in a circle: {' <- '.join(error.args[1])}") from None


def test_only_the_store_writes_sql() -> None:
    elsewhere, inside = set[str](), set[str]()
    for folder in ("labeler", "workers", "api"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if {name.split(".")[0] for name in _names(file)} & {"sqlalchemy", "sqlmodel", "alembic", "psycopg"}:
                place = file.relative_to(ROOT)
                (inside if place.parts[:2] == ("labeler", "store") else elsewhere).add(str(place))
    assert len(inside) > 20
    assert elsewhere == set(), "put the query into a function of labeler/store"


def test_the_client_loads_neither_torch_nor_a_database() -> None:
    heavy = {"torch", "transformers", "openai", "sqlalchemy", "sqlmodel", "celery", "fastapi"}
    code = f"import sys, labeler.client; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def _imported(file: Path) -> set[str]:
    found = _names(file)
    return {_unit(tuple(name.split("."))) for name in found if name.split(".")[0] in ("labeler", "workers", "api")}


def _names(file: Path) -> list[str]:
    """Return the full names of all imports, also inside functions and for types."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def _unit(parts: tuple[str, ...]) -> str:
    """Return the folder of a module; files directly in labeler/ stand for themselves."""
    if parts[0] != "labeler":
        return parts[0]
    below = ROOT / "labeler" / parts[1] if len(parts) > 1 else None
    if below is None or not (below.is_dir() or below.with_suffix(".py").exists()):
        return "labeler"  # the package itself: its version and its lazy functions
    return f"labeler.{parts[1]}"
