"""Reports opened from disk in headless Chromium, its network cut: drawn whole, no errors, nothing sticks out."""

import importlib.util
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ivlens import InstructionVector, TrainingRun, cli
from ivlens.views import write_comparison_report
from ivlens.vocabulary import Head

pytestmark = pytest.mark.browser
TESTS = Path(__file__).parents[1]
RECORDS = TESTS.parent / "figures" / "laboratory" / "records" / "smollm2"
LONG = ["base", *(f"outputs/run-lowercase-first-letter/checkpoint-{500 * at}" for at in range(1, 9))]
WIDTH, NARROW = 1280, 700
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


def comparison(*names: Any) -> Any:
    """The made-up comparison that the tests of figures share."""
    return runpy.run_path(str(TESTS / "views" / "conftest.py"))["made"](*names)


@pytest.mark.parametrize("make", [laboratory, compared, mixed])
def test_a_report_is_drawn_whole_without_a_network(make: Any, browser: Any, tmp_path: Path) -> None:
    path = make(tmp_path)
    browser.get(path.as_uri())
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


def test_a_narrow_window_shows_figures_whole_and_a_section_folds(browser: Any, tmp_path: Path) -> None:
    browser.set_window_size(NARROW, 900)
    try:
        browser.get(compared(tmp_path).as_uri())
        assert browser.execute_script(STICKING_OUT) == [False, NARROW]
    finally:
        browser.set_window_size(WIDTH, 900)
    section = browser.find_element("css selector", "details.section")
    assert section.find_element("css selector", "p").is_displayed()
    section.find_element("css selector", "summary").click()
    assert not section.find_element("css selector", "p").is_displayed()


def test_contents_lead_to_their_part_and_provenance_unfolds(browser: Any, tmp_path: Path) -> None:
    browser.get(reported(tmp_path, RECORDS / "antonym.effects.safetensors", RECORDS / "transfer.safetensors").as_uri())
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
    )
    browser.get(path.as_uri())
    assert browser.execute_script(DRAWN) == [False]
    assert browser.execute_script(DEAD_LINKS) == ["#none", "other.html"]
    assert browser.execute_script(STICKING_OUT) == [True, WIDTH, "wide"]
    [entry] = browser.get_log("browser")
    assert "missing is not defined" in entry["message"]
