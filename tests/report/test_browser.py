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
CHART = "document.querySelector('.chart')"
PLOT = "document.querySelector('.chart .plot')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(browser: Browser, site: Site) -> Browser:
    browser.open(site.page("figure_3"))
    return browser


def box_of(browser: Browser, element: str) -> tuple[float, float, float, float]:
    """An element in the window: left, top, width, height; the chart is scrolled into view."""
    browser.evaluate(f"{PLOT}.scrollIntoView({{block: 'center'}})")
    return tuple(
        browser.evaluate(
            f"(() => {{ const box = {element}.getBoundingClientRect();"
            "return [box.x, box.y, box.width, box.height]; })()"
        )
    )


def plot_box(browser: Browser) -> tuple[float, float, float, float]:
    """The plot between its axes."""
    return box_of(browser, f"{PLOT}.querySelector('.nsewdrag')")


def hover(browser: Browser, across: float) -> list[str]:
    """Move the pointer over the chart; the lines that the chart shows then, the place first."""
    x, y, width, height = plot_box(browser)
    lines = f"[...{PLOT}.querySelectorAll('.hoverlayer .legend text')].map((text) => text.textContent)"
    for pixel in (2, 0):  # Plotly waits for a movement
        browser.mouse("mouseMoved", x + across * width - pixel, y + 0.5 * height)
    browser.wait_until(f"{lines}.length > 1")
    return browser.evaluate(lines)


def ticks(browser: Browser, axis: str) -> list[str]:
    return browser.evaluate(
        f"[...{PLOT}.querySelectorAll('.{axis}tick text')].map((text) => text.textContent)"
    )


def choose(browser: Browser, name: str, value: str) -> None:
    browser.evaluate(f"(() => {{ const select = {CHART}.querySelector('[name={name}]'); select.value = '{value}';"
                     "select.dispatchEvent(new Event('change', {bubbles: true})); })()")  # fmt: skip


def shown(browser: Browser) -> list[str]:
    """Runs whose curves are drawn."""
    runs = f"{PLOT}.data.filter((trace) => trace.visible === true).map((trace) => trace.legendgroup)"
    return browser.evaluate(f"[...new Set({runs})]")


def click_name(browser: Browser, name: str) -> None:
    """A real click on a run's name in the legend."""
    entry = f"[...{PLOT}.querySelectorAll('.legend .traces')].find((e) => e.textContent === '{name}')"
    x, y, width, height = box_of(browser, f"{entry}.querySelector('.legendtoggle')")
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, x + width / 2, y + height / 2, button="left", clickCount=1)


def test_opens_without_errors_and_asks_for_plotly_alone(opened: Browser, site: Site) -> None:
    assert opened.problems == []
    library = site.index.with_name("plotly.min.js")
    page = site.page("figure_3")
    assert opened.requests == [file.resolve().as_uri() for file in (page, library)]
    assert opened.evaluate(f"{CHART}.classList.contains('ready')")
    missing = "[...document.images].filter((image) => !image.complete || image.naturalWidth === 0).length"
    assert opened.evaluate(missing) == 0
    # Inlined figures: every one has a size, a name for screen readers, and rasters that decode.
    plates = opened.evaluate(
        "[...document.querySelectorAll('figure > .plate svg')].map("
        "(plate) => [plate.getBoundingClientRect().height, plate.getAttribute('aria-label')])"
    )
    assert len(plates) >= 2
    assert all(label for _, label in plates) and all(height > 50 for height, _ in plates[:2])


def test_every_raster_of_a_figure_decodes(browser: Browser, site: Site) -> None:
    browser.open(site.page("figure_1"))
    decoded = browser.evaluate(
        "Promise.all([...document.querySelectorAll('svg image')].map((image) => { const copy = new Image();"
        "copy.src = image.getAttribute('xlink:href') || image.getAttribute('href');"
        "return copy.decode().then(() => copy.naturalWidth); }))"
    )
    assert decoded and all(width > 0 for width in decoded)


