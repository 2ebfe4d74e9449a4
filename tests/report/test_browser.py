"""The page in a real browser: no errors, no missing image, values under the pointer, zoom, phone, dark and print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.report.browser import BINARY, Browser
from tests.report.conftest import Site
from tst_titan.compare.kinds.grid import best_of

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="chromium is not installed (Debian package chromium): the page cannot be opened"
)
CHART = "document.querySelector('#cpu-figure_3 .chart')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(browser: Browser, site: Site) -> Browser:
    browser.open(site.page)
    return browser


def plot_box(browser: Browser) -> tuple[float, float, float, float]:
    """The chart's SVG in the window: left, top, width, height; it is scrolled into view."""
    browser.evaluate(f"{CHART}.querySelector('svg[role]').scrollIntoView({{block: 'center'}})")
    found = browser.evaluate(
        f"(() => {{ const box = {CHART}.querySelector('svg[role]').getBoundingClientRect();"
        "return [box.x, box.y, box.width, box.height]; })()"
    )
    return tuple(found)


def output_of(browser: Browser, run: str) -> str:
    """What the legend says of a run now."""
    label = f"{CHART}.querySelector('[data-run=\"{run}\"]').closest('label')"
    return browser.evaluate(f"{label}.querySelector('output').value")


def where(browser: Browser) -> str:
    return browser.evaluate(f"{CHART}.querySelector('.where').textContent")


def tick_labels(browser: Browser) -> list[str]:
    return browser.evaluate(
        f"[...{CHART}.querySelectorAll('svg[role] text')].map((text) => text.textContent)"
    )


def hover_at_step(browser: Browser) -> int:
    """Move the pointer over the chart; returns the step that the page names."""
    x, y, width, height = plot_box(browser)
    browser.mouse("mouseMoved", x + 0.3 * width, y + 0.5 * height)
    said = where(browser)
    assert said.startswith("At step "), said
    return int(said.removeprefix("At step ").split(":")[0].replace(",", ""))


def test_opens_without_errors_and_asks_for_nothing_else(opened: Browser, site: Site) -> None:
    assert opened.problems == []
    assert opened.requests[0] == site.page.resolve().as_uri()
    assert [url for url in opened.requests[1:] if not url.startswith("data:")] == []
    charts = opened.evaluate(
        "[...document.querySelectorAll('.chart')].map((c) => c.classList.contains('ready'))"
    )
    assert charts == [True] * len(site.folders)
    missing = "[...document.images].filter((image) => !image.complete || image.naturalWidth === 0).length"
    assert opened.evaluate(missing) == 0
    # Inlined figures: every one has a size, a name for screen readers, and rasters that decode.
    plates = opened.evaluate(
        "[...document.querySelectorAll('figure > .plate svg')].map("
        "(plate) => [plate.getBoundingClientRect().height, plate.getAttribute('aria-label')])"
    )
    assert len(plates) >= 6
    assert all(label for _, label in plates) and all(height > 50 for height, _ in plates[:3])
    decoded = opened.evaluate(
        "Promise.all([...document.querySelectorAll('svg image')].map((image) => { const copy = new Image();"
        "copy.src = image.getAttribute('xlink:href') || image.getAttribute('href');"
        "return copy.decode().then(() => copy.naturalWidth); }))"
    )
    assert decoded and all(width > 0 for width in decoded)


def test_hovering_shows_the_values_of_the_nearest_logged_step(opened: Browser, site: Site) -> None:
    step = hover_at_step(opened)
    curves = pd.read_csv(site.root / site.folders["figure_3"] / "curves.csv")
    for run in ("tst", "baseline"):
        mine = curves[curves["run"] == run].reset_index(drop=True)
        # The page names whole steps; the pointer may lie up to half a step beside.
        near = mine.loc[(mine["step"] - step).abs().nsmallest(2).index]
        texts = {f"{row.smoothed:.4f} ({row.loss:.3f})" for row in near.itertuples()}
        assert output_of(opened, run) in texts
    assert opened.evaluate(f"{CHART}.querySelectorAll('[data-role=crosshair]').length") == 1
    opened.mouse("mouseMoved", 5, 5)
    assert where(opened).startswith("Final losses")
    assert opened.evaluate(f"{CHART}.querySelectorAll('[data-role=crosshair]').length") == 0


def test_without_a_pointer_the_final_losses_stand_there(opened: Browser, site: Site) -> None:
    results = site.comparison("figure_3")
    for run in results.runs:
        assert output_of(opened, run.name) == f"{results.value(run.name, 'final_loss'):.4f}"


def test_bag_losses_are_called_so(opened: Browser) -> None:
    x, y, width, height = plot_box(opened)
    opened.mouse("mouseMoved", x + 0.1 * width, y + 0.5 * height)
    assert output_of(opened, "tst").endswith(" bag loss")
    assert "bag" not in output_of(opened, "baseline")


def test_dragging_zooms_and_reset_brings_all_back(opened: Browser) -> None:
    x, y, width, height = plot_box(opened)
    whole = tick_labels(opened)
    opened.mouse("mousePressed", x + 0.25 * width, y + 0.4 * height, button="left", clickCount=1)
    opened.mouse("mouseMoved", x + 0.45 * width, y + 0.8 * height, button="left")
    opened.mouse("mouseReleased", x + 0.45 * width, y + 0.8 * height, button="left", clickCount=1)
    zoomed = tick_labels(opened)
    assert zoomed != whole and "2,500" in whole and "2,500" not in zoomed
    opened.evaluate(f"[...{CHART}.querySelectorAll('button')].find((b) => b.textContent === 'Reset').click()")
    assert tick_labels(opened) == whole


