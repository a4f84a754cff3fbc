"""The reading pages in a real browser: what they do when they are used, and whether everybody can use them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

PAGES = {
    "home": "/",
    "sae": "/saes/1?set=1",
    "feature": "/saes/1/features/2?set=2",
    "hostile": "/saes/1/features/1?set=3",
    "silent": "/saes/1/features/9?set=3",
    "embedded": "/saes/1/features/2?set=2&embed=1",
    "prompts": "/saes/1/features/2/prompts?set=2",
    "search": "/search?q=Q",
    "compare": "/compare?a=1&b=2",
    "card": "/sets/2/card",
    "REST API": "/docs",
    "sign in": "/sign-in",
    "not there": "/saes/77",
}


@pytest.mark.parametrize("name", PAGES)
def test_everybody_can_use_it(reader: Page, name: str) -> None:
    page = reader
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")
    page.goto(PAGES[name])
    page.wait_for_load_state("networkidle")
    found = violations(page)
    page.emulate_media(color_scheme="dark")  # which changes colours, and nothing else
    found += violations(page, runOnly=["color-contrast"])
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert not found, "\n".join(
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary']}" for v in found
    )


def violations(page: Page, **options: Any) -> list[dict[str, Any]]:
    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [v for v in found if v["impact"] in ("serious", "critical")]


def test_a_label_cannot_run(page: Page) -> None:
    for feature in range(7):
        page.goto(f"/saes/1/features/{feature}?set=3")
        assert page.evaluate("window.hacked") is None
    page.goto("/search?q=<img src=x onerror='window.hacked=1'>")
    assert page.evaluate("window.hacked") is None


def test_a_point_of_the_scatter_opens_its_feature(page: Page) -> None:
    page.goto("/saes/1?set=1")
    canvas = page.locator(".plot canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("Scores of 30 features"))
    box = canvas.bounding_box()
    assert box is not None
    tip = page.locator(".plot .tip")
    for y in range(0, int(box["height"]), 4):  # until a point is under the pointer
        for x in range(30, int(box["width"]), 6):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if tip.is_visible():
                break
        if tip.is_visible():
            break
    expect(tip).to_contain_text(re.compile(r"feature \d+\nscore \d\.\d\d, density"))
    feature = re.findall(r"feature (\d+)", tip.inner_text())[0]
    page.mouse.down()
    page.mouse.up()
    page.wait_for_url(f"**/saes/1/features/{feature}?set=1")


def test_the_scatter_is_a_table_too(page: Page) -> None:
    page.goto("/saes/1?set=1")
    page.get_by_text("The same as a table").click()
    expect(page.locator(".scatter tbody tr").first.locator("td").nth(1)).to_have_text(re.compile(r"\d+"))


def test_the_table_is_filtered_without_a_new_page(page: Page) -> None:
    page.goto("/saes/1?set=1")
    page.evaluate("window.same = true")
    page.get_by_label("Text of the label").fill("Q")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#features tbody tr")).to_have_count(2)
    assert "text=Q" in page.url
    assert page.evaluate("window.same") is True
    page.reload()
    expect(page.locator("#features tbody tr")).to_have_count(2)
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("link", name="Score", exact=True).click()
    expect(page.get_by_role("columnheader", name="Score", exact=True)).to_have_attribute("aria-sort", "descending")


def test_the_table_is_filtered_again_and_again(page: Page) -> None:
    """Fields that were empty the first time are no part of that address, and can be filled the next time."""
    page.goto("/saes/1?set=1")
    rows = page.locator("#features tbody tr")
    page.get_by_label("Text of the label").fill("Q")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(2)
    assert page.url.endswith("/saes/1?set=1&text=Q")
    page.get_by_label("Text of the label").fill("")
    page.get_by_label("State").select_option("silent")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(1)
    assert page.url.endswith("/saes/1?set=1&state=silent")


def test_back_from_a_feature_is_the_whole_page_again(page: Page) -> None:
    """The table alone came from the same address."""
    page.goto("/saes/1?set=1")
    page.get_by_label("Text of the label").fill("Q")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#features tbody tr")).to_have_count(2)
    page.locator("#features tbody a").first.click()
    page.wait_for_url("**/features/*")
    page.go_back()
    expect(page.locator("#features tbody tr")).to_have_count(2)
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_back_after_filter_sort_and_next_is_the_whole_page(page: Page) -> None:
    """Addresses that htmx has pushed: the browser comes back to them without a page in its hands."""
    page.goto("/saes/1?set=1")
    whole, rows = page.get_by_role("heading", level=1), page.locator("#features tbody tr")
    all_rows = rows.count()
    page.get_by_label("Text of the label").fill("Q")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="Density").click()
    expect(page.get_by_role("columnheader", name="Density")).to_have_attribute("aria-sort", "descending")
    page.go_back()
    page.wait_for_url("**/saes/1?set=1&text=Q")
    expect(whole).to_be_visible()
    expect(page.get_by_label("Text of the label")).to_have_value("Q")
    page.reload()
    expect(whole).to_be_visible()
    expect(rows).to_have_count(2)
    page.go_back()
    page.wait_for_url("**/saes/1?set=1")
    expect(whole).to_be_visible()
    expect(rows).to_have_count(all_rows)
    expect(page.locator(".plot [role=status]")).to_be_hidden()  # the scripts of the page run again
    page.go_forward()
    expect(rows).to_have_count(2)
    expect(whole).to_be_visible()


def test_features_are_leafed_through_by_keyboard(page: Page) -> None:
    page.goto("/saes/1/features/2?set=2")
    page.keyboard.press("j")
    page.wait_for_url("**/saes/1/features/3?set=2")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/saes/1/features/2?set=2")
    with page.expect_navigation(url=re.compile(r"/saes/1/features/\d+\?set=2")):
        page.keyboard.press("r")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("Q")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=Q")
    page.locator("#main").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/saes/1/features/*")


def test_every_part_is_reached_by_tab_with_a_visible_focus(page: Page) -> None:
    page.goto("/saes/1/features/2?set=2")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    seen = set[str]()
    while "" not in seen:  # round to the window itself
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "(() => { const e = document.activeElement; return e === document.body ? ['', ''] : "
            "[e.textContent.trim() || e.name || e.id, getComputedStyle(e).outlineStyle] })()"
        )
        assert outline != "none", name
        seen.add(name)
    assert {"Random", "Copy link", "Accept", "Save", "prompts"} <= seen


def test_a_feature_is_copied_as_link_and_as_json(page: Page, site: str) -> None:
    page.goto("/saes/1/features/2?set=2")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("status").filter(has_text="copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"{site}/saes/1/features/2?set=2"
    with page.expect_response("**/v1/saes/1/features/2?set=2"):
        page.get_by_role("button", name="Copy as JSON").click()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.startsWith('{'))")
    copied: Any = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["feature_index"] == 2


def test_prompts_are_one_click_away(page: Page) -> None:
    page.goto("/saes/1/features/2?set=2")
    page.get_by_role("link", name="prompts").first.click()
    page.wait_for_selector("#prompts .asked, .asked")
    page.goto("/saes/1/features/2?set=2")
    page.locator('a[href$="/prompts?set=2"]').click()
    expect(page.locator("#prompts summary")).to_have_count(4)
    expect(page.locator("#prompts pre").first).to_contain_text("Say what the feature detects")


def test_a_review_is_written_and_withdrawn_on_the_page(page: Page) -> None:
    page.goto("/saes/1/features/3?set=2")
    page.get_by_label("Corrected text").fill("blanks")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#reviews li")).to_contain_text("writes local: blanks")
    page.reload()
    expect(page.get_by_role("table").filter(has_text="not scored")).to_contain_text("blanks")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("write a corrected text or a comment")
    page.get_by_role("button", name="Withdraw").click()
    expect(page.locator("#reviews li.withdrawn")).to_contain_text("withdrawn")


@pytest.mark.parametrize("scripts", [True, False])
def test_enter_saves_what_the_field_is_for(page: Page, site: str, scripts: bool) -> None:
    """Never a verdict: the browser presses the first button of a form, whether scripts run or not."""
    browser = page.context.browser
    assert browser is not None
    context = browser.new_context(base_url=site, java_script_enabled=scripts)
    with context.new_page() as plain:
        feature = "/saes/1/features/5?set=2" if scripts else "/saes/1/features/6?set=2"
        plain.goto(feature)
        said = plain.locator("#reviews li")
        plain.get_by_label("Comment").fill("only a remark")
        plain.get_by_label("Comment").press("Enter")
        expect(said).to_have_count(1)
        expect(said.last).to_contain_text("comments local")
        plain.get_by_label("Corrected text").fill("a better one")
        plain.get_by_label("Corrected text").press("Enter")
        expect(said).to_have_count(2)
        expect(said.last).to_contain_text("writes local: a better one")
        plain.get_by_label("Corrected text").press("Enter")
        expect(plain.get_by_label("Corrected text")).to_have_attribute("aria-invalid", "true")
        expect(said).to_have_count(2)
    context.close()


# The first button of a form is what Enter presses: none of these spends, judges, or ends anything.
_HARMLESS = {
    ("/search", "Search"),
    ("/search", ""),
    ("/saes/1", "Filter"),
    ("/saes/1", ""),
    ("/compare", "Compare"),
    ("/try", "Read it"),
    ("/sign-in", "Sign in"),
    ("/jobs/new#plan", "Show the plan"),
    ("", "Close"),
}


def test_enter_does_no_harm_in_any_form(reader: Page) -> None:
    found = set()
    for path in (
        "/",
        "/saes/1?set=1",
        "/saes/1/features/2?set=2",
        "/search?q=Q",
        "/compare",
        "/try",
        "/jobs",
        "/jobs/new",
        "/sign-in",
        "/nowhere",
    ):
        reader.goto(path)
        found |= {
            tuple(pair)
            for pair in reader.evaluate(
                "[...document.forms].filter(f => [...f.elements].some(e => e.matches('input:not([type=hidden])')))"
                ".map(f => [f.getAttribute('action') || '', "
                "[...f.elements].find(e => e.type === 'submit')?.textContent.trim() || ''])"
            )
        }
    assert found - _HARMLESS == {("/saes/1/features/2/reviews", "Save")}


def test_the_theme_is_kept(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    page.goto("/compare")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_without_scripts_the_pages_still_answer(page: Page, site: str) -> None:
    context = page.context.browser and page.context.browser.new_context(base_url=site, java_script_enabled=False)
    assert context is not None
    plain = context.new_page()
    plain.goto("/saes/1?set=1&state=silent")
    expect(plain.locator("#features tbody tr")).to_have_count(1)
    plain.goto("/saes/1/features/2?set=2")
    plain.locator('a[href$="/prompts?set=2"]').click()
    expect(plain.get_by_role("heading", name="Prompts and replies")).to_be_visible()
    context.close()


def test_the_list_of_jobs_goes_on_without_a_reload(page: Page, site: str) -> None:
    asked = [{"evidence": 1, "features": "0-9", "recipe": {"seed": seed}} for seed in (88, 89)]
    jobs = [page.request.post(f"{site}/v1/jobs", data=body).json()["id"] for body in asked]
    page.goto("/jobs")
    for job in jobs:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=f"label {job}", exact=True))
        expect(row).to_contain_text("queued")
        page.request.post(f"{site}/v1/jobs/{job}/cancel")
        expect(row).to_contain_text("cancelled by request")
    expect(page.locator("[hx-get]")).to_have_count(0)


def test_a_job_appears_on_the_first_page_without_a_reload(page: Page, site: str) -> None:
    page.goto("/")
    page.evaluate("window.same = true")
    expect(page.get_by_role("heading", name="Jobs under way")).to_have_count(0)
    answer = page.request.post(f"{site}/v1/jobs", data={"evidence": 1, "features": "0-9", "recipe": {"seed": 77}})
    assert answer.status == 202, answer.text()
    expect(page.get_by_role("heading", name="Jobs under way")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="queued")).to_contain_text("0 of 10")
    assert page.evaluate("window.same") is True
    page.request.post(f"{site}/v1/jobs/{answer.json()['id']}/cancel")
