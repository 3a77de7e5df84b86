"""The page of a sample in Chromium: the table sorts, filters and searches, nothing is requested, narrow screens fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from virnuc_assets.classifier.sample_calls import SampleCalls

from .sample_fakes import NAN, html_of, record, sample
from .test_sample_page import HOSTILE, hostile, many

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """Opens the page of some calls; fails if it logs an error or requests anything but itself."""
    seen: list[str] = []
    contexts = []

    def open_page(calls: SampleCalls, **options: Any) -> Any:
        html_of(tmp_path, calls)
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: seen.append(request.url))
        address = (tmp_path / "report.html").as_uri()
        page.goto(address)
        if options.get("java_script_enabled", True):
            playwright.expect(page.locator("#found")).not_to_be_empty()
        assert seen == [address]
        seen.clear()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert seen == []


def column(page: Any, number: int) -> list[str]:
    """Texts of a column of the table, which its script has written."""
    texts: list[str] = page.locator(f"#table tbody tr > :nth-child({number})").all_inner_texts()
    return texts


def test_the_script_writes_the_rows_that_the_page_had_without_it(opened: Opened) -> None:
    calls = sample(
        *(record(name, "virus", [0.9, NAN], 200, source=name) for name in HOSTILE),
        *(record(f"o{i}", "other", [i / 500, 0.0], 1000 + i, source="o") for i in range(60)),
        record("empty", "not scored", [], 0, reason="empty record"),
    )
    rows = "#table tbody tr"
    before = opened(calls, java_script_enabled=False).locator(rows)
    after = opened(calls).locator(rows)
    assert before.count() == after.count() == 50
    strip = "rows => rows.map(row => row.outerHTML.replaceAll('\\n', ''))"
    assert before.all_inner_texts() == after.all_inner_texts()
    assert before.evaluate_all(strip) == after.evaluate_all(strip)


def test_records_are_sorted_filtered_searched_and_paged(opened: Opened) -> None:
    page = opened(many(20_000))
    found, expect = page.locator("#found"), playwright.expect
    assert found.inner_text() == "1 to 50 of 20,000 records"
    page.get_by_role("button", name="Probability").click()
    assert column(page, 1)[:3] == ["20,000", "19,998", "19,999"]  # equal ones in the page's order
    assert column(page, 4)[:3] == ["> 0.9999", "0.9999", "0.9999"]
    page.get_by_role("button", name="Probability").click()
    assert column(page, 4)[0] == "< 0.0001" and page.locator("[aria-sort=ascending]").count() == 1
    page.get_by_label("uncertain").check()
    expect(found).to_have_text("1 to 50 of 12,000 records")
    assert set(column(page, 3)) == {"uncertain\nfew data\nbetween 0.2 and 0.8"} and column(page, 4)[0] == "0.2000"
    page.get_by_label("Page").fill("240")
    page.get_by_label("Page").press("Enter")
    expect(found).to_have_text("11,951 to 12,000 of 12,000 records")
    assert page.get_by_role("button", name="Next").is_disabled() and column(page, 4)[-1] == "0.8000"
    page.get_by_role("button", name="Previous").click()
    expect(found).to_have_text("11,901 to 11,950 of 12,000 records")
    page.get_by_label("Search id").fill("node_10000_")
    expect(found).to_have_text("1 to 1 of 1 records")
    page.get_by_label("Search id").fill("nothing like it")
    expect(found).to_have_text("No record fits.")
    page.locator("a.show").first.click()  # shows them all, whatever was searched and sorted before
    expect(found).to_have_text("1 to 50 of 4,000 records")
    assert page.get_by_label("Search id").input_value() == "" and page.locator("[aria-sort]").count() == 0
    page.get_by_role("button", name="Length").click()
    page.get_by_role("button", name="First order again").click()
    assert page.locator("[aria-sort]").count() == 0 and not page.get_by_text("First order again").is_visible()


def test_records_without_a_value_come_last_in_either_direction(opened: Opened) -> None:
    none, other, virus = (("a", "not scored", [NAN]), ("b", "other", [0.1]), ("c", "virus", [0.9]))
    page = opened(sample(*(record(*each, 9) for each in (none, other, virus))))
    for expected in (["c", "b", "a"], ["b", "c", "a"]):
        page.get_by_role("button", name="Probability").click()
        assert column(page, 2) == expected


def test_all_records_are_sorted_by_what_was_not_scored(opened: Opened) -> None:
    part = record("b", "other", [0.1, NAN], 200)
    page = opened(sample(record("a", "virus", [0.9], 9), part, record("c", "not scored", [NAN], 9)))
    page.get_by_label("Search id").fill("a")
    playwright.expect(page.locator("#found")).to_have_text("1 to 1 of 1 records")
    page.get_by_role("link", name="Records by what was not scored").click()
    assert column(page, 2) == ["c", "b", "a"] and page.get_by_label("all").is_checked()


def test_the_next_page_begins_at_the_head_of_the_table(opened: Opened) -> None:
    page = opened(many(200))
    page.get_by_role("button", name="Next").click()
    assert 0 <= page.locator("#found").bounding_box()["y"] < 100


@pytest.mark.parametrize("width", [1200, 420])
@pytest.mark.parametrize("calls", [hostile(), many(40, chunks=1000), many(2)], ids=["hostile", "long", "few"])
def test_the_page_is_as_wide_as_the_screen(opened: Opened, width: int, calls: SampleCalls) -> None:
    page = opened(calls, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.get_by_role("heading", level=1).is_visible()
    track = page.locator("svg.lanes").first.bounding_box()
    assert track["x"] + track["width"] <= width and track["width"] > width / 2


def test_a_keyboard_reaches_and_sorts_the_table(opened: Opened) -> None:
    page = opened(many(100))
    button = page.get_by_role("button", name="Length")
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Length")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Longest viral stretch"
