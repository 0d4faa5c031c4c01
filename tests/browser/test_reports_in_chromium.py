"""Reports opened from disk in headless Chromium, its network cut: drawn whole, no errors, nothing sticks out."""

import importlib.util
import runpy
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ivlens import HeadEffects, InstructionVector, TrainingRun, cli
from ivlens.views import (
    attention_view,
    frame_table,
    head_heatmap,
    write_comparison_report,
    write_page,
    write_repair_report,
)
from ivlens.vocabulary import Head
from patchings import patched
from repairs import repaired
from reverted import reverted

pytestmark = pytest.mark.browser
TESTS = Path(__file__).parents[1]
RECORDS = TESTS.parent / "figures" / "laboratory" / "records" / "smollm2"
LONG = ["base", *(f"outputs/run-lowercase-first-letter/checkpoint-{500 * at}" for at in range(1, 9))]
WIDTH, NARROW, PRINTED = 1280, 700, 720  # pixels of a window, and of a sheet of A4 without its margins
DRAWN = """
return [...document.querySelectorAll('.plotly-graph-div')].map(figure => {
  const drawn = figure.querySelector('svg.main-svg'), box = drawn && drawn.getBoundingClientRect();
  return Boolean(box && box.width > 100 && box.height > 100);
})"""
STICKING_OUT = """
const outside = [...document.querySelectorAll('.figure')].filter(each => each.scrollWidth > each.clientWidth);
const page = document.documentElement;
return [page.scrollWidth > page.clientWidth, window.innerWidth, ...outside.map(each => each.firstElementChild.id)]"""
DEAD_LINKS = """
return [...document.querySelectorAll('a')].map(each => each.getAttribute('href'))
  .filter(link => !link.startsWith('#') || !document.getElementById(link.slice(1)))"""


# legends outside their figure, titles under plotly's buttons, numbers apart from their errors, collapsed attention
FAULTS = r"""
const faults = [], overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
for (const figure of document.querySelectorAll('.figure')) {
  const box = figure.getBoundingClientRect(), name = figure.querySelector('.plotly-graph-div')?.id;
  for (const legend of figure.querySelectorAll('[class^=legend][transform] .bg, g.colorbar')) {
    const own = legend.getBoundingClientRect();
    if (own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1)
      faults.push(`legend of ${name}`);
  }
  const title = figure.querySelector('.gtitle');
  for (const line of title?.querySelector('.line') ? title.querySelectorAll('.line') : title ? [title] : [])
    for (const buttons of figure.querySelectorAll('.modebar-group'))
      if (overlap(line.getBoundingClientRect(), buttons.getBoundingClientRect())) faults.push(`title of ${name}`);
}
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = document.createRange();
while (texts.nextNode()) {
  if (!texts.currentNode.parentElement.closest('td, th, p, li')) continue;
  for (const found of texts.currentNode.data.matchAll(/[\d.]+%?\s±\s[\d.]+/g)) {
    range.setStart(texts.currentNode, found.index);
    range.setEnd(texts.currentNode, found.index + found[0].length);
    if (new Set([...range.getClientRects()].map(each => Math.round(each.top))).size > 1) faults.push(found[0]);
  }
}
for (const view of document.querySelectorAll('.view'))
  if (Math.max(...[...view.querySelectorAll('canvas')].map(each => each.getBoundingClientRect().width)) < 300)
    faults.push('collapsed view');
return faults"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a network, its window ``WIDTH`` pixels wide."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    there = {"Chromium": chromium, "chromedriver": chromedriver, "selenium": importlib.util.find_spec("selenium")}
    if missing := [name for name, found in there.items() if not found]:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"window-size={WIDTH},900",
                     "disable-background-networking", "host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


def open_page(browser: Any, path: Path) -> None:
    """Open a page and wait until it is whole: where two cores are busy the driver may be back before that."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    whole = "return document.readyState == 'complete' && location.href == arguments[0]"
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(whole, path.as_uri()))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Path]], Path]:
    """The page that a function makes, made once."""
    return cache(lambda make: make(tmp_path_factory.mktemp(make.__name__)))


