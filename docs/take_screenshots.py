"""The pictures of the pages in this folder, light and dark: `make screenshots`, after `make demo`. Needs Chromium.

Runs `labeler up` over a copy of what `make demo` left, lets it label a part once more and read a text, and takes pictures of what a
person would see then. Nothing is drawn by hand.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

from labeler.client import Client

PICTURES = Path(__file__).parent / "pictures"
TEXT = """def read(path, mode="rb"):
    with open(path, mode) as file:
        if not file.readable():
            raise ValueError(f"cannot read {path}")
        return file.read()
"""
FEATURE = 251
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out").resolve()
    with running(demo) as address, Client(address) as client:
        evidence = next(client.evidence()).id
        second = client.submit(evidence, "0-383", recipe={"seed": 1})
        for _ in client.watch(second.id):
            pass
        text = client.activations(1, TEXT)
        long = client.submit(evidence, "all", recipe={"seed": 2})
        while client.job(long.id).progress.counts.get("labeled", 0) < 100:
            time.sleep(0.2)
        client.change_job(long.id, "pause")
        pages = {
            "home": "/",
            "sae": "/saes/1?set=1",
            "feature": f"/saes/1/features/{FEATURE}?set=1",
            "search": "/search?q=self",
            "compare": "/compare?a=1&b=2",
            "card": "/sets/1/card",
            "jobs": "/jobs",
            "job": f"/jobs/{long.id}",
            "new-job": "/jobs/new",
            "try": f"/try/{text.id}",
            "api": "/docs",
        }
        take(address, pages)


def take(address: str, pages: dict[str, str]) -> None:
    path = next(p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name)))
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        for scheme in schemes:
            page = browser.new_page(
                base_url=address, viewport={"width": 1200, "height": 800}, color_scheme=scheme, device_scale_factor=1
            )
            for name, where in pages.items():
                # A feature's page is worth a longer look.
                page.set_viewport_size({"width": 1200, "height": 1400 if name == "feature" else 800})
                _picture(page, where, PICTURES / f"{name}-{scheme}.png")
        browser.close()


def _picture(page: Page, where: str, path: Path) -> None:
    page.goto(where)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)  # for what is drawn after it was loaded
    page.screenshot(path=path)
    print(path.name)


@contextmanager
def running(demo: Path) -> Iterator[str]:
    """`labeler up` over a copy, at an address of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = Path(tempfile.mkdtemp(prefix="labeler-pictures-"))
    shutil.copy(demo / "labeler.db", data)
    words = [Path(sys.executable).parent / "labeler", "up", "--data", data, "--port", str(port)]
    with subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, text=True, env=os.environ) as up:
        try:
            assert up.stdout is not None
            while "Try:" not in (line := up.stdout.readline()):
                assert line, "labeler up has ended"
            yield f"http://127.0.0.1:{port}"
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(60)
            shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
