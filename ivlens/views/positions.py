"""Heads at every place of a prompt as a figure: the strongest heads are rows, the places columns."""

import numpy as np
import plotly.graph_objects as go

from ..checks import Count, checked
from ..records import PositionEffects
from .checkpoint_parts import shortened
from .heatmap import UNITS
from .panels import LETTER, Edges, labels, layout_around
from .style import DIVERGING, plain

HOVER = (
    "<b>%{{customdata[0]}}</b> at %{{customdata[1]}}<br>effect %{{z:.3g}} {unit}<br>"
    "standard error %{{customdata[2]}}<extra></extra>"
)
ROW, COLUMN, WIDEST = 22, 44, 1000  # pixels


@checked
def position_heatmap(effects: PositionEffects, *, top: Count = 20, title: str | None = None) -> go.Figure:
    """The average indirect effect of the ``top`` strongest heads at every place, in the metric's own unit.

    A head is as strong as its strongest place; the strongest stands at the top. The colours are symmetric about zero.
    ``title`` is plain text; without one it names the tasks.
    """
    heads = effects.strongest_heads(min(top, effects.aie[..., 0].numel()))
    rows = tuple(np.array(heads).T)
    values, errors = (each.double().numpy()[rows] for each in (effects.aie, effects.stderr))
    names = [f"{layer}.{head}" for layer, head in heads]
    facts = np.empty((*values.shape, 3), dtype=object)
    for row, column in np.ndindex(*values.shape):
        error = errors[row, column]
        shown = f"{error:.2g}" if np.isfinite(error) else "n/a"
        facts[row, column] = names[row], plain(effects.places[column], 60), shown
    limit = np.abs(np.nan_to_num(values)).max() or 1.0
    unit = UNITS[effects.metric]
    cells = go.Heatmap(
        z=values, customdata=facts, hovertemplate=HOVER.format(unit=unit), colorscale=DIVERGING, zmin=-limit, zmid=0,
        zmax=limit, xgap=1, ygap=1,
        colorbar={"title": {"text": f"effect ({unit})", "side": "right"}, "outlinewidth": 0, "thickness": 14},
    )  # fmt: skip
    longest = max(len(shortened(place)) for place in effects.places)
    edges: Edges = (60, 96, int(0.72 * LETTER * longest) + 56)
    size = max(260, min(WIDEST, COLUMN * len(effects.places))), max(120, ROW * len(heads))
    said = (
        f"average indirect effect on the {effects.metric}, {effects.method}, n = {effects.n}\n{_rows(effects, heads)}"
    )
    figure = go.Figure(
        cells, layout_around(size, edges, effects.task or "Heads at places" if title is None else title, said)
    )
    figure.update_xaxes(labels([plain(shortened(place), 99) for place in effects.places]) | {"tickangle": -45})
    return figure.update_yaxes(labels(names) | {"autorange": "reversed", "title": {"text": "head"}})


def _rows(effects: PositionEffects, heads: list[tuple[int, int]]) -> str:
    every = len(heads) == effects.aie[..., 0].numel()
    return "all heads" if every else f"the {len(heads)} heads of highest effect at any place"
