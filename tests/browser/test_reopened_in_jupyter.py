"""Both explorers in JupyterLab on a laptop's screen, saved, and reopened without their kernel; and by nbconvert."""

from pathlib import Path
from typing import Any

import pytest
from test_explorer_in_jupyter import (  # noqa: F401  (fixtures)
    CLICK_AT,
    CODE,
    PATIENCE,
    READY,
    Page,
    address,
    browser,
    pytestmark,
)

from comparisons import made

COMPARED = """import ivlens as iv
comparison = iv.CheckpointComparison.load("comparison.safetensors")
checkpoints = iv.explore(comparison)
checkpoints"""
BAR = """import time
from ivlens.progress import ProgressBar
for _ in ProgressBar(range(3), "sweep", leave=False):
    time.sleep(0.4)"""
TASKS, NAMES = ("present-past", "country-capital"), ("base", "after-1", "after-2")
PROMPTS = tuple(
    {"task": task, "prompt": number, "instruction": "Write it.", "text": f"Write it.\nInput: word {number}\nOutput:",
     "bare": f"Input: word {number}\nOutput:", "answer": " right"}
    for task in TASKS for number in range(12)
)  # fmt: skip
REPLIES = tuple(
    {"checkpoint": name, "task": row["task"], "prompt": row["prompt"], "reply": " wrong" if lost else " right",
     "correct": not lost, "steered": " right", "steered_correct": True}
    for name in NAMES for row in PROMPTS for lost in [name != "base" and row["prompt"] % 3 == 0]
)  # fmt: skip
SAVED = "return !window.jupyterapp.shell.currentWidget.context.model.dirty"
MAP_OF_CHECKPOINTS = "document.querySelectorAll('.jp-Cell')[1].querySelector('.ivlens .js-plotly-plot')"
SEEN = """return [...document.querySelectorAll('.jp-Notebook img')].filter(
  image => image.offsetParent && image.naturalWidth > 100).length"""


@pytest.fixture
def notebook(tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    """A notebook with the explorer of a model, that of a comparison and a bar."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    folder = tmp_path / "home"
    tiny_hf("llama", max_position_embeddings=256).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    made(NAMES, TASKS, prompts=PROMPTS, replies=REPLIES).save(folder / "comparison.safetensors")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "explore.ipynb"
    cells = [new_code_cell(source) for source in (CODE.format(k=0), COMPARED, BAR)]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


def text_of(driver: Any) -> str:
    return str(driver.execute_script("return document.querySelector('.jp-Notebook').innerText"))


def click_square(driver: Any, row: int, column: int, says: str) -> None:
    """Press the button on a square of the map of checkpoints, again where plotly had not yet seen the pointer there."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    script = CLICK_AT.replace('document.querySelector(".ivlens .js-plotly-plot")', MAP_OF_CHECKPOINTS)
    for _ in range(10):
        x, y = driver.execute_script(script, row, column)
        builder = ActionBuilder(driver)
        builder.pointer_action.move_to_location(round(x) - 3, round(y)).pause(0.5).move_to_location(round(x), round(y))
        builder.perform()
        ActionChains(driver).pause(1).click().pause(5).perform()
        if says in text_of(driver):
            return
    raise AssertionError(f"the click did not show {says!r}:\n{text_of(driver)}")


def test_a_reopened_notebook_shows_pictures_and_finished_bars(
    address: str,  # noqa: F811
    browser: Any,  # noqa: F811
    notebook: Path,
    tmp_path: Path,
) -> None:
    from nbconvert import HTMLExporter

    page = Page(browser)
    browser.set_window_size(1366, 768)
    browser.get(address)
    page.wait("the notebook and its kernel", READY, seconds=PATIENCE)
    page.command("notebook:run-all-cells")
    page.wait_for("n = 4 prompts", seconds=PATIENCE)
    page.wait("the second map", f"return {MAP_OF_CHECKPOINTS}?.querySelector('.heatmaplayer')", seconds=PATIENCE)
    page.wait_for("sweep: 100%", seconds=PATIENCE)
    assert "A picture of the explorer" not in text_of(browser)
    page.click_head(1, 2)
    page.wait_for("Head 1.2")
    page.click_head(1, 2)
    page.wait_for("P(steered)")
    click_square(browser, 1, 1, "country-capital at after-1")
    browser.save_screenshot(str(tmp_path / "alive.png"))
    browser.execute_script("return new Promise(done => setTimeout(done, 1500))")
    page.command("docmanager:save")
    page.wait("the saved file", SAVED)
    html, _ = HTMLExporter().from_filename(str(notebook))
    assert "country-capital at after-1</h3>" in html
    assert "1.2" in html[html.index("Chosen heads (") :][:400]
    assert html.count('<img alt="map"') == 3
    browser.execute_script("return window.jupyterapp.serviceManager.sessions.shutdownAll()")
    browser.get("about:blank")
    browser.get(address)
    page.wait("the notebook and a new kernel", READY, seconds=PATIENCE)
    page.wait("the pictures", f"{SEEN} == 3")
    page.wait(
        "the end of loading", "return !document.querySelector('.jp-Notebook').innerText.includes('Loading widget')"
    )
    text = text_of(browser)
    assert "not found" not in text
    assert "A picture of the explorer" in text
    assert "country-capital at after-1" in text
    assert "sweep: 100%" in text
    browser.save_screenshot(str(tmp_path / "reopened.png"))
