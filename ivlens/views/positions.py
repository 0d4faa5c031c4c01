"""Heads, or other parts of layers, at every part of a prompt: the strongest are rows, the prompt's parts columns."""

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Count, checked
from ..records import Head, PositionEffects, PositionPartEffects
from ..vocabulary import all_parts
from .axes import LETTER, SLANT, colour_bar, text_axis
from .layout import Margins, Size, layout_around
from .style import DIVERGING, EFFECT_UNITS, head_name, plain, shortened

HOVER = (
    "<b>%{{customdata[0]}}</b> at %{{customdata[1]}}<br>effect %{{z:.3g}} {unit}<br>"
    "standard error %{{customdata[2]}}<extra></extra>"
)
ALIGNED = {
    "role": "one mean for each role", "token-class": "token classes, each token's own mean",
    "position": "each position's mean",
}  # fmt: skip
ROW, COLUMN, WIDEST = 22, 44, 1000  # pixels


@checked
def position_heatmap(
    effects: PositionEffects | PositionPartEffects, *, k: Count = 20, title: str | None = None
) -> go.Figure:
    """The average indirect effect of the strongest heads at every part of the prompt, in the metric's own unit.

    Heads are ordered by their highest effect at any part, the strongest at the top, and attention blocks, MLPs and
    residual streams among them where these were patched. The colours are symmetric about zero.

    Args:
        effects: the effects of ``position_effects``.
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
    all_names, aie, stderr = _rows(effects)
    strongest = aie.amax(1).sort(descending=True, stable=True).indices[:k]
    names, parts = [all_names[row] for row in strongest], [shortened(part) for part in effects.positions]
    values, errors = (each[strongest].double().numpy() for each in (aie, stderr))
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
    what = "head" if isinstance(effects, PositionEffects) else "part"
    left = 60 if what == "head" else int(LETTER * max(map(len, names))) + 36
    margins = Margins(left=left, right=96, bottom=int(SLANT * LETTER * max(map(len, parts))) + 56)
    size = Size(max(260, min(WIDEST, COLUMN * len(parts))), max(120, ROW * len(names)))
    few = f"the {len(names)} {what}s of highest effect at any part of the prompt"
    rows_are = f"all {what}s" if len(names) == len(all_names) else few
    rows_are = f"{rows_are}; {ALIGNED[effects.by]}"
    facts_line = f"average indirect effect on the {effects.metric}, {effects.method}, n = {effects.n}\n{rows_are}"
    heading = (effects.task or "Heads along the prompt") if title is None else title
    axes = {
        "xaxis": text_axis([plain(part, 99) for part in parts]) | {"tickangle": -45},
        "yaxis": text_axis(names) | {"autorange": "reversed", "title": {"text": what}},
    }
    return go.Figure(heatmap, layout_around(size, margins, heading, facts_line) | axes)


def _rows(
    effects: PositionEffects | PositionPartEffects,
) -> tuple[list[str], Float[Tensor, "row position"], Float[Tensor, "row position"]]:
    """The names of all heads, or of all parts of layers, with their average effects and standard errors."""
    if isinstance(effects, PositionEffects):
        names = [head_name(Head(*head)) for head in np.ndindex(*effects.aie.shape[:2])]
        return names, effects.aie.flatten(0, 1), effects.stderr.flatten(0, 1)
    shapes = {part: effects.of(part).shape for part in effects.parts}
    parts = [each for part, (_, layers, heads, *_) in shapes.items() for each in all_parts([part], layers, heads)]
    names = [f"{part} {layer}" if head is None else head_name(Head(layer, head)) for part, layer, head in parts]
    aie, stderr = (
        torch.cat([of(part).flatten(0, -2) for part in effects.parts]) for of in (effects.aie, effects.stderr)
    )
    return names, aie, stderr