def test_hovering_shows_the_values_of_the_nearest_logged_step(opened: Browser, site: Site) -> None:
    place, *lines = hover(opened, 0.3)
    step = float(place.replace(",", ""))
    curves = pd.read_csv(site.root / site.folders["figure_3"] / "curves.csv")
    labels = {run.name: run.label for run in site.comparison("figure_3").runs}
    for run in ("tst", "baseline"):
        mine = curves[(curves["run"] == run) & curves["comparable"]]
        near = mine.loc[(mine["step"] - step).abs().nsmallest(2).index]
        texts = {f"{labels[run]} : {row.smoothed:.4f}" for row in near.itertuples()}
        assert texts & set(lines), (texts, lines)
    opened.mouse("mouseMoved", 5, 5)
    opened.wait_until(f"{PLOT}.querySelectorAll('.hoverlayer .legend').length === 0")


def test_the_end_of_a_curve_names_the_final_loss(opened: Browser, site: Site) -> None:
    # The longest run alone ends at the right edge.
    lines = hover(opened, 2500 / 2650)
    final = f"{site.comparison('figure_3').value('baseline-2.5x', 'final_loss'):.4f} final loss"
    assert any(line.endswith(final) for line in lines), lines


def test_bag_losses_are_called_so(opened: Browser) -> None:
    choose(opened, "view", "whole")
    _, *lines = hover(opened, 0.05)
    assert [line.endswith(" bag loss") for line in lines if line.startswith("TST")] == [True]
    assert not any("bag" in line for line in lines if line.startswith("baseline"))


@pytest.mark.parametrize("view", ["readable", "whole"])
def test_a_tick_stands_where_its_label_says(opened: Browser, view: str) -> None:
    choose(opened, "view", view)
    found = opened.evaluate(
        f"(() => {{ const axis = {PLOT}._fullLayout.yaxis;"
        f"return [...{PLOT}.querySelectorAll('.ytick text')].map((text) => [text.textContent,"
        "Math.abs(axis.d2p(Number(text.textContent)) + axis._offset - "
        "text.getCTM().f + text.ownerSVGElement.getCTM().f)]); })()"
    )
    assert len(found) >= 4 and len({label for label, _ in found}) == len(found)
    assert max(distance for _, distance in found) < 1, found


def test_dragging_zooms_and_a_double_click_brings_all_back(opened: Browser) -> None:
    x, y, width, height = plot_box(opened)
    whole = ticks(opened, "x")
    assert "2,500" in whole
    at = (x + 0.25 * width, y + 0.4 * height)
    opened.mouse("mousePressed", *at, button="left", clickCount=1)
    for part in (0.3, 0.45):
        opened.mouse("mouseMoved", x + part * width, y + 0.8 * height, button="left")
    opened.mouse("mouseReleased", x + 0.45 * width, y + 0.8 * height, button="left", clickCount=1)
    opened.wait_until(f"!{PLOT}.querySelector('.xaxislayer-above').textContent.includes('2,500')")
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            opened.mouse(kind, *at, button="left", clickCount=count)
    opened.wait_until(f"{PLOT}.querySelector('.xaxislayer-above').textContent.includes('2,500')")
    assert sorted(ticks(opened, "x")) == sorted(whole)


@pytest.mark.parametrize(
    ("axis", "title", "tick"),
    [
        ("flops", "FLOPs", "0.5×10\u200b13\u200b"),
        ("data_tokens", "Data tokens", "4M"),
        ("hours", "Training time, hours", "0.01"),
    ],
)
def test_the_axis_can_be_chosen(opened: Browser, axis: str, title: str, tick: str) -> None:
    curve = f"{PLOT}.querySelector('.scatterlayer .js-line').getAttribute('d')"
    before = opened.evaluate(curve)
    choose(opened, "axis", axis)
    assert opened.evaluate(f"{PLOT}.querySelector('.xtitle').textContent") == title
    assert tick in ticks(opened, "x")
    # Steps and FLOPs run alike for every run, so their curves lie alike; data tokens do not.
    assert (opened.evaluate(curve) == before) == (axis != "data_tokens")


def test_logged_losses_can_be_chosen(opened: Browser, site: Site) -> None:
    choose(opened, "loss", "logged")
    drawn = opened.evaluate(
        f"{PLOT}.data.find(({{ legendgroup, meta }}) => legendgroup === 'baseline' && meta.kind === 'token').y"
    )
    curves = pd.read_csv(site.root / site.folders["figure_3"] / "curves.csv")
    assert drawn == pytest.approx(curves.loc[curves["run"] == "baseline", "loss"].tolist(), rel=1e-6)


