"""Pages: one document that loads nothing, escapes what it is given, and renders without a network."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from ivlens.errors import ArgumentError
from ivlens.views import Html, attention_view, page, prose, write_page

FIGURE = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]), layout={"title": {"text": "</script><b>planted title"}})
FRAME = pd.DataFrame({"task": ["antonym"], "accuracy": [0.9]})


def full() -> str:
    view = attention_view(["<s>", "</script>"], torch.eye(2)[None], ["0.0"])
    return page("A <page>", [("Figures & more", [FIGURE, [FIGURE, FRAME]]), ("View", view), ("Text", prose("a < b"))])


def test_it_is_one_small_document_that_loads_nothing() -> None:
    text = full()
    assert len(text.encode()) < 10_000_000
    assert not re.search(r"""<(script|img|iframe|link|source)\b[^>]*\b(src|href)\s*=""", text, re.IGNORECASE)
    assert "://" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "cdn.plot.ly/plotly" not in text
    assert "unpkg.com" not in text
    assert "default-src 'none'" in text


def test_plotly_is_inlined_once_and_only_where_it_is_needed() -> None:
    version = re.search(r"plotly\.js v[\d.]+", full())
    assert version
    assert full().count(version[0]) == 1
    assert len(page("Text", [("A", prose("only text"))])) < 10_000


def test_titles_are_escaped() -> None:
    text = page("<i>T</i>", [("<b>H</b>", "<p>kept</p>")])
    assert "<title>&lt;i&gt;T&lt;/i&gt;</title>" in text
    assert "<h1>&lt;i&gt;T&lt;/i&gt;</h1>" in text
    assert "<h2>&lt;b&gt;H&lt;/b&gt;</h2>" in text
    assert "<p>kept</p>" in text


def test_a_figures_text_cannot_leave_its_script() -> None:
    assert "</script><b>planted" not in full()


def test_the_same_sections_give_the_same_page() -> None:
    sections = [("Figures", [FIGURE, FIGURE]), ("Table", FRAME)]
    assert page("P", sections) == page("P", sections)
    assert 'id="figure-2"' in page("P", sections)


def test_light_dark_and_print() -> None:
    text = page("P", [("A", Html("<b>held</b>"))])
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert '<div class="view"><b>held</b></div>' in text


def test_prose_escapes_and_splits_paragraphs() -> None:
    assert prose("a < b\nc\n\n d & e \n\n\n") == "<p>a &lt; b\nc</p>\n<p>d &amp; e</p>"


def test_another_kind_of_body_is_refused() -> None:
    with pytest.raises(ArgumentError, match="got float"):
        page("P", [("A", [prose("a"), 0.5])])


def test_it_is_written_whole(tmp_path: Path) -> None:
    path = write_page(tmp_path / "new" / "page.html", "Ü", [("A", prose("日本"))])
    assert path.read_text(encoding="utf-8") == page("Ü", [("A", prose("日本"))])
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


@pytest.mark.browser
def test_a_browser_without_network_draws_it(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome on this machine to draw the page with")
    path = tmp_path / "page.html"
    path.write_text(full(), encoding="utf-8")
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--virtual-time-budget=5000", "--dump-dom", path.as_uri()),
    ]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(re.findall(r'<svg class="main-svg"', drawn)) >= 2
    assert "planted title" in re.sub(r"<script.*?</script>", "", drawn, flags=re.DOTALL)
    assert "<canvas" in re.sub(r"<script.*?</script>", "", drawn, flags=re.DOTALL)  # the attention view
    assert "<h2>Text</h2>" in drawn