def test_ctrl_and_wheel_zoom_but_the_wheel_alone_scrolls(opened: Browser) -> None:
    x, y, width, height = plot_box(opened)
    whole = tick_labels(opened)
    opened.mouse("mouseWheel", x + width / 2, y + height / 2, deltaX=0, deltaY=-120, modifiers=2)
    assert tick_labels(opened) != whole
    opened.evaluate(f"[...{CHART}.querySelectorAll('button')].find((b) => b.textContent === 'Reset').click()")
    opened.mouse("mouseWheel", x + width / 2, y + height / 2, deltaX=0, deltaY=10)
    assert tick_labels(opened) == whole


@pytest.mark.parametrize(
    ("axis", "said"), [("flops", "FLOPs"), ("data_tokens", "data tokens"), ("hours", "hours")]
)
def test_the_axis_can_be_chosen(opened: Browser, axis: str, said: str) -> None:
    before = opened.evaluate(f"{CHART}.querySelector('[data-curve=tst]').getAttribute('d')")
    opened.evaluate(f"(() => {{ const axis = {CHART}.querySelector('[data-role=axis]'); axis.value = '{axis}';"
                    "axis.dispatchEvent(new Event('change')); })()")  # fmt: skip
    x, y, width, height = plot_box(opened)
    opened.mouse("mouseMoved", x + 0.5 * width, y + 0.5 * height)
    assert f" {said}: smoothed loss" in where(opened)
    after = opened.evaluate(f"{CHART}.querySelector('[data-curve=tst]').getAttribute('d')")
    # Steps and FLOPs run alike for every run, so their curves lie alike; data tokens do not.
    assert (after == before) == (axis != "data_tokens")


def test_runs_can_be_switched_off_and_logged_losses_on(opened: Browser) -> None:
    drawn = f"{CHART}.querySelectorAll('[data-curve]').length"
    paths = f"{CHART}.querySelectorAll('svg[role] path').length"
    assert opened.evaluate(drawn) == 4
    opened.evaluate(f"{CHART}.querySelector('input[data-run=\"baseline-2.5x\"]').click()")
    assert opened.evaluate(drawn) == 3
    assert output_of(opened, "baseline-2.5x") == ""
    before = opened.evaluate(paths)
    opened.evaluate(f"{CHART}.querySelector('[data-role=logged]').click()")
    assert opened.evaluate(paths) == before + 7  # stages of the three runs that are left


def test_arrow_keys_read_values_aloud(opened: Browser) -> None:
    opened.evaluate(f"{CHART}.querySelector('svg[role]').focus()")
    opened.press("Home")
    assert where(opened).startswith("At step 0:")
    opened.press("ArrowRight")
    assert where(opened).startswith("At step 25:")
    assert opened.evaluate(f"{CHART}.querySelector('.where').getAttribute('aria-live')") == "polite"


def test_a_grid_starts_with_baseline_and_best_and_can_show_all(opened: Browser, site: Site) -> None:
    chart = "document.querySelector('#cpu-figure_4 .chart')"
    checked = opened.evaluate(
        f"[...{chart}.querySelectorAll('input[data-run]:checked')].map((box) => box.dataset.run)"
    )
    best = best_of(site.comparison("figure_4"), "small-short", "final_loss")
    assert best is not None and f"small-short-s{best[0]:g}-r{best[1]:g}" in checked
    assert "small-short-s1-r0" in checked and len(checked) == 3
    opened.evaluate(
        f"[...{chart}.querySelectorAll('button')].find((b) => b.textContent === 'Show all').click()"
    )
    assert opened.evaluate(f"{chart}.querySelectorAll('[data-curve]').length") == 7  # r = 1 has no token loss


def test_without_scripts_the_static_figures_show(browser: Browser, site: Site) -> None:
    browser.set_scripts(allowed=False)
    try:
        browser.open(site.page)
        assert browser.problems == []
        tree = browser.text_tree()
    finally:
        browser.set_scripts(allowed=True)
    assert "Loss against data tokens" in tree and "Loss against steps" in tree
    assert "Token phases" not in tree
    browser.open(site.page)
    tree = browser.text_tree()
    assert "Token phases" in tree and "Loss against data tokens" not in tree


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone(browser: Browser, site: Site, dark: bool) -> None:
    browser.open(site.page, width=390, height=800, dark=dark, phone=True)
    assert browser.problems == []
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    _, _, width, height = plot_box(browser)
    assert width <= 390 and height >= 250
    assert browser.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "auto"


def test_dark_is_dark_in_page_and_figures(browser: Browser, site: Site) -> None:
    def look() -> Any:
        return browser.evaluate(
            "((style) => [style('body').backgroundColor, style('.plate svg text').fill,"
            "style('#cpu-figure_3 [data-curve=baseline]').stroke])"
            "((what) => getComputedStyle(document.querySelector(what)))"
        )

    browser.open(site.page)
    assert look() == ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(0, 0, 0)"]
    browser.open(site.page, dark=True)
    assert look() == ["rgb(20, 23, 27)", "rgb(230, 233, 237)", "rgb(255, 255, 255)"]


def test_prints_static_figures_on_white(browser: Browser, site: Site, tmp_path: Path) -> None:
    browser.open(site.page, dark=True)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= len(
        site.folders
    )
    browser.open(site.page, width=690, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate(f"getComputedStyle({CHART}).display") == "none"
    assert browser.evaluate("getComputedStyle(document.querySelector('.static-curves')).display") == "block"
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("document.querySelectorAll('details.printed').length") >= 1
    assert browser.evaluate("[...document.querySelectorAll('details.printed')].every((one) => one.open)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 690
