"""The pages in front of a label set of 100,000 features (or a million): time on the server, and size.

    python benchmarks/pages.py [--features 100000] [--requests 30] [--folder DIR] [--json]

Fills SQLite in bulk as service_read.py does, and for the page of a feature gathers and labels a part of the demo's model, so that
contexts, simulations and prompts are real ones. Times are wall milliseconds of whole requests through the application in this
process (routing, access, database, evidence, template; no socket and no compression), each at another random place. Sizes are bytes of
the page as it is before compression, and of everything that a browser fetches for it, scripts and style included.
The floor, measured in the same run, is a page that holds no data (`/sign-in`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from service_read import fill, most_frequent

from api.app import create_app
from labeler.settings import Settings
from labeler.store import open_store

N_DEMO = 200
FETCHED = re.compile(r'(?:src|href)="(/static/[^"]+)"')


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="keep the databases here, and use them again")
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="labeler-pages-"))
    try:
        found = measure(folder, asked.features, asked.requests)
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)
    for page, figures in found.items():
        print(
            f"{page:<34} median {figures['ms']:6.1f} ms   p95 {figures['ms_p95']:6.1f} ms   {figures['kb']:6.1f} KB   "
            f"{figures['kb_with_all']:6.1f} KB with scripts and style"
        )
    if asked.json:
        print(json.dumps({"benchmark": "pages", "n_features": asked.features, "pages": found}))


def measure(folder: Path, n: int, n_requests: int) -> dict[str, dict[str, float]]:
    rng = random.Random(0)
    database = folder / f"labels-{n}.db"
    store = open_store(str(database))
    fill(store, n)
    common, frequent, _ = most_frequent(store)
    store.close()
    with TestClient(app_of(database), base_url="http://127.0.0.1", client=("127.0.0.1", 50_000)) as many:
        found = {
            "floor: no data": times(many, lambda: "/sign-in", n_requests),
            "home": times(many, lambda: "/", n_requests),
            "SAE": times(many, lambda: "/saes/1", n_requests),
            "SAE, by falling score": times(
                many, lambda: f"/saes/1?sort=-score&score_max={rng.random():.4f}", n_requests
            ),
            "SAE, text filter": times(many, lambda: f"/saes/1?text={rng.choice((common, frequent))}", n_requests),
            "search": times(many, lambda: f"/search?q={rng.choice((common, frequent))}", n_requests),
            "card": times(many, lambda: "/sets/1/card", n_requests),
            "jobs": times(many, lambda: "/jobs", n_requests),
        }
    with TestClient(app_of(demo(folder)), base_url="http://127.0.0.1", client=("127.0.0.1", 50_000)) as demo_pages:
        found["feature"] = times(demo_pages, lambda: f"/saes/1/features/{rng.randrange(N_DEMO)}", n_requests)
        found["feature, embedded"] = times(
            demo_pages, lambda: f"/saes/1/features/{rng.randrange(N_DEMO)}?embed=1", n_requests
        )
    return found


def app_of(database: Path) -> Any:
    return create_app(Settings(database=str(database), data=database.parent))


def demo(folder: Path) -> Path:
    """A database with labels of the demo's first features, beside their evidence."""
    database, evidence = folder / "demo.db", folder / "evidence"
    if not database.exists():
        gather = [
            "gather",
            "--subject",
            "labeler-demo/subject",
            "--sae",
            "labeler-demo/sae",
            "--corpus",
            "python-stdlib",
        ]
        run([*gather, "--tokens", "100000", "--out", str(evidence)])
        run(["label", str(evidence), "--features", f"0-{N_DEMO - 1}", "--db", str(database)])
    return database


def run(words: list[str]) -> None:
    code = "from labeler.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, env=os.environ)


def times(client: TestClient, address: Callable[[], str], n: int) -> dict[str, float]:
    taken, sizes, whole = [], [], 0
    for i in range(n + 2):
        where = address()
        began = time.perf_counter()
        reply = client.get(where, headers={"Accept": "text/html", "Accept-Encoding": "identity"})
        seconds = time.perf_counter() - began
        assert reply.status_code == 200, f"{where}: {reply.status_code}"
        if i < 2:  # the first ones open what stays open
            whole = sum(len(client.get(part).content) for part in set(FETCHED.findall(reply.text)))
            continue
        taken.append(1000 * seconds)
        sizes.append(len(reply.content) / 1000)
    p95 = sorted(taken)[max(0, round(0.95 * len(taken)) - 1)]
    return {
        "ms": round(statistics.median(taken), 2),
        "ms_p95": round(p95, 2),
        "kb": round(max(sizes), 1),
        "kb_with_all": round(max(sizes) + whole / 1000, 1),
    }


if __name__ == "__main__":
    main()
