"""Documents: a self-contained HTML page of figures, tables and text, and a figure as a file."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..checks import checked
from ..errors import ArgumentError, one_of
from ..records import write_atomically, write_text
from ..text import one_line
from .attention import Html
from .markup import render
from .tables import frame_table

Body: TypeAlias = str | go.Figure | Callable[[], go.Figure] | pd.DataFrame | Html | Sequence[Any]

HEADING_LENGTH = 240  # characters of a longer heading that are shown
SUFFIXES = (".html", ".png", ".svg")
NARROW, MEDIUM = 600, 820  # pixels that a figure has in a narrow window or in print, and in one of medium width
IMAGE_SCALE = 2  # pixels of a .png for each of the figure's


@checked
def page(title: str, sections: Sequence[tuple[str, Body]]) -> str:
    """One HTML document that needs no network: a title, then each section's heading and body.

    Its content security policy forbids the browser to load anything.

    Args:
        title: plain text.
        sections: headings, which are plain text, with their bodies: HTML (for text see ``prose``), a figure or a
            function that draws it, a frame, an ``Html``, or a list of these.

    Returns:
        The document.

    Raises:
        ArgumentError: a body of another kind.

    Example:
        >>> document = iv.views.page("My heads", [("Map", iv.views.head_heatmap(effects))])
        >>> document[:15]
        '<!doctype html>'
    """
    numbers = count(1)
    bodies = [(one_line(heading, HEADING_LENGTH), Markup(_body_html(body, numbers))) for heading, body in sections]
    plotly = Markup(get_plotlyjs()) if any("Plotly.newPlot" in body for _, body in bodies) else ""
    return render("page.html", title=one_line(title, HEADING_LENGTH), sections=bodies, plotly=plotly)


@checked
def write_page(path: str | Path, title: str, sections: Sequence[tuple[str, Body]]) -> Path:
    """Write ``page(title, sections)`` to a file, atomically.

    Args:
        path: the file to write.
        title: plain text.
        sections: headings with their bodies, see ``page``.

    Returns:
        The path.

    Raises:
        ArgumentError: a body of another kind.
        RecordError: the file cannot be written.

    Example:
        >>> iv.views.write_page(tmp_path / "page.html", "Note", [("A", iv.views.prose("text"))]).name
        'page.html'
    """
    return write_text(path, page(title, sections))


@checked
def save_figure(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure to a file as its suffix says, atomically.

    Args:
        figure: any plotly figure.
        path: a .html, which needs no network, or an image: .png, with two pixels for each of the figure's, or .svg.
            Images are drawn by kaleido, which needs Chrome or Chromium on the machine.

    Returns:
        The path.

    Raises:
        ArgumentError: another suffix, or kaleido or its browser is missing or fails.

    Example:
        >>> iv.views.save_figure(iv.views.head_heatmap(effects), tmp_path / "heads.html").name
        'heads.html'
    """
    path = Path(path)
    suffix = path.suffix.lower()
    one_of("the suffix of path", suffix, SUFFIXES)
    if suffix == ".html":
        return write_page(path, path.stem, [("Figure", figure)])
    image = _image(figure, suffix.removeprefix("."))
    return write_atomically(path, lambda temporary: temporary.write_bytes(image))


def _body_html(body: object, numbers: Iterator[int]) -> str:
    """A body as HTML; figures get their ids from ``numbers``, so that the same page is the same text."""
    if isinstance(body, str):
        return body
    if isinstance(body, go.Figure):
        options = {"full_html": False, "include_plotlyjs": False, "config": {"displaylogo": False}}
        drawn = pio.to_html(body, div_id=f"figure-{next(numbers)}", **options)
        return f'<div class="figure"{_scales(body)}><div class="scaled">{drawn}</div></div>'
    if callable(body):
        return _body_html(body(), numbers)
    if isinstance(body, pd.DataFrame):
        return frame_table(body)
    if isinstance(body, Html):
        return f'<div class="view">{body.html}</div>'
    if isinstance(body, Sequence):
        return "\n".join(_body_html(part, numbers) for part in body)
    raise ArgumentError(
        "the body of a section to be HTML, a figure, a frame, an Html, or a list of these", type(body).__name__
    )


def _scales(figure: go.Figure) -> str:
    """Attributes of a figure's box that let the page scale it to a narrower window, where its size is known."""
    width, height = figure.layout.width, figure.layout.height
    if not width or not height:
        return ""
    narrow, medium = (min(1.0, room / width) for room in (NARROW, MEDIUM))
    return f' style="--width: {width}px; --height: {height}px; --narrow: {narrow:.3f}; --medium: {medium:.3f}"'


def _image(figure: go.Figure, kind: str) -> bytes:
    remedy = "pip install 'kaleido>=1' and install Chrome or Chromium, or save as .html"
    try:
        from kaleido import calc_fig_sync
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise ArgumentError(f"kaleido 1 or later, which draws .{kind} files", str(error), remedy) from error
    try:
        # without MathJax, which kaleido would fetch from the network
        image: bytes = calc_fig_sync(figure, opts={"format": kind, "scale": IMAGE_SCALE}, kopts={"mathjax": False})
    except (BrowserFailedError, ChromeNotFoundError) as error:
        raise ArgumentError(f"Chrome or Chromium to draw .{kind} files", str(error), remedy) from error
    return image
