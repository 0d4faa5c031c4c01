"""A figure as a file: a page for a browser, or an image for a paper."""

from pathlib import Path

import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError, one_of
from ..records import write_atomically
from .page import write_page

SUFFIXES = (".html", ".png", ".svg")
SCALE = 2


@checked
def save_figure(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure to ``path`` as its suffix says (.html, .png or .svg), atomically, and return the path.

    A .html needs no network; a .png has two pixels for each of the figure's. Images are drawn by kaleido, which needs
    Chrome or Chromium on the machine.

    Raises: ArgumentError where the suffix is another, or where kaleido or its browser is missing or fails.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    one_of("the suffix of path", suffix, SUFFIXES)
    if suffix == ".html":
        return write_page(path, path.stem, [("Figure", figure)])
    image = _image(figure, suffix.removeprefix("."))
    return write_atomically(path, lambda temporary: temporary.write_bytes(image))


def _image(figure: go.Figure, kind: str) -> bytes:
    remedy = "pip install 'kaleido>=1' and install Chrome or Chromium, or save as .html"
    try:
        from kaleido import calc_fig_sync
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise ArgumentError(f"kaleido 1 or later, which draws .{kind} files", str(error), remedy) from error
    try:
        # without MathJax, which kaleido would fetch from the network
        image: bytes = calc_fig_sync(figure, opts={"format": kind, "scale": SCALE}, kopts={"mathjax": False})
    except (BrowserFailedError, ChromeNotFoundError) as error:
        raise ArgumentError(f"Chrome or Chromium to draw .{kind} files", str(error), remedy) from error
    return image
