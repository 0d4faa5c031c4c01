"""A comparison as maps: one measure for every task and checkpoint, and the effect or change of every head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ...checks import checked
from ...errors import one_of
from ...records import MATRICES, CheckpointComparison, Head
from ...records.tables import head_maps, heads_gained, measure_values, shows_training, was_trained_on
from ..axes import LETTER, colour_bar, name_axis, number_axis, outlines, task_axis
from ..draft import Draft
from ..layout import WIDEST, Margins, Panel, Size, head_map_grid, layout_around, panel_grid
from ..style import DIVERGING, EFFECT_UNITS, INK, OKABE_ITO, SEQUENTIAL, plain, shortened
from .words import hover_texts, prompts_text

# measure -> what it is, and its colours, see ``colour_scale``
MEASURES = {
    "accuracy": ("answers to clean prompts", "unit"),
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
    "probability_fall": ("mean probability of the answer, base minus checkpoint", "loss"),
    "first_token_change": ("log-probability of the answers' first token in nats, now minus base", "gain"),
    "rest_change": ("log-probability of the answers' other tokens in nats, now minus base", "gain"),
    "subtracted": ("accuracy on clean prompts with the new task's vector subtracted", "unit"),
    "subtracted_gain": ("accuracy that subtracting the new task's vector adds", "gain"),
    "spillover": ("of the wrong answers, those of the new task or copies of the input", "unit"),
    "copied": ("of the wrong answers, copies of the input", "unit"),
    "relearned": ("accuracy after a few steps on a few examples", "unit"),
    "kl_new": ("KL to the base at the answers of the new task's prompts, in nats", "size"),
    "kl_text": ("KL to the base on an English text, in nats", "size"),
    "weight_distance": ("of all matrices of the blocks from the base's, relative to these", "size"),
}
WHAT = ("aie", "aie-change", *MATRICES)
CELL = Size(66, 28)
BAR_WIDTH, BAR_ROOM = 12, 84  # pixels: a colour bar, without and with its labels
MARGINS, GAPS = Margins(left=56, right=100, bottom=52), Size(36, 56)


@checked
def checkpoint_heatmap(
    comparison: CheckpointComparison, *, measure: str = "accuracy", title: str | None = None
) -> go.Figure:
    """One measure for each task (rows) and checkpoint (columns, the base first), with its value.

    Colours: 0 to 1 for accuracies, probabilities and cosines; centred on 0 for forgetting and changes, on 1 for ratios.
    Hover for the interval and the verdict. Outlined: what a checkpoint was trained on.

    Args:
        comparison: the record of ``compare_checkpoints``.
        measure: a column of its ``to_frame`` that holds numbers.
        title: plain text; without one it is the measure.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: another measure.

    Example:
        >>> figure = iv.views.checkpoint_heatmap(comparison, measure="forgetting")
        >>> figure.data[0].z.shape == (len(comparison.tasks), len(comparison.checkpoints))
        True
    """
    one_of("measure", measure, tuple(MEASURES))
    names, tasks = comparison.checkpoints, comparison.tasks
    (what, colours), values = MEASURES[measure], measure_values(comparison, measure).to_numpy().T
    left = int(LETTER * max(len(shortened(task)) for task in tasks)) + 24
    width = min(WIDEST - left - BAR_ROOM, CELL.width * len(names))
    axis, bottom = name_axis(names, width)
    size = Size(width, max(76, CELL.height * len(tasks)))
    margins = Margins(max(left, bottom - 20), BAR_ROOM, bottom)
    marks = [prompts_text(comparison)]
    if colours in ("loss", "gain"):
        marks.append("red: less than the base")
    if shows_training(comparison):
        marks.append("outlined: trained on")
    heading = measure.replace("_", " ").capitalize() if title is None else title
    scale = colour_scale(values, colours)
    heatmap = go.Heatmap(
        z=values, customdata=hover_texts(comparison, measure), hovertemplate="%{customdata}<extra></extra>",
        text=[["" if np.isnan(value) else f"{value:z.2f}" for value in row] for row in values],
        texttemplate="%{text}", textfont={"size": 9 if width / len(names) < 38 else 11}, xgap=1, ygap=1,
        hoverongaps=True, colorbar=colour_bar(height=min(size.height, 260)) | {"thickness": BAR_WIDTH}, **scale,
    )  # fmt: skip
    trained = [
        (row, column) for row, task in enumerate(tasks) for column in range(len(names))
        if was_trained_on(comparison, column, task)
    ]  # fmt: skip
    axes = {"xaxis": axis | {"range": [-0.5, len(names) - 0.5]}, "yaxis": task_axis(tasks)}
    layout = layout_around(size, margins, heading, f"{what}\n{'; '.join(marks)}") | axes
    traces = [heatmap, _dashes(values), outlines(trained, "trained on", _visible_on(scale), width=2)]
    return go.Figure(traces, layout)


def _dashes(values: np.ndarray) -> go.Scatter:
    """A dash where a value is unknown."""
    missing = np.argwhere(np.isnan(values))
    dashes = ["–"] * len(missing)
    return go.Scatter(x=missing[:, 1], y=missing[:, 0], text=dashes, mode="text", hoverinfo="skip", name="unknown")


@checked
def head_change_maps(
    comparison: CheckpointComparison, task: str, *, what: str = "aie", title: str | None = None
) -> go.Figure:
    """Every head's effect or weight change per checkpoint, side by side on one colour scale, layers from the bottom.

    Outlined: the base's strongest heads; circled: those among a checkpoint's strongest that are not the base's.

    Args:
        comparison: the record of ``compare_checkpoints``.
        task: one of its tasks.
        what: "aie", the heads' effects on the task in the base and in every checkpoint; "aie-change", the same minus
            the base's; or "W_Q", "W_K", "W_V", "W_O", how far that matrix of a head is from the base's, relative to it.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a task that is not one of the comparison's, or another ``what``.

    Example:
        >>> figure = iv.views.head_change_maps(comparison, comparison.tasks[0], what="W_O")
        >>> figure.layout.title.text.startswith("W_O: what changed")
        True
    """
    one_of("task", task, comparison.tasks)
    one_of("what", what, WHAT)
    maps = head_maps(comparison, task, what)
    with_base = what == "aie" or len(maps) == 1  # changes of the base are 0 everywhere
    checkpoints = range(0 if with_base else 1, len(maps))
    n_layers, n_heads = maps.shape[1:]
    columns, size = head_map_grid(len(checkpoints), n_layers, n_heads, GAPS.width, MARGINS)
    heading, facts = _heading(comparison, task, what)
    names = [comparison.checkpoints[checkpoint] for checkpoint in checkpoints]
    draft, panels = panel_grid(names, size, columns, GAPS, MARGINS, heading if title is None else title, facts)
    scale = colour_scale(maps[checkpoints.start :], "size" if what in MATRICES else "loss")
    for checkpoint, panel in zip(checkpoints, panels, strict=True):
        traces = _head_map(comparison, task, what, checkpoint, maps[checkpoint], size, scale)
        traces[0].showscale = panel == panels[0]
        draft.add_traces(traces, **panel)
        _number_axes(draft, panel, n_layers, n_heads, size)
    return draft.figure()


def _number_axes(draft: Draft, panel: Panel, n_layers: int, n_heads: int, size: Size) -> None:
    draft.update_xaxes(number_axis("head", n_heads, size.width, 24), **panel)
    draft.update_yaxes(number_axis("layer" if panel["col"] == 1 else "", n_layers, size.height, 16), **panel)


def _head_map(
    comparison: CheckpointComparison, task: str, what: str, checkpoint: int, values: np.ndarray, size: Size,
    scale: dict[str, Any],
) -> list[go.Heatmap | go.Scatter]:  # fmt: skip
    """The map of one checkpoint, the base's heads outlined and the newly strong heads circled."""
    number, (n_layers, n_heads) = comparison.tasks.index(task), values.shape
    unit = "relative change" if what in MATRICES else f"effect ({EFFECT_UNITS[comparison.metric]})"
    hover = f"{plain(comparison.checkpoints[checkpoint], 60)}<br><b>%{{y}}.%{{x}}</b><br>{unit} %{{z:.3g}}"
    error = None
    if what == "aie":
        error = comparison.stderr[checkpoint, number].numpy()
        hover += "<br>standard error %{customdata:.2g}"
    side = min(size.width / n_heads, size.height / n_layers)
    gap = 1 if side >= 9 else 0
    heatmap = go.Heatmap(
        z=values.astype(np.float32), customdata=error, hovertemplate=f"{hover}<extra></extra>", xgap=gap, ygap=gap,
        colorbar=colour_bar(unit, min(size.height, 300)) | {"thickness": BAR_WIDTH}, **scale,
    )  # fmt: skip
    traces = [heatmap, outlines(comparison.heads[number], "outlines", _visible_on(scale), width=2)]
    gained = [] if what in MATRICES else heads_gained(comparison, checkpoint, task)
    return [*traces, _circles(gained, side)] if gained else traces


def _circles(heads: Sequence[Head], side: float) -> go.Scatter:
    """Open circles around heads, on a map whose squares are ``side`` pixels wide."""
    marker = {"symbol": "circle-open", "size": max(6, min(12, 0.7 * side)), "color": INK, "line": {"width": 1.6}}
    x, y = [head for _, head in heads], [layer for layer, _ in heads]
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, hoverinfo="skip", name="gained")


def colour_scale(values: np.ndarray, kind: str) -> dict[str, Any]:
    """The colour scale of a kind of measure, with its limits.

    "unit": from 0 to 1, or from -1 where a value is negative; "size": from 0 to the largest; "ratio": centred on 1;
    "loss" and "gain": centred on 0, red where the base had more.
    """
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


def _visible_on(scale: dict[str, Any]) -> str:
    """A colour for outlines that is visible on the whole colour scale."""
    return OKABE_ITO[1] if scale["colorscale"] == SEQUENTIAL else INK


def _heading(comparison: CheckpointComparison, task: str, what: str) -> tuple[str, str]:
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
