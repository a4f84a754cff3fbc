"""Chromium, once for this folder; a page of its own for each test, in which any script error is a failure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.pages.browser.working import working

__all__ = ["browser", "page", "reader", "working"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def browser(world: Path) -> Iterator[Browser]:
    """Playwright keeps an event loop in this thread for as long as it runs: what needs one of its own must come before or after."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(
            f"no browser: none of {', '.join(_NAMES)} is on the PATH; install Chromium, on Debian `apt install chromium`"
        )
    # On a busy machine, a page that looks each second for news has them late.
    expect.set_options(timeout=120_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    with _page_of(browser, site) as page:
        yield page


@pytest.fixture(scope="module")
def reader(browser: Browser, site: str) -> Iterator[Page]:
    """One page for tests that look and change nothing: a window of its own takes Chromium a second."""
    with _page_of(browser, site) as page:
        yield page


@contextmanager
def _page_of(browser: Browser, site: str) -> Iterator[Page]:
    context = browser.new_context(base_url=site, viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(120_000)
    page, problems = context.new_page(), list[str]()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    yield page
    context.close()
    assert not problems, problems