def reported(folder: Path, *runs: Path) -> Path:
    path = folder / "report.html"
    assert cli.main(["report", *map(str, runs), "--out", str(path)]) == 0
    return path


def laboratory(folder: Path) -> Path:
    """The records of the figures."""
    return reported(folder, RECORDS)


def compared(folder: Path) -> Path:
    """A comparison's own report."""
    return write_comparison_report(folder / "comparison.html", comparison())


def mixed(folder: Path) -> Path:
    """Long names, a comparison of many checkpoints, a run, a vector."""
    values = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    measured = tuple({"step": step, "ability": "a" * 60, "role": "new", "accuracy": 0.5} for step in (0, 15, 30))
    comparison(LONG, [f"a task of a long name {at}" for at in range(6)]).save(folder / "compared.safetensors")
    TrainingRun(values.double(), ("loss", "kl", "seconds"), measured).save(folder / "run.safetensors")
    InstructionVector(torch.ones(8), torch.ones(1, 8), (Head(3, 1),), "w" * 200).save(folder / "vector.safetensors")
    return reported(folder, folder)


def repair(folder: Path) -> Path:
    """A repair of a model of 30 layers, with where its loss is carried and was made, and a comparison."""
    depth = torch.linspace(0, 1, 30, dtype=torch.float64)
    records = [patched(30, 9), reverted(30), comparison()]
    return write_repair_report(folder / "repair.html", repaired(attention=depth, mlp=depth), records)


def heads(folder: Path) -> Path:
    """Maps of three tasks."""
    draw = torch.Generator().manual_seed(0)
    effects = [HeadEffects(torch.rand(4, 30, 9, generator=draw), torch.rand(4), "probability", "exact", task)
               for task in ("antonym", "capitalize", "a task of a long name that goes on")]  # fmt: skip
    return write_page(folder / "heads.html", "Heads", [(each.task, head_heatmap(each)) for each in effects])


def attention(folder: Path) -> Path:
    """One head's pattern, and a choice of eight, over the tokens of a prompt; and answers with their errors."""
    tokens, patterns = [f" token {at}" for at in range(24)], torch.rand(8, 24, 24).tril() / 24
    views = [attention_view(tokens, patterns[:count], [f"9.{at}" for at in range(count)]) for count in (1, 8)]
    means = frame_table(pd.DataFrame({"the mean of this": ["0.71 ± 0.05"] * 2, "and of that": ["71% ± 5%"] * 2}))
    return write_page(folder / "attention.html", "Attention", [("Views", views), ("Means", means)])


def comparison(*names: Any) -> Any:
    """The made-up comparison that the tests of figures share."""
    return runpy.run_path(str(TESTS / "views" / "conftest.py"))["made"](*names)


@pytest.mark.parametrize("make", [laboratory, compared, mixed])
def test_a_report_is_drawn_whole_without_a_network(make: Any, browser: Any, written: Any) -> None:
    path = written(make)
    open_page(browser, path)
    drawn = browser.execute_script(DRAWN)
    assert len(drawn) == path.read_text(encoding="utf-8").count("Plotly.newPlot(") > 3
    assert all(drawn)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script(STICKING_OUT) == [False, WIDTH]
    assert browser.execute_script(DEAD_LINKS) == []
    for each in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", each)
    assert browser.execute_script(STICKING_OUT) == [False, WIDTH]


PAGES = [laboratory, compared, mixed, repair, heads, attention]


@pytest.mark.parametrize("make", PAGES)
def test_a_narrow_window_shows_pages_whole(make: Any, browser: Any, written: Any) -> None:
    page = written(make)
    browser.set_window_size(NARROW, 900)
    try:
        open_page(browser, page)
        assert browser.execute_script(STICKING_OUT) == [False, NARROW]
        assert browser.execute_script(FAULTS) == []
    finally:
        browser.set_window_size(WIDTH, 900)
    assert browser.execute_script(FAULTS) == []


