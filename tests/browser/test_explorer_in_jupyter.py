"""The explorer's widget in JupyterLab, as its user has it: cells run, a head clicked, panels and console read."""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

NEEDED = ("selenium", "jupyterlab", "nbformat", "ipykernel", "anywidget")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
BROWSERS = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
MISSING += ["chromium"] * (not BROWSERS) + ["chromedriver"] * (shutil.which("chromedriver") is None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

PATIENCE = 180  # seconds for what includes the import of torch in a fresh kernel
CODE = """import ivlens as iv
words = "the capital of France is Paris and quick brown fox jumps over lazy dog".split()
tasks = [iv.Task(f"shift-{{by}}", list(zip(words, words[by:] + words[:by])), ("the quick fox",)) for by in (1, 2)]
explorer = iv.explore(iv.load_model("model"), tasks, n_clean=4, n_test=2, k={k})
explorer"""
AFTER = 'print("in Python:", explorer.heads)'
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
# Should the tests be killed, the server ends by itself.
UNATTENDED = ["--MappingKernelManager.cull_idle_timeout=240", "--MappingKernelManager.cull_interval=30",
              "--MappingKernelManager.cull_connected=True", "--ServerApp.shutdown_no_activity_timeout=240"]  # fmt: skip
READY = "return window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
CLICK_AT = """
const plot = document.querySelector(".ivlens .js-plotly-plot"), axes = plot._fullLayout;
plot.scrollIntoView({block: "center"});
const box = plot.getBoundingClientRect(), scale = box.width / plot.offsetWidth;
const x = axes._size.l + axes.xaxis.d2p(arguments[1]), y = axes._size.t + axes.yaxis.d2p(arguments[0]);
return [box.left + scale * x, box.top + scale * y];
"""
LARGE = {"num_hidden_layers": 30, "hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3}  # SmolLM2's
# The notebook's part of the window, and the boxes that are to be seen in it when the widget is at its top.
BOXES = """
const whole = document.querySelector(".ivlens"), rect = each => each.getBoundingClientRect();
whole.scrollIntoView({block: "start"});
const boxes = {map: ".ivlens-map .main-svg", head: ".ivlens-facts", vector: ".ivlens-set"};
const seen = rect(document.querySelector(".jp-WindowedPanel-outer, .jp-Notebook"));
const found = Object.entries(boxes).map(([name, path]) => [name, rect(whole.querySelector(path)).toJSON()]);
return Object.fromEntries([["seen", seen.toJSON()], ["whole", rect(whole).toJSON()], ...found]);
"""
ANSWERS = "return [...document.querySelectorAll('.ivlens-set td')].some(each => each.innerText == 'steered')"


@pytest.fixture
def notebook(request: pytest.FixtureRequest, tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any) -> Path:
    """A notebook with two cells, beside the folder of a tiny model."""
    config, k = getattr(request, "param", ({}, 0))
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    folder = tmp_path / "home"
    tiny_hf("llama", max_position_embeddings=256, **config).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "explore.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(CODE.format(k=k)), new_code_cell(AFTER)], metadata=kernel), path)
    return path


@pytest.fixture
def address(tmp_path: Path, notebook: Path) -> Iterator[str]:
    """The notebook in a JupyterLab of its own, which knows no settings but ours and asks nobody outside."""
    for name, values in SETTINGS.items():
        plugin, _, schema = name.rpartition("/")
        path = tmp_path / "settings" / "@jupyterlab" / plugin / f"{schema}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    folders = {name: str(tmp_path / name.lower()) for name in (
        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR",
    )}  # fmt: skip
    folders["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / "settings")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, log = secrets.token_hex(16), tmp_path / "jupyter.log"
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1", "--allow-root",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebook.parent}", "--no-browser",
               "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly", *UNATTENDED]  # fmt: skip
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=os.environ | folders, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/api?token={token}"), server, log)
        yield f"http://127.0.0.1:{port}/lab/tree/{notebook.name}?token={token}"
    finally:
        end(server)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def until(done: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        if server.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.2)


