"""A comparison as maps: one measure for every task and checkpoint, and what every head of a checkpoint does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import checked
from ..errors import one_of
from ..records import MATRICES, CheckpointComparison, Head
from .checkpoint_parts import (
    any_trained,
    counted,
    hover_texts,
    names_axis,
    numbers,
    shortened,
    task_axis,
    trained,
)  # fmt: skip
from .heatmap import UNITS
from .panels import LETTER, SEQUENTIAL, WIDEST, Edges, Size, layout_around, panels
from .style import DIVERGING, INK, OKABE_ITO, plain, tick_step

# measure -> what it is, and its colours: "unit" from 0 to 1 (from -1 where one is negative), "size" from 0, "ratio"
# centred on 1, "loss" and "gain" on 0, red where the base had more
MEASURES = {
    "accuracy": ("greedy answers to clean prompts", "unit"),
    "probability": ("of the whole answer, after an instruction", "unit"),
    "knowledge": ("probability of the answer after a cloze without instruction", "unit"),
    "forgetting": ("accuracy of the base minus that of the checkpoint", "loss"),
    "cosine": ("of the vector of the base's heads with the base's vector", "unit"),
    "centred_cosine": ("of the vector with the base's, both without what all tasks share", "unit"),
    "reselected_cosine": ("of the vector of heads chosen anew with the base's vector", "unit"),
    "norm_ratio": ("of the vector of the base's heads, now to base", "ratio"),
    "reselected_norm_ratio": ("of the vector of heads chosen anew, now to base", "ratio"),
    "alignment": ("cosine of the hidden state with the base's vector", "unit"),
    "alignment_change": ("cosine of the hidden state with the base's vector, now minus base", "gain"),
    "aie_correlation": ("rank correlation of the heads' effects with those in the base", "unit"),
    "overlap": ("of the strongest heads with the base's", "unit"),
    "weight_change_top": ("relative to the base's weights, of its strongest heads", "size"),
    "weight_change_rest": ("relative to the base's weights, of all other heads", "size"),
    "bare": ("accuracy on bare prompts, without a vector", "unit"),
    "recovered": ("accuracy on bare prompts with the base's vector added", "unit"),
    "recovered_own": ("accuracy on bare prompts with the checkpoint's own vector added", "unit"),
    "recovered_random": ("accuracy on bare prompts with random vectors added, mean", "unit"),
    "recovered_fraction": ("what the base's vector adds on bare prompts, over what it adds on the base", "unit"),
}
ORANGE = OKABE_ITO[1]
WHAT = ("aie", "aie-change", *MATRICES)
CELL: Size = (66, 28)
BAR: dict[str, Any] = {"outlinewidth": 0, "thickness": 12, "lenmode": "pixels", "y": 1, "yanchor": "top", "ypad": 0}
EDGES: Edges = (56, 100, 52)
GAPS: Size = (36, 56)


@checked
def checkpoint_heatmap(
    comparison: CheckpointComparison, *, measure: str = "accuracy", title: str | None = None
) -> go.Figure:
    """One measure for each task (rows) and checkpoint (columns, the base first), written in its cell.

    Colours: 0 to 1 for accuracies, probabilities and cosines; centred on 0 for forgetting and changes, on 1 for ratios.
    Hover for the interval and the verdict. Outlined: what a checkpoint was trained on. ``title`` is plain text.

    Raises: ArgumentError where the measure is not one of those of ``to_frame`` that are numbers.
    """
    one_of("measure", measure, tuple(MEASURES))
    names, tasks = comparison.checkpoints, comparison.tasks
    (said, kind), values = MEASURES[measure], numbers(comparison, measure).to_numpy().T
    left = int(LETTER * max(len(shortened(task)) for task in tasks)) + 24
    width = min(WIDEST - left - 84, CELL[0] * len(names))
    axis, bottom = names_axis(names, width)
    size = width, max(76, CELL[1] * len(tasks))
    edges: Edges = (max(left, bottom - 20), 84, bottom)
    small = width / len(names) < 38
    marks = [counted(comparison)] + ["red: less than the base"] * (kind in ("loss", "gain"))
    facts = f"{said}\n{'; '.join(marks + ['outlined: trained on'] * any_trained(comparison))}"
    heading = measure.replace("_", " ").capitalize() if title is None else title
    figure = go.Figure(layout=layout_around(size, edges, heading, facts))
    scale = colours(values, kind)
    cells = go.Heatmap(
        z=values, customdata=hover_texts(comparison, measure), hovertemplate="%{customdata}<extra></extra>",
        text=[["" if np.isnan(value) else f"{value:z.2f}" for value in row] for row in values],
        texttemplate="%{text}", textfont={"size": 9 if small else 11}, xgap=1, ygap=1, hoverongaps=True,
        colorbar=BAR | {"len": min(size[1], 260)}, **scale,
    )  # fmt: skip
    figure.add_trace(cells)
    missing = np.argwhere(np.isnan(values))
    dashes = {"text": ["–"] * len(missing), "mode": "text", "hoverinfo": "skip", "name": "unknown"}
    figure.add_trace(go.Scatter(x=missing[:, 1], y=missing[:, 0], **dashes))
    figure.update_xaxes(axis | {"range": [-0.5, len(names) - 0.5]}).update_yaxes(task_axis(tasks))
    ours = [(row, at) for row, task in enumerate(tasks) for at in range(len(names)) if trained(comparison, at, task)]
    return figure.add_trace(squares(ours, "trained on", scale))


@checked
def head_change_maps(
    comparison: CheckpointComparison, task: str, *, what: str = "aie", title: str | None = None
) -> go.Figure:
    """What each head does in each checkpoint, side by side on one colour scale: layers from the bottom up.

    ``what``: "aie", the heads' effects on the task in the base and in every checkpoint; "aie-change", the same minus
    the base's; or "W_Q", "W_K", "W_V", "W_O", how far that matrix of a head is from the base's, relative to it.
    Outlined: the base's strongest heads; circled: those among a checkpoint's strongest that are not the base's.

    Raises: ArgumentError where the task is not one of the comparison's, or ``what`` none of these.
    """
    one_of("task", task, comparison.tasks)
    one_of("what", what, WHAT)
    at, weights = comparison.tasks.index(task), what in MATRICES
    maps = (comparison.weights[:, MATRICES.index(what)] if weights else comparison.aie[:, at]).double().numpy()
    if what == "aie-change":
        maps = maps - maps[:1]
    shown = list(range(len(maps)))[what != "aie" and len(maps) > 1 :]  # the base too where it is not 0 everywhere
    layers, heads = maps.shape[1:]
    fitting = 4 if heads <= 12 else 3 if heads <= 32 else 2
    columns = -(-len(shown) // -(-len(shown) // fitting))
    room = (WIDEST - EDGES[0] - EDGES[1] - GAPS[0] * (columns - 1)) // columns
    size = max(160, min(room, 26 * heads)), max(140, min(480, 14 * layers))
    side = min(size[0] / heads, size[1] / layers)
    unit = "relative change" if weights else f"effect ({UNITS[comparison.metric]})"
    heading, facts = _said(comparison, task, what)
    names = [comparison.checkpoints[index] for index in shown]
    figure, places = panels(names, size, columns, GAPS, EDGES, heading if title is None else title, facts)
    scale = colours(maps[shown], "size" if weights else "loss")
    bar = BAR | {"len": min(size[1], 300), "title": {"text": unit, "side": "right"}}
    for index, name, place in zip(shown, names, places, strict=True):
        error = comparison.stderr[index, at].numpy() if what == "aie" else None
        hover = f"{plain(name, 60)}<br><b>%{{y}}.%{{x}}</b><br>{unit} %{{z:.3g}}"
        hover += "<br>standard error %{customdata:.2g}" * (error is not None)
        cells = go.Heatmap(
            z=maps[index].astype(np.float32), customdata=error, hovertemplate=f"{hover}<extra></extra>", colorbar=bar,
            showscale=index == shown[0], xgap=int(side >= 9), ygap=int(side >= 9), **scale,
        )  # fmt: skip
        figure.add_trace(cells, **place).add_trace(squares(comparison.heads[at], "outlines", scale), **place)
        if gained := [] if weights else _gained(comparison, index, task):
            figure.add_trace(_circles(gained, side), **place)
        figure.update_xaxes(_axis("head", heads, size[0], 24), **place)
        figure.update_yaxes(_axis("layer" * (place["col"] == 1), layers, size[1], 16), **place)
    return figure


def colours(values: np.ndarray, kind: str) -> dict[str, Any]:
    """The colour scale of a kind of measure (see ``MEASURES``), with its limits."""
    finite = values[np.isfinite(values)]
    if kind == "unit":
        least = -1 if (finite < 0).any() else 0
        return {"colorscale": DIVERGING if least else SEQUENTIAL, "zmin": least, "zmax": 1}
    if kind == "size":
        return {"colorscale": SEQUENTIAL, "zmin": 0, "zmax": finite.max(initial=0) or 1}
    middle = 1 if kind == "ratio" else 0
    limit = np.abs(finite - middle).max(initial=0) or 1
    return {
        "colorscale": DIVERGING, "zmin": middle - limit, "zmid": middle, "zmax": middle + limit,
        "reversescale": kind == "gain",
    }  # fmt: skip


def squares(cells: Sequence[Head], name: str, scale: Mapping[str, Any]) -> go.Scatter:
    """Open squares around cells given as (row, column), in a colour that can be seen on all of the scale."""
    line = {"color": ORANGE if scale["colorscale"] == SEQUENTIAL else INK, "width": 2}
    across, up = (-0.46, 0.46, 0.46, -0.46, -0.46), (-0.46, -0.46, 0.46, 0.46, -0.46)
    x = [value for _, at in cells for value in (*(at + step for step in across), None)]
    y = [value for at, _ in cells for value in (*(at + step for step in up), None)]
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name=name)


def _circles(heads: Sequence[Head], cell: float) -> go.Scatter:
    """Open circles in cells of ``cell`` pixels."""
    marker = {"symbol": "circle-open", "size": max(6, min(12, 0.7 * cell)), "color": INK, "line": {"width": 1.6}}
    x, y = [head for _, head in heads], [layer for layer, _ in heads]
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, hoverinfo="skip", name="gained")


def _gained(comparison: CheckpointComparison, checkpoint: int, task: str) -> list[Head]:
    """The heads that are among the strongest of a checkpoint and not of the base."""
    name = comparison.checkpoints[checkpoint]
    found = (row for row in comparison.rows if (row["checkpoint"], row["task"]) == (name, task))
    return [Head(layer, head) for row in found for layer, head in row.get("heads_gained") or ()]


def _said(comparison: CheckpointComparison, task: str, what: str) -> tuple[str, str]:
    """The title of head maps, and what they show."""
    outlined = f"outlined: the base's {len(comparison.heads[comparison.tasks.index(task)])} strongest heads"
    if what in MATRICES:
        facts = f"distance of each head's {what} from the base's, relative to it\n{outlined} for {task}"
        return f"{what}: what changed in the weights", facts
    facts = f"average indirect effect of each head on the {comparison.metric}"
    marks = f"{outlined}; circled: among a checkpoint's strongest, not among the base's"
    if what == "aie":
        return f"{task}: head effects", f"{facts}\n{marks}"
    return f"{task}: change of head effects", f"{facts}, minus the base's\n{marks}"


def _axis(name: str, count: int, pixels: int, room: int) -> dict[str, Any]:
    """An axis of ``count`` cells in ``pixels``, with ``room`` pixels a label."""
    ticks = {"tick0": 0, "dtick": tick_step(pixels / count, room), "showgrid": False, "zeroline": False}
    return {"title": {"text": name}, "range": [-0.5, count - 0.5]} | ticks
