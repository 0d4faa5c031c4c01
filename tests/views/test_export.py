"""Figures as files: pages without a network, images where kaleido and a browser are there, clear errors elsewhere."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest

from ivlens.errors import ArgumentError
from ivlens.views import save_figure

FIGURE = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]), layout={"width": 300, "height": 200, "title": {"text": "planted"}})
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = next(
    (
        reason
        for reason, there in {
            "kaleido is not installed": importlib.util.find_spec("kaleido"),
            "no Chrome or Chromium": os.environ.get("BROWSER_PATH") or any(map(shutil.which, BROWSERS)),
        }.items()
        if not there
    ),
    "",
)


def test_a_page_holds_the_figure_and_loads_nothing(tmp_path: Path) -> None:
    path = save_figure(FIGURE, tmp_path / "made" / "sweep.html")
    text = path.read_text(encoding="utf-8")
    assert "planted" in text
    assert "<title>sweep</title>" in text
    assert "default-src 'none'" in text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_images_have_the_figures_size(tmp_path: Path) -> None:
    image = save_figure(FIGURE, str(tmp_path / "figure.PNG")).read_bytes()
    assert image.startswith(b"\x89PNG")
    assert (int.from_bytes(image[16:20]), int.from_bytes(image[20:24])) == (600, 400)
    drawing = save_figure(FIGURE, tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert drawing.startswith("<svg")
    assert "planted" in drawing
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["figure.pdf", "figure", "figure.htm"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"one of '\.html', '\.png', '\.svg'"):
        save_figure(FIGURE, tmp_path / name)


def test_without_kaleido_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ArgumentError, match=r"kaleido 1 or later.*pip install 'kaleido>=1' and install Chrome"):
        save_figure(FIGURE, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("kaleido") is None, reason="kaleido is not installed")
def test_without_a_browser_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    with pytest.raises(ArgumentError, match=r"Chrome or Chromium to draw \.png files.*or save as \.html"):
        save_figure(FIGURE, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