def test_a_name_hides_its_run_with_mouse_and_keyboard_on_every_axis(opened: Browser) -> None:
    assert shown(opened) == ["tst", "baseline", "baseline-1.8x", "baseline-2.5x"]
    click_name(opened, "baseline-2.5x")
    opened.wait_until(f"{PLOT}.data.filter((trace) => trace.visible !== true).length === 2")
    assert shown(opened) == ["tst", "baseline", "baseline-1.8x"]
    choose(opened, "axis", "hours")
    assert shown(opened) == ["tst", "baseline", "baseline-1.8x"]
    entry = f"{PLOT}.querySelector('.legend .traces[aria-label=\"TST s=6 r=0.3\"]')"
    assert opened.evaluate(f"{entry}.getAttribute('aria-checked')") == "true"
    opened.evaluate(f"{entry}.focus()")
    opened.press("Enter")
    assert shown(opened) == ["baseline", "baseline-1.8x"]
    assert opened.evaluate(f"{entry}.getAttribute('aria-checked')") == "false"


def test_a_grid_starts_with_baseline_and_best_and_has_its_groups(browser: Browser, site: Site) -> None:
    browser.open(site.page("figure_4"))
    best = best_of(site.comparison("figure_4"), "small-short", "final_loss")
    assert best is not None and "small-short-s{:g}-r{:g}".format(*best) in shown(browser)
    assert "small-short-s1-r0" in shown(browser) and len(shown(browser)) == 3
    choose(browser, "group", "medium-short")
    assert {run.rsplit("-", 2)[0] for run in shown(browser)} == {"medium-short"}
    assert browser.problems == []


def test_without_scripts_or_plotly_the_static_figures_show(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    # Scripts are there, Plotly is not: the page was copied alone.
    alone = tmp_path / "cpu" / "figure_3.html"
    alone.parent.mkdir()
    alone.write_bytes(site.page("figure_3").read_bytes())
    browser.open(alone)
    trees = [browser.text_tree()]
    browser.set_scripts(allowed=False)
    try:
        browser.open(site.page("figure_3"))
        assert browser.problems == []
        trees.append(browser.text_tree())
    finally:
        browser.set_scripts(allowed=True)
    for tree in trees:
        assert "Loss against data tokens" in tree and "Loss against steps" in tree
        assert "Click a name" not in tree and "A ring marks" not in tree
    browser.open(site.page("figure_3"))
    tree = browser.text_tree()
    assert "Click a name" in tree and "A ring marks" in tree and "Loss against data tokens" not in tree


def test_no_column_is_cut_off_on_a_desk(browser: Browser, site: Site) -> None:
    for name in ("figure_3", "figure_4", "figure_1"):
        browser.open(site.page(name), width=1280, height=900)
        wide = "[...document.querySelectorAll('.scroll, .plate')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert browser.evaluate(wide) == 0, name


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone(browser: Browser, site: Site, dark: bool) -> None:
    browser.open(site.page("figure_3"), width=390, height=800, dark=dark, phone=True)
    assert browser.problems == []
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    _, _, width, height = plot_box(browser)
    assert width <= 390 and height >= 250
    assert browser.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "auto"


def test_dark_is_dark_in_page_and_figures(browser: Browser, site: Site) -> None:
    def look() -> Any:
        return browser.evaluate(
            "((style) => [style('body').backgroundColor, style('.plate svg text').fill,"
            "style(\"[aria-label='baseline'] .legendlines path\").stroke])"
            "((what) => getComputedStyle(document.querySelector(what)))"
        )

    browser.open(site.page("figure_3"))
    assert look() == ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(0, 0, 0)"]
    browser.open(site.page("figure_3"), dark=True)
    assert look() == ["rgb(20, 23, 27)", "rgb(230, 233, 237)", "rgb(255, 255, 255)"]


def test_prints_static_figures_on_white(browser: Browser, site: Site, tmp_path: Path) -> None:
    browser.open(site.page("figure_3"), dark=True)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    browser.open(site.page("figure_3"), width=690, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate(f"getComputedStyle({CHART}).display") == "none"
    assert browser.evaluate("getComputedStyle(document.querySelector('.static-curves')).display") == "block"
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("document.querySelectorAll('details.printed').length") >= 1
    assert browser.evaluate("[...document.querySelectorAll('details.printed')].every((one) => one.open)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 690
