"""The one layout engine: panels in even rows, headings that fit, and nobody else who arranges panels."""

from pathlib import Path

import plotly.io as pio
import pytest

import ivlens.views
from ivlens.views.layout import NARROWEST, Margins, Size, even_columns, layout_around, panel_grid

VIEWS = Path(ivlens.views.__file__).parent
MARGINS = Margins(left=50, right=20, bottom=30)


@pytest.mark.parametrize(("n_panels", "at_most", "columns"), [(1, 4, 1), (4, 4, 4), (5, 4, 3), (9, 4, 3), (7, 3, 3)])
def test_rows_are_evenly_filled(n_panels: int, at_most: int, columns: int) -> None:
    assert even_columns(n_panels, at_most) == columns


def test_panels_have_their_size_in_pixels() -> None:
    size, gaps = Size(200, 100), Size(40, 30)
    draft, panels = panel_grid(["a", "b", "c"], size, 2, gaps, MARGINS, "Title", "facts")
    figure = draft.figure()
    assert panels == [{"row": 1, "col": 1}, {"row": 1, "col": 2}, {"row": 2, "col": 1}]
    layout = figure.layout
    inner = layout.width - layout.margin.l - layout.margin.r, layout.height - layout.margin.t - layout.margin.b
    for panel in panels:
        axes = figure.get_subplot(**panel)
        for axis, pixels, whole in zip((axes.xaxis, axes.yaxis), size, inner, strict=True):
            assert (axis.domain[1] - axis.domain[0]) * whole == pytest.approx(pixels)


def test_no_axis_or_colour_bar_has_si_prefixes() -> None:
    template = pio.templates["ivlens"]
    formats = [template.layout.xaxis.tickformat, template.layout.yaxis.tickformat]
    assert [*formats, template.data.heatmap[0].colorbar.tickformat] == ["~g"] * 3  # -0.0008, not -800µ


def test_a_small_figure_has_room_for_its_heading() -> None:
    layout = layout_around(Size(100, 100), MARGINS, "A title", "facts of more than a few words")
    assert layout["width"] == NARROWEST
    assert "facts of more than a few words" in layout["title"]["text"]


def test_only_the_engine_makes_panels_and_views_draw_no_samples() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in VIEWS.rglob("*.py")}
    assert [name for name, text in texts.items() if "make_subplots" in text] == []
    assert [name for name, text in texts.items() if "Draft(" in text] == ["layout.py"]
    for statistic in ("quantile(", "default_rng", "randint", "1.96 *", "cummax", "spearman("):
        assert [name for name, text in texts.items() if statistic in text] == [], statistic
