"""``python figures/hero.py``: the picture at the top of the README, from the explorer at work in JupyterLab.

It needs JupyterLab, selenium and a Chromium with its driver: ``pip install -c constraints.txt '.[test]'``. The widget
runs on SmolLM2-135M-Instruct with saved effects, and is photographed on a white card with transparent corners, so that
it reads on light and dark pages.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from selenium import webdriver

HERE = Path(__file__).resolve().parent
PICTURE = HERE / "hero.png"
PATIENCE = 560  # seconds for the import of torch, the model and the answers
TASKS = ("country-capital", "present-past", "antonym")
CODE = """import ivlens as iv
model = iv.load_model("smollm2")
effects = [iv.HeadEffects.load(path) for path in {paths}]
explorer = iv.explore(model, [each.task for each in effects], effects=effects, layer=9)
explorer.look((20, 5))"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
IDLE = "return window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
# The widget alone, on a card, in an empty page, without attention and trial.
STAGE = """
const card = document.querySelector(".ivlens");
card.querySelector(".ivlens-further").style.display = "none";
document.body.style.background = document.documentElement.style.background = "transparent";
for (const each of document.body.children) each.style.visibility = "hidden";
card.style.cssText += ";visibility:visible;position:fixed;left:0;top:0;z-index:99999;background:#fff;padding:22px 26px;"
  + "border:1px solid #d0d7de;border-radius:14px;width:1240px;box-sizing:border-box;overflow:hidden;height:auto";
"""


@contextmanager
def jupyter(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab of its own that serves ``folder``."""
    for name, values in SETTINGS.items():
        plugin, schema = name.split("/")
        path = folder / "settings" / "@jupyterlab" / plugin / f"{schema}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = [
        f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--allow-root", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}", "--no-browser", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/lab/tree/hero.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium with two pixels for each of the page's."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
        "window-size=1700,2400", "force-device-scale-factor=1.5",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()


def wait(driver: Any, script: str) -> None:
    """Wait until the script's value is true."""
    end = time.monotonic() + PATIENCE
    while not driver.execute_script(script):
        if time.monotonic() > end:
            text = driver.execute_script("return document.querySelector('.jp-Notebook')?.innerText || ''")
            raise TimeoutError(f"{script}\n{text}")
        time.sleep(0.5)


def main() -> None:
    """Run the widget and write its picture."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [str(next(HERE.glob(f"**/smollm2/{task}.effects.safetensors"))) for task in TASKS]
        cells = [new_code_cell(CODE.format(paths=paths)), new_code_cell("explorer")]
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), folder / "hero.ipynb")
        with jupyter(folder) as address, browser() as driver:
            driver.get(address)
            wait(driver, IDLE)
            driver.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
            wait(driver, "return document.querySelector('.ivlens .js-plotly-plot .heatmaplayer image') != null")
            wait(driver, IDLE)
            time.sleep(3)  # the attention view draws itself
            driver.execute_script(STAGE)
            driver.execute_cdp_cmd(
                "Emulation.setDefaultBackgroundColorOverride", {"color": {"r": 0, "g": 0, "b": 0, "a": 0}}
            )
            time.sleep(1)
            driver.find_element("css selector", ".ivlens").screenshot(str(PICTURE))


if __name__ == "__main__":
    main()
