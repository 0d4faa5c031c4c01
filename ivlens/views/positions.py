"""Heads at every part of a prompt: the strongest heads are rows, the parts of the prompt columns."""

import numpy as np
import plotly.graph_objects as go

from ..checks import Count, checked
from ..records import PositionEffects
from .axes import LETTER, SLANT, colour_bar, text_axis
from .layout import Margins, Size, layout_around
from .style import DIVERGING, EFFECT_UNITS, head_name, plain, shortened

HOVER = (
    "<b>%{{customdata[0]}}</b> at %{{customdata[1]}}<br>effect %{{z:.3g}} {unit}<br>"
    "standard error %{{customdata[2]}}<extra></extra>"
)
ROW, COLUMN, WIDEST = 22, 44, 1000  # pixels


@checked
def position_heatmap(effects: PositionEffects, *, k: Count = 20, title: str | None = None) -> go.Figure:
    """The average indirect effect of the strongest heads at every part of the prompt, in the metric's own unit.

    Heads are ordered by their highest effect at any part, the strongest at the top. The colours are symmetric about
    zero.

    Args:
        effects: the effects [prompt, layer, head, part] of ``position_effects``.
        k: how many heads to show.
        title: plain text; without one it names the task.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: ``k`` below 1.

    Example:
        >>> import torch
        >>> values = torch.rand(2, 3, 4, 2)  # prompt, layer, head, part
        >>> effects = iv.PositionEffects(values, torch.zeros(2), "probability", "loop", ("query", "last"))
        >>> iv.views.position_heatmap(effects, k=5).data[0].z.shape
        (5, 2)
    """
    n_all = effects.aie[..., 0].numel()
    heads = effects.strongest_heads(min(k, n_all))
    rows = tuple(np.array(heads).T)
    values, errors = (each.double().numpy()[rows] for each in (effects.aie, effects.stderr))
    names, parts = [head_name(head) for head in heads], [shortened(part) for part in effects.positions]
    facts = np.empty((*values.shape, 3), dtype=object)
    for row, column in np.ndindex(*values.shape):
        error = errors[row, column]
        text = f"{error:.2g}" if np.isfinite(error) else "n/a"
        facts[row, column] = names[row], plain(effects.positions[column], 60), text
    limit = np.abs(np.nan_to_num(values)).max() or 1.0
    unit = EFFECT_UNITS[effects.metric]
    heatmap = go.Heatmap(
        z=values, customdata=facts, hovertemplate=HOVER.format(unit=unit), colorscale=DIVERGING,
        zmin=-limit, zmid=0, zmax=limit, xgap=1, ygap=1, colorbar=colour_bar(f"effect ({unit})"),
    )  # fmt: skip
    margins = Margins(left=60, right=96, bottom=int(SLANT * LETTER * max(map(len, parts))) + 56)
    size = Size(max(260, min(WIDEST, COLUMN * len(parts))), max(120, ROW * len(heads)))
    rows_are = (
        "all heads" if len(heads) == n_all else f"the {len(heads)} heads of highest effect at any part of the prompt"
    )
    facts_line = f"average indirect effect on the {effects.metric}, {effects.method}, n = {effects.n}\n{rows_are}"
    heading = (effects.task or "Heads along the prompt") if title is None else title
    axes = {
        "xaxis": text_axis([plain(part, 99) for part in parts]) | {"tickangle": -45},
        "yaxis": text_axis(names) | {"autorange": "reversed", "title": {"text": "head"}},
    }
    return go.Figure(heatmap, layout_around(size, margins, heading, facts_line) | axes)