@pytest.mark.parametrize("make", PAGES)
def test_print_shows_pages_whole_and_without_what_one_clicks(make: Any, browser: Any, written: Any) -> None:
    open_page(browser, written(make))
    browser.set_window_size(PRINTED, 900)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script(STICKING_OUT) == [False, PRINTED]
        assert browser.execute_script(FAULTS) == []
        clicked = browser.find_elements("css selector", ".bar, .modebar-container")
        assert not any(each.is_displayed() for each in clicked)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        browser.set_window_size(WIDTH, 900)


def test_long_pages_have_a_bar_of_their_sections_which_fold(browser: Any, written: Any) -> None:
    for make in (laboratory, compared, repair, heads):
        open_page(browser, written(make))
        bar = browser.find_element("css selector", "nav.bar")
        named = [each.text for each in browser.find_elements("css selector", "details.section > summary > h2")]
        assert [each.text for each in bar.find_elements("css selector", "a")] == named
        bar.find_elements("css selector", "a")[-1].click()
        heading = browser.find_elements("css selector", "h2")[-1]
        tops = "return [arguments[0].getBoundingClientRect().bottom, arguments[1].getBoundingClientRect().top]"
        below, top = browser.execute_script(tops, bar, heading)
        assert below <= top  # the bar, which stays in sight, does not hide it


def test_an_unfolded_attention_view_has_its_width_again(browser: Any, written: Any) -> None:
    open_page(browser, written(attention))
    summary = browser.find_element("css selector", "details.section > summary")
    summary.click()
    summary.click()
    assert browser.execute_script(FAULTS) == []


def test_a_section_folds(browser: Any, written: Any) -> None:
    open_page(browser, written(compared))
    section = browser.find_element("css selector", "details.section")
    assert section.find_element("css selector", "p").is_displayed()
    section.find_element("css selector", "summary").click()
    assert not section.find_element("css selector", "p").is_displayed()


def test_contents_lead_to_their_part_and_provenance_unfolds(browser: Any, tmp_path: Path) -> None:
    open_page(browser, reported(tmp_path, RECORDS / "antonym.effects.safetensors", RECORDS / "transfer.safetensors"))
    link = browser.find_elements("css selector", "nav a")[-1]
    assert link.text == "6 tasks"
    link.click()
    heading = browser.find_element("id", link.get_attribute("href").partition("#")[2])
    top = browser.execute_script("return arguments[0].getBoundingClientRect().top", heading)
    assert -1 <= top < 400
    folded = browser.find_element("css selector", "details:not(.section)")
    assert not folded.find_element("css selector", "table").is_displayed()
    browser.execute_script("arguments[0].scrollIntoView()", folded)
    folded.find_element("css selector", "summary").click()
    assert "weights_sha256" in folded.find_element("css selector", "table").text


def test_what_is_looked_for_would_be_seen(browser: Any, tmp_path: Path) -> None:
    """A page with each of the faults."""
    path = tmp_path / "faulty.html"
    path.write_text(
        '<!doctype html><meta charset="utf-8"><a href="#none">a</a><a href="other.html">b</a>'
        '<div class="figure" style="width: 50px; overflow: auto"><p id="wide" style="width: 90px">c</p></div>'
        '<div style="width: 3000px">d</div><div class="plotly-graph-div"></div><script>missing()</script>'
        '<p style="width: 1px">0.5 ± 0.1</p><div class="view"><canvas width="20"></canvas></div>'
        '<div class="figure" style="width: 100px"><div class="plotly-graph-div" id="one"><svg width="300">'
        '<g class="legend" transform="translate(90, 0)"><rect class="bg" width="60" height="9"/></g>'
        '<text class="gtitle" y="20">title</text></svg><div class="modebar-group" style="margin-top: -150px">'
        "buttons</div></div></div>"
    )
    browser.get_log("browser")  # of the pages before
    open_page(browser, path)
    assert browser.execute_script(DRAWN) == [False, False]
    assert browser.execute_script(DEAD_LINKS) == ["#none", "other.html"]
    assert browser.execute_script(STICKING_OUT) == [True, WIDTH, "wide", "one"]
    assert browser.execute_script(FAULTS) == ["legend of one", "title of one", "0.5 ± 0.1", "collapsed view"]
    [entry] = browser.get_log("browser")
    assert "missing is not defined" in entry["message"]
