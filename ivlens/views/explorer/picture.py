"""The explorers as a saved notebook shows them: maps, what is chosen, and the last results."""

from typing import Any

import ipywidgets as ipw
from markupsafe import Markup

from ..markup import render
from ..style import head_name
from .html import style
from .static_map import map_picture


def watched_by_picture(widget: Any) -> list[ipw.Widget]:
    """The widgets of an ``ExplorerWidget`` whose values its picture shows."""
    panel, head = widget.vector_panel, widget.head_panel
    return [widget.progress, widget.metric, widget.prompt, panel.chosen, panel.layer, panel.scale, *_results(panel),
            head.facts, head.lens, head.ranks]  # fmt: skip


def head_picture(widget: Any) -> str:
    """The HTML of an ``ExplorerWidget``'s state."""
    panel, head = widget.vector_panel, widget.head_panel
    there = widget.map_box.layout.visibility != "hidden"
    parts = [each.value for each in (*_results(panel), head.facts, head.lens, head.ranks)]
    return render(
        "head_picture.html", style=Markup(style()), title=Markup(widget.map.layout.title.text if there else ""),
        map=Markup(map_picture(widget.map) if there else ""), heads=[head_name(each) for each in widget.heads],
        layer=panel.layer.value, scale=panel.scale.value, parts=[Markup(part) for part in parts if part],
    )  # fmt: skip


def _results(panel: Any) -> tuple[ipw.Widget, ...]:
    return panel.accuracy, panel.tokens


def pair_picture(widget: Any) -> str:
    """The HTML of a ``CheckpointExplorer``'s state."""
    parts = [
        (Markup(figure.layout.title.text), Markup(map_picture(figure)), Markup(text.value))
        for figure, text in ((widget.map, widget.facts), (widget.head_map, widget.answers))
    ]
    return render("pair_picture.html", style=Markup(style()), parts=parts)
