"""Texts in a real browser, read by a real gather worker."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.pages.browser.test_jobs import violations
from tests.pages.browser.working import Working


def read(page: Page, working: Working, text: str) -> None:
    page.goto(f"{working.address}/try")
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Read it").click()
    expect(page.locator("[data-ready]")).to_be_visible()


def test_a_text_is_read_coloured_and_leads_to_its_features(page: Page, working: Working) -> None:
    read(page, working, "Quick aeiou 7\nQ <script>window.hacked = 1</script>")
    tokens = page.locator(".pickable i")
    expect(tokens.first).to_have_class(re.compile("^h10$"))
    assert violations(page) == []

    tokens.first.click()
    expect(page.locator("#at-token")).to_contain_text("Token 1 Q: the strongest features")
    expect(page.locator("#at-token a").first).to_have_attribute("href", re.compile(r"^/saes/1/features/0(\?set=\d+)?$"))
    page.keyboard.press("Tab")
    page.locator(".pickable").press("ArrowRight")
    expect(page.locator("#at-token")).to_contain_text("Token 2 u")
    page.locator(".pickable").press("End")
    expect(page.locator("#at-token")).to_contain_text("Token 50")

    expect(page.locator('tr[data-feature="28"]')).to_contain_text("100%")  # the letter u, as high as in the corpus
    row = page.locator('tr[data-feature="0"]')
    row.get_by_role("button").click()
    expect(page.locator("#shown")).to_contain_text("feature 0")
    expect(page.locator(".pickable .h10")).to_have_text(["Q", "Q"])
    page.get_by_role("button", name="All features").click()
    expect(page.locator(".pickable .h0")).not_to_have_count(50)
    assert page.evaluate("window.hacked") is None
    row.get_by_role("link").click()
    expect(page).to_have_url(re.compile(r"/saes/1/features/0(\?set=\d+)?$"))


def test_a_million_characters_are_refused_and_stay_in_the_field(page: Page, working: Working) -> None:
    page.goto(f"{working.address}/try")
    text = page.get_by_label("Text")
    text.evaluate("field => { field.value = 'a'.repeat(1_000_000); field.dispatchEvent(new Event('input')); }")
    expect(page.locator("#length")).to_have_text(
        "1,000,000 characters, and at most 20,000 are read at once: send it in parts"
    )
    page.get_by_role("button", name="Read it").click()
    expect(page).to_have_url(re.compile(r"/try$"))
    assert text.evaluate("field => field.value.length") == 1_000_000


def test_it_fits_a_narrow_screen_and_a_dark_one(page: Page, working: Working) -> None:
    read(page, working, "Q7 and some more words, so that a line is full and breaks; " * 4)
    place = page.url
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": 400, "height": 800})
        page.goto(place)
        expect(page.locator("[data-ready]")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert violations(page) == [], scheme
