"""Jobs in a real browser, done by real workers: planned, submitted, watched, paused, resumed to the end."""

from __future__ import annotations

import re

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests import stub_server as stub
from tests.pages.browser.working import Working
from tests.planted import N_FEATURES

SERIOUS = ("serious", "critical")


def violations(page: Page) -> list[str]:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{v['id']}: {[n['html'][:200] for n in v['nodes'][:3]]}" for v in found if v["impact"] in SERIOUS]


def test_a_job_is_planned_submitted_and_watched_to_its_end(page: Page, working: Working) -> None:
    # Fast at first, so that there is progress to see, and then slow, so that there is something to pause.
    working.service.endpoint.behave = lambda number, body: stub.slow(0.1 if number <= 24 else 2.0)
    page.goto(f"{working.address}/jobs")
    page.get_by_role("link", name="New job").click()
    page.locator('input[name="explainer"]').fill("openai:letters-watched")
    page.get_by_role("button", name="Show the plan").click()
    plan = page.locator("#plan")
    expect(plan).to_contain_text(f"{N_FEATURES} features without a result")
    expect(plan).to_contain_text("price unknown")
    assert violations(page) == []
    assert working.service.endpoint.requests == [], "the plan has asked nobody"

    plan.get_by_role("button", name="Submit this job").click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+$"))
    controls, requests = page.locator("#controls"), page.locator(".tile", has_text="Requests").locator("dd")
    expect(controls).to_contain_text("running")
    expect(requests).not_to_have_text("0")
    before = requests.text_content()
    expect(requests).not_to_have_text(before or "")  # live, without a reload
    assert violations(page) == []

    page.get_by_role("button", name="Pause").click()
    expect(controls).to_contain_text("paused on its page")
    working.service.endpoint.behave = lambda number, body: stub.GOOD
    page.get_by_role("button", name="Resume").click()
    expect(controls).to_contain_text("done")
    expect(page.locator("#live")).to_contain_text(f"{N_FEATURES - 2} labeled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page.get_by_role("link", name="Jobs", exact=True).first.click()
    expect(page.get_by_role("row", name=re.compile("letters-watched"))).to_contain_text("done")
    assert violations(page) == []


def test_failures_come_with_reasons_and_links_and_are_taken_up_again(page: Page, working: Working) -> None:
    # Turned down before it is paid for: another attempt may bring a label.
    turned_down = stub.fails(400, "flagged", code="content_filter")
    working.service.endpoint.behave = lambda number, body: turned_down
    page.goto(f"{working.address}/jobs/new?features=0-3&recipe=standard&explainer=openai:letters-refused")
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_role("button", name="Submit this job").click()
    controls = page.locator("#controls")
    expect(controls).to_contain_text("done")
    expect(page.locator("#live")).to_contain_text("refused")
    page.reload()
    row = page.locator("#failures").get_by_role("row").nth(1)
    expect(row).to_contain_text("refused")
    expect(row.get_by_role("link")).to_have_attribute("href", re.compile(r"/saes/1/features/0\?set=\d+"))
    assert violations(page) == []
    working.service.endpoint.behave = lambda number, body: stub.GOOD
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#live")).to_contain_text("Failed0")
    expect(controls).to_contain_text("done")


def test_the_form_works_by_keyboard_and_enter_spends_nothing(page: Page, working: Working) -> None:
    page.goto(f"{working.address}/jobs/new")
    page.get_by_label("Features", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#plan")).to_be_visible()
    n_jobs = len(working.service.jobs.page())
    page.get_by_label("Features", exact=True).press("Enter")
    expect(page.locator("#plan")).to_be_visible()
    assert len(working.service.jobs.page()) == n_jobs


def test_the_pages_fit_a_narrow_screen_and_a_dark_one(page: Page, working: Working) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": 400, "height": 800})
        for path in ("/jobs", "/jobs/new", "/jobs/1"):
            page.goto(working.address + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, path
            assert violations(page) == [], (scheme, path)
