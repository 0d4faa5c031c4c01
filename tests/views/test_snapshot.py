"""What a saved notebook shows of an explorer: its picture beside the widget, up to date, without scripts."""

import base64
import re
import sys
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import ipywidgets as ipw
import plotly.graph_objects as go
import pytest
from test_explorer_view import EVIL, Planted

from ivlens.views import ExplorerWidget
from ivlens.views.explorer import snapshot
from ivlens.views.explorer.html import style
from ivlens.views.explorer.snapshot import COLAB, Snapshot
from ivlens.views.explorer.static_map import map_picture

WIDGET = "application/vnd.jupyter.widget-view+json"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """What is displayed: bundles with their options."""
    found: list[tuple[dict[str, str], dict[str, Any]]] = []
    monkeypatch.setattr(snapshot, "display", lambda bundle, **options: found.append((bundle, options)))
    return found


@pytest.fixture
def slider() -> ipw.IntSlider:
    return ipw.IntSlider(3)


@pytest.fixture
def taken(slider: ipw.IntSlider) -> Snapshot:
    return Snapshot(ipw.VBox([slider]), lambda: f"<p>at {slider.value}</p>", [slider])


def test_the_widget_comes_with_empty_html_and_the_picture_after_it(taken: Snapshot, shown: Any) -> None:
    taken.display()
    (widget, _), (picture, options) = shown
    assert widget["text/html"] == ""
    assert widget[WIDGET]["model_id"] == taken.widget.model_id
    assert "<p>at 3</p>" in picture["text/html"]
    assert WIDGET not in picture
    assert options == {"raw": True, "display_id": taken.name}


def test_a_change_brings_the_picture_up_to_date_in_its_output(
    taken: Snapshot, slider: ipw.IntSlider, shown: Any
) -> None:
    slider.value = 4
    assert shown == []  # nothing before it is displayed
    taken.display()
    slider.value = 5
    bundle, options = shown[-1]
    assert "<p>at 5</p>" in bundle["text/html"]
    assert options == {"raw": True, "display_id": taken.name, "update": True}


def test_the_style_hides_the_picture_while_the_widget_is_alive(taken: Snapshot) -> None:
    text = taken._bundle()["text/html"]
    assert taken.name in taken.widget._dom_classes
    assert f"body:has(.{taken.name}) .{taken.name}-picture" in text
    assert f'<div class="{taken.name}-picture">' in text


def test_colab_is_told_what_it_needs(
    taken: Snapshot, shown: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken.display()
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    taken.display()
    assert capsys.readouterr().out == f"{COLAB}\n"


def test_every_colour_of_jupyterlab_has_one_to_fall_back_on() -> None:
    sheet = style()
    assert "var(--jp-" in sheet
    assert re.findall(r"var\(--(?:jp|vscode)-[\w-]+\)", sheet) == []


def test_the_head_explorers_picture_has_its_map_heads_layer_scale_and_results(shown: Any) -> None:
    widget = ExplorerWidget(Planted(), layer=1, scale=4.0)
    widget._ipython_display_()
    widget.look((2, 1))
    widget.heads = [(2, 1), (0, 2)]
    widget.vector_panel.layer.value = 3
    picture = shown[-1][0]["text/html"]
    assert shown[-1][1]["update"]
    assert "Chosen heads (2): 2.1, 0.2" in picture
    assert "Layer 3, scale 4.0" in picture
    assert "Head 2.1" in picture
    assert picture.count("data:image/svg+xml") == 1
    assert widget.vector_panel.accuracy.value in picture
    assert EVIL not in picture


def drawn(figure: go.Figure) -> ElementTree.Element:
    picture = map_picture(figure)
    return ElementTree.fromstring(base64.b64decode(picture.split("base64,")[1].split('"')[0]))


@pytest.fixture
def figure() -> go.Figure:
    """Two rows of three squares from 0 (blue) to 1 (red), one unknown; one framed, one with a text."""
    heatmap = go.Heatmap(
        z=[[0, 1, None], [1, 0, 1]], zmin=0, zmax=1, colorscale=[[0, "#0000ff"], [1, "#ff0000"]], showscale=True
    )
    circle = go.Scatter(x=[2], y=[1], mode="markers")
    names = go.Scatter(x=[1], y=[0], text=["1.0 & <more>"], mode="text")
    layout = {
        "width": 400, "height": 300, "margin": {"l": 50, "r": 50, "t": 100, "b": 40},
        "xaxis": {"range": [-0.5, 2.5], "dtick": 1, "title": {"text": "head"}},
        "yaxis": {"range": [-0.5, 1.5], "tickvals": [0, 1], "ticktext": ["a &amp; b", "c"]},
        "shapes": [{"type": "rect", "x0": 0.5, "x1": 1.5, "y0": -0.5, "y1": 0.5, "line": {"color": "#00ff00"}}],
    }  # fmt: skip
    return go.Figure([heatmap, names, circle], layout)


def test_the_picture_of_a_map_has_its_squares_in_their_colours(figure: go.Figure) -> None:
    paths = {path.get("fill"): path.get("d", "").count("M") for path in drawn(figure).findall(f"{SVG}path")}
    assert paths == {"#0000ff": 2, "#ff0000": 3, "none": 1}
    circle, frame = (path.get("d", "") for path in drawn(figure).findall(f"{SVG}path") if path.get("fill") == "none")
    assert circle.startswith("M296.0 50.0a4 4")  # in the middle of the upper right square
    assert frame.count("L") == 4


def test_the_lowest_row_is_at_the_bottom_and_a_reversed_axis_turns_it(figure: go.Figure) -> None:
    def corner(of: go.Figure) -> float:
        frame = next(path for path in drawn(of).findall(f"{SVG}path") if path.get("stroke") == "#00ff00")
        return float(frame.get("d", "").split("L")[0].split()[1])

    below = corner(figure)
    above = corner(figure.update_layout(yaxis_range=[1.5, -0.5]))
    assert below > above


def test_its_texts_are_texts(figure: go.Figure) -> None:
    texts = [text.text for text in drawn(figure).findall(f"{SVG}text")]
    assert texts[0] == "1.0 & <more>"
    assert {"0", "1", "2", "a & b", "c", "head"} <= {*texts}


def test_without_a_colour_scale_there_is_no_bar(figure: go.Figure) -> None:
    assert drawn(figure).findall(f"{SVG}linearGradient")
    figure.data[0].showscale = False
    assert not drawn(figure).findall(f"{SVG}linearGradient")
