"""The page in a real browser: quiet, offline, sortable, opened by mouse and keyboard, safe, readable on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.show.page import write_report
from lcx.storage import write_lines
from tests.evaluation.report.report_data import make_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no program chromium")

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
HOSTILE = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "\"'><svg onload=window.ran=1>",
    "<!-- <script>",
    "\x00\x07 null \ud800",
    "\u202eright to left\u2066 and open",
    "مرحبا 👩‍👩‍👧 🏳️‍🌈 שלום",
    "x" * 60_000,
    "javascript:window.ran=1 @@DATA@@ \u2028 ${window.ran=1}",
    None,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "mine", trials=50)
    return write_report(run)


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open a file and, at the end, make sure that nothing was said on the console and nothing was fetched."""
    contexts = []
    wrong: list[str] = []

    def open_page(path: Path, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url != path.as_uri() and wrong.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [entry for entry in wrong if entry != "data:,"] == []


def column(page: Any, number: int) -> list[str]:
    cells = page.locator(f"#tasks table.data tbody tr > :nth-child({number})").all_inner_texts()
    return [cell.split("\n")[0] for cell in cells]


def test_every_chart_is_drawn(report: Path, visit: Open) -> None:
    page = visit(report)
    assert page.locator("figure[data-chart]").count() == 12
    assert page.locator("figure svg .curve").count() >= 2 * 11
    assert page.locator("figure svg .band").count() >= 2
    assert page.locator(".heat").count() == 3, "two models and what changed"
    assert page.locator(".heat").nth(2).locator("caption").inner_text() == "change: after minus before"


@pytest.mark.slow
def test_values_in_heat_maps_can_be_read(report: Path, visit: Open) -> None:
    page = visit(report)
    least = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('.heat td button')].map((cell) => {
        const part = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
        const light = (colour) => {
          const [red, green, blue] = colour.match(/[0-9]+/g).map((value) => part(Number(value)));
          return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
        };
        const style = getComputedStyle(cell);
        const [one, other] = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
        return (one + 0.05) / (other + 0.05);
      }))"""
    )
    assert least >= 4.5, "WCAG AA"
    assert page.locator(".heat thead tr").first.inner_text().strip() == "length in tokens →"


def test_how_to_read_a_chart_is_said_once(report: Path, visit: Open) -> None:
    hints = [text for text in visit(report).locator(".readout").all_inner_texts() if text.strip()]
    assert len(hints) == 1
    assert hints[0].startswith("Point at a place for its numbers, or tap it")


@pytest.mark.slow
def test_tables_sort_by_mouse_and_by_keyboard(report: Path, visit: Open) -> None:
    page = visit(report)
    heads = page.locator("#tasks thead th")
    before = heads.nth(1)
    before.locator("button").click()
    assert before.get_attribute("aria-sort") == "ascending"
    values = [float(value) for value in column(page, 2)]
    assert values == sorted(values)
    before.locator("button").focus()
    page.keyboard.press("Enter")
    assert before.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column(page, 2)] == sorted(values, reverse=True)
    heads.nth(0).locator("button").focus()
    page.keyboard.press("Space")
    assert before.get_attribute("aria-sort") == "none"
    assert column(page, 1) == sorted(column(page, 1))
    change = heads.nth(3)
    change.locator("button").click()
    known = [value for value in column(page, 4) if value != "–"]
    assert column(page, 4)[: len(known)] == known, "what is missing stands last"
    change.locator("button").click()
    assert column(page, 4)[0] == "+0.36"


@pytest.mark.slow
def test_a_place_opens_its_answers_by_click_and_by_enter(report: Path, visit: Open) -> None:
    page = visit(report)
    dialog = page.locator("#answers")
    assert not dialog.is_visible()
    page.locator("figure[data-chart=curve] .hit").nth(3).click()
    assert dialog.is_visible()
    assert page.locator("#answers-title").inner_text() == "val:database: places 31 to 40 of 80 (38% to 50%)"
    first = page.locator(".item").first
    assert first.locator(".excerpt mark").inner_text().startswith("record-")
    gold = first.locator(".gold").inner_text().split("\n")[0]
    assert first.locator(".excerpt mark").inner_text().endswith(f": {gold}")
    assert first.locator(".pred").count() == 2
    assert first.locator("h4").first.inner_text().startswith("before: ")
    for score, pred in zip(
        first.locator(".score").all_inner_texts(), first.locator(".pred").all_inner_texts(), strict=True
    ):
        assert score == ("right" if pred == gold else "wrong")
    places = [
        int(text.split("place ")[1].split(" of")[0]) for text in first.locator("dd").first.all_inner_texts()
    ]
    assert 31 <= places[0] <= 40
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.locator("figure[data-chart=curve] .hit").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("figure[data-chart=curve] .readout").inner_text().startswith("places 11 to 20 of 80")
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert "places 11 to 20" in page.locator("#answers-title").inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.classList.contains('hit')"), "the focus returns"


@pytest.mark.slow
def test_a_cell_opens_its_answers_and_they_are_filtered(report: Path, visit: Open) -> None:
    page = visit(report)
    cell = page.locator(".heat").first.locator("button", has_text="0.00").first
    cell.focus()
    page.keyboard.press("Enter")
    assert "32K tokens, 25% deep" in page.locator("#answers-title").inner_text()
    rows = page.locator(".item")
    assert rows.count() == 6
    assert rows.first.locator(".score").first.inner_text() == "wrong"
    page.select_option("#which", "worse")
    assert page.locator("#answers-count").inner_text() == "none of those kept in this page"
    page.select_option("#which", "better")
    assert 0 < rows.count() <= 6
    page.select_option("#which", "all")
    rows.nth(1).locator("summary").focus()
    page.keyboard.press("Enter")
    rows.nth(1).locator(".gold").wait_for()
    page.locator("#answers .close").click()
    page.locator('#tasks button.look[data-task="0"]').click()
    assert page.input_value("#which") == "wrong"
    assert rows.count() == 40
    page.locator("#answers-more").click()
    assert rows.count() == 80


@pytest.mark.slow
def test_a_model_can_be_hidden_everywhere(report: Path, visit: Open) -> None:
    page = visit(report)
    curves = page.locator("figure[data-chart=curve] .curve")
    assert [curves.nth(n).is_visible() for n in range(2)] == [True, True]
    page.locator('input[data-model="0"]').focus()
    page.keyboard.press("Space")
    assert [curves.nth(n).is_visible() for n in range(2)] == [False, True]
    assert not page.locator(".heat").first.is_visible()
    page.set_viewport_size({"width": 900, "height": 800})
    page.wait_for_function(
        "document.querySelector('figure[data-chart=curve] svg').getAttribute('width') < 900"
    )
    assert [curves.nth(n).is_visible() for n in range(2)] == [False, True], "drawn anew, it stays hidden"
    page.locator('input[data-model="0"]').check()
    assert curves.first.is_visible()


@pytest.mark.slow
def test_light_and_dark(report: Path, visit: Open) -> None:
    def brightness(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(","))

    light, dark = visit(report), visit(report, scheme="dark")
    assert brightness(light) > 600
    assert brightness(dark) < 150
    button = light.locator("#theme")
    assert button.get_attribute("aria-label") == "Switch to dark colours"
    button.focus()
    light.keyboard.press("Enter")
    assert brightness(light) < 150
    assert button.get_attribute("aria-pressed") == "true"


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_only_downwards(report: Path, visit: Open, width: int) -> None:
    page = visit(report, width=width)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    change = page.locator("#tasks td.change").first.bounding_box()
    assert width < 390 or change["x"] + change["width"] <= width, "what changed is seen without scrolling"
    table = page.locator("#tasks .scroll")
    assert table.evaluate("one => one.scrollWidth > one.clientWidth"), "tables scroll inside"
    page.locator("figure[data-chart=curve] .hit").nth(3).click()
    box = page.locator("#answers").bounding_box()
    assert box["x"] >= 0
    assert box["width"] <= width
    assert page.locator("#answers").evaluate("one => one.scrollWidth <= one.clientWidth")


@pytest.mark.slow
def test_every_control_is_reached_and_named(report: Path, visit: Open) -> None:
    page = visit(report)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, a, [role=button], summary')]
        .filter((one) => ![one.getAttribute('aria-label'), one.textContent, one.labels?.[0]?.textContent]
        .some((name) => (name || '').trim())).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "theme"
    assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2


def test_texts_of_models_stay_texts(tmp_path: Path, visit: Open) -> None:
    run = make_run(tmp_path / "<b>&run", trials=20, models=("train",))
    folder = run / "eval" / "train"
    rows = [
        {
            **{
                "set_id": 0,
                "position_id": n,
                "query": text,
                "question": text,
                "id": f"k{n}",
                "label": text or "none",
            },
            **{"description": "d", "pred": text, "score": 0.0, "excerpt": f"«{text}» {text}"},
        }
        for n, text in enumerate(HOSTILE)
    ]
    write_lines(folder / "predictions-val-database.jsonl", rows)
    page = visit(write_report(run), width=390)
    page.locator('#tasks button.look[data-task="0"]').click()
    page.evaluate("document.querySelectorAll('.item').forEach((one) => { one.open = true; })")
    page.wait_for_function(f"document.querySelectorAll('.pred').length === {len(HOSTILE)}")
    shown = page.locator(".pred").all_inner_texts()
    assert shown[0] == HOSTILE[0]
    assert shown[1] == HOSTILE[1]
    assert shown[5].startswith("␀␇ null")
    assert len(shown[8]) < 1000
    assert shown[10] == "no answer"
    assert page.evaluate("window.ran") is None
    assert page.locator("#answers img, #answers script, #answers .text svg").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert "<b>&run" in page.locator(".sub").inner_text()
