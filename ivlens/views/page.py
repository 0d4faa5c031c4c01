"""One self-contained HTML document out of figures, tables, views and text."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from ..checks import checked
from ..errors import ArgumentError
from ..records import write_text
from ..records.visible import escaped, one_line
from .attention import Html
from .style import FONT
from .tables import frame_table

Body: TypeAlias = str | go.Figure | pd.DataFrame | Html | Sequence[Any]

HEADING = 240  # letters
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --line: #d0d7de; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9198a1; --line: #3d444d; --paper: #0d1117; }
}
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1110px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 FONT; overflow-wrap: break-word; }
h1 { font-size: 1.8rem; line-height: 1.25; margin: 0 0 1.5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--line); }
p { max-width: 46rem; }
.figure, .view { background: #ffffff; color: #1f2328; color-scheme: light; border: 1px solid var(--line);
  border-radius: 6px; padding: 0.75rem; margin: 1rem 0; overflow-x: auto; }
.figure { width: fit-content; max-width: 100%; box-sizing: border-box; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: 0.4rem; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  max-width: 46rem; }
th.number, td.number { text-align: right; }
@media print {
  :root { color-scheme: light; --ink: #000000; --faint: #444444; --line: #bbbbbb; --paper: #ffffff; }
  body { max-width: none; padding: 0; }
  .figure, .view, tr { break-inside: avoid; }
  h2, caption { break-after: avoid; }
  .modebar-container { display: none; }
  .figure, .view, .table { overflow: visible; border: 0; padding: 0; print-color-adjust: exact; }
}
""".replace("FONT", FONT)


@checked
def page(title: str, sections: Sequence[tuple[str, Body]]) -> str:
    """One HTML document that needs no network: a title, then each section's heading and body.

    A body is HTML (a text: see ``prose``), a figure, a frame, an ``Html``, or a list of these. The document forbids
    its reader's browser to load anything.

    Raises: ArgumentError where a body is of another kind.
    """
    number = count(1)
    parts = [
        f"<section>\n<h2>{escaped(one_line(name, HEADING))}</h2>\n{_render(body, number)}\n</section>"
        for name, body in sections
    ]
    content = "\n".join(parts)
    library = f"<script>{get_plotlyjs()}</script>\n" if "Plotly.newPlot" in content else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(one_line(title, HEADING))}</title>\n<style>{STYLE}</style>\n{library}</head>\n"
        f"<body>\n<h1>{escaped(one_line(title, HEADING))}</h1>\n{content}\n</body>\n</html>\n"
    )


@checked
def write_page(path: str | Path, title: str, sections: Sequence[tuple[str, Body]]) -> Path:
    """Write ``page(title, sections)`` to ``path``, atomically, and return the path."""
    return write_text(path, page(title, sections))


@checked
def prose(text: str) -> str:
    """Plain text as escaped HTML paragraphs, split at its empty lines."""
    return "\n".join(f"<p>{escaped(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _render(body: object, number: Iterator[int]) -> str:
    """A body as HTML; figures get their ids from ``number``, so that the same page is the same text."""
    if isinstance(body, str):
        return body
    if isinstance(body, go.Figure):
        options = {"full_html": False, "include_plotlyjs": False, "config": {"displaylogo": False}}
        return f'<div class="figure">{pio.to_html(body, div_id=f"figure-{next(number)}", **options)}</div>'
    if isinstance(body, pd.DataFrame):
        return frame_table(body)
    if isinstance(body, Html):
        return f'<div class="view">{body.html}</div>'
    if isinstance(body, Sequence):
        return "\n".join(_render(part, number) for part in body)
    raise ArgumentError(
        "the body of a section to be HTML, a figure, a frame, an Html, or a list of these", type(body).__name__
    )