def end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end with its kernels; end it and what is left of its group if it does not."""
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(15)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSERS[0]
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
        "window-size=1600,2200", f"user-data-dir={tmp_path / 'browser'}",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    # JupyterLab's current notebook is the one that has the focus, which a window nobody looks at need not get
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The notebook in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def wait(self, what: str, found: str, *given: Any, seconds: float = 60) -> Any:
        """The value of the script ``found`` as soon as it has one."""
        end = time.monotonic() + seconds
        while not (value := self.driver.execute_script(found, *given)):
            if time.monotonic() > end:
                text = self.driver.execute_script("return document.querySelector('.jp-Notebook')?.innerText || ''")
                raise AssertionError(f"waited {seconds} s in vain for {what}; the notebook reads:\n{text}")
            time.sleep(0.2)
        return value

    def command(self, name: str) -> None:
        self.driver.execute_script("window.jupyterapp.commands.execute(arguments[0]);", name)

    def click_head(self, layer: int, head: int) -> None:
        """Move to the head's cell of the map and press the button, as a hand does."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        x, y = self.driver.execute_script(CLICK_AT, layer, head)
        builder = ActionBuilder(self.driver)
        builder.pointer_action.move_to_location(round(x) - 3, round(y)).pause(0.2).move_to_location(round(x), round(y))
        builder.perform()
        ActionChains(self.driver).pause(0.3).click().perform()

    def wait_for(self, text: str, seconds: float = 60) -> None:
        script = "return document.querySelector('.jp-Notebook')?.innerText.includes(arguments[0])"
        self.wait(repr(text), script, text, seconds=seconds)


def set_viewport(driver: Any, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("notebook", [(LARGE, 20)], indirect=True)
def test_map_head_and_vector_are_in_sight_together(address: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser)
    set_viewport(browser, 1366, 768)
    browser.get(address)
    page.wait("the notebook and its kernel", READY, seconds=PATIENCE)
    page.command("notebook:run-all-cells")
    page.wait("the answers of the set to begin with", ANSWERS, seconds=PATIENCE)
    page.click_head(20, 5)
    page.wait_for("Where head 20.5 looks")
    page.wait("the kernel", READY)
    boxes = {}
    for width in (1366, 700):
        set_viewport(browser, width, 768)
        if width == 700:
            page.command("application:toggle-left-area")
        time.sleep(1)
        boxes[width] = browser.execute_script(BOXES)
        browser.save_screenshot(str(tmp_path / f"explorer-{width}.png"))
        browser.execute_script("document.querySelector('.ivlens-further').scrollIntoView({block: 'start'})")
        browser.save_screenshot(str(tmp_path / f"explorer-{width}-further.png"))
    page.click_head(10, 3)  # on the smaller map
    page.wait_for("Head 10.3")
    for width, found in boxes.items():
        seen = found["seen"]
        for name in ("map", "head", "vector"):
            box = found[name]
            assert seen["top"] <= box["top"] < box["bottom"] <= seen["bottom"], (width, name, boxes)
            assert seen["left"] <= box["left"] < box["right"] <= seen["right"], (width, name, boxes)


def test_a_clicked_head_is_shown_chosen_and_tried(address: str, browser: Any) -> None:
    page = Page(browser)
    browser.get(address)
    page.wait("the notebook and its kernel", READY, seconds=PATIENCE)
    page.command("notebook:run-all-cells")
    drawn = "return document.querySelector('.ivlens .js-plotly-plot .heatmaplayer image')"
    page.wait("the map", drawn, seconds=PATIENCE)
    page.wait_for("n = 4 prompts", seconds=PATIENCE)
    page.click_head(1, 2)
    page.wait_for("Head 1.2")
    page.wait("its attention", "return document.querySelector('.ivlens iframe[sandbox=\"allow-scripts\"]')")
    browser.switch_to.frame(browser.find_element("css selector", ".ivlens iframe"))
    page.wait("the view in its frame", "return document.querySelector('canvas')")
    browser.switch_to.default_content()
    page.click_head(1, 2)
    page.wait_for("Take out of the set")
    page.wait_for("P(steered)")
    page.click_head(0, 3)
    page.wait_for("Head 0.3")
    page.wait_for("Add to the set")
    browser.execute_script("window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1")
    page.command("notebook:run-cell")
    page.wait_for("in Python: ((1, 2),)")
    assert not [each["message"] for each in browser.get_log("browser") if each["level"] == "SEVERE"]
