"""A repair: what was tried, what was put back of each layer, and what that returned and cost."""

import math
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ...checks import checked
from ...records import Repair
from ...records.repair import BASE, KEEP, LEARNED, OTHER, REPAIRED, TUNED
from ...text import plural
from ..axes import colour_bar, number_axis
from ..documents import Body
from ..layout import Margins, Size, layout_around, legend_around, legend_size
from ..markup import prose
from ..style import FAINT, GREY, INK, LINE_COLOURS, SEQUENTIAL, SYMBOLS, plain
from ..tables import frame_table

REFUSED = "refused by the guard"
ROLES = {KEEP: "tasks to keep", OTHER: "other abilities", LEARNED: "learned tasks"}
SCATTER, SCATTER_MARGINS = Size(340, 340), Margins(left=60, right=24, bottom=56)
WIDEST = 420  # of the map, in pixels: it fits a page of 700
ROW, MAP_MARGINS = 34, Margins(left=72, right=104, bottom=52)
READING = """
Random bands puts whole layers' attention and MLPs back in a random order until as much of the change is undone; random
change goes as far from the tuned weights in a random direction. A repair that returns no more than these found nothing.
Intervals are of paired differences on the same prompts. Nothing of other abilities was used for choosing.
"""


@checked
def repair_tradeoff(repair: Repair, *, title: str | None = None) -> go.Figure:
    """What a repair tried: accuracy on the tasks to keep over that on the learned ones, on validation prompts.

    The guard is a line: what lies left of it loses too much, and was not measured on the tasks to keep. Of the points
    as high as the highest, within its standard error, the one nearest the base is chosen.

    Args:
        repair: the record of ``repair``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> figure = iv.views.repair_tradeoff(repaired)
        >>> [trace.name for trace in figure.data][0]
        'tuned'
    """
    trials = repair.trials_frame()
    allowed = trials[trials["allowed"]]
    names = [*allowed["step"].unique()]
    traces = [_points(allowed[allowed["step"] == name], number) for number, name in enumerate(names)]
    if len(refused := trials[~trials["allowed"]]):
        mark = {"symbol": "line-ns-open", "size": 11, "color": GREY, "line": {"width": 1.5}}
        traces.append(_marks(refused, refused["learned"] * 0, REFUSED, mark))
    chosen = allowed[allowed["chosen"]]
    ring = {"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 2}}
    traces.append(_marks(chosen, chosen["kept"], "chosen", ring))
    groups = [trace.name for trace in traces]
    right, height = legend_size(groups)
    margins, size = SCATTER_MARGINS._replace(right=right), SCATTER._replace(height=max(SCATTER.height, height))
    start = max(0.0, math.floor(10 * trials["learned"].min() - 0.5) / 10)
    heading = "What was tried" if title is None else title
    facts = f"validation prompts; {plural(len(trials), 'mixture')} of the two models' weights"
    facts += f"\nthe horizontal axis starts at {start:g}" if start else ""
    figure = go.Figure(
        traces, layout_around(size, margins, heading, facts) | legend_around(traces, groups, itemsizing="trace")
    )
    guard = trials["learned"].iloc[0] - repair.tolerance
    line = {"dash": "dash", "width": 1.2, "color": FAINT}
    figure.add_vline(guard, line=line, annotation_text="guard", annotation_position="top left")
    figure.update_yaxes(title_text="accuracy on the tasks to keep", range=[-0.045, 1.06], dtick=0.2, zeroline=False)
    pad = 0.05 * (1 - start)
    return figure.update_xaxes(title_text="accuracy on the learned tasks", range=[start - pad, 1 + pad], zeroline=False)


def _points(trials: pd.DataFrame, number: int) -> go.Scatter:
    """The trials of one step."""
    marker = {"symbol": SYMBOLS[number % len(SYMBOLS)], "color": LINE_COLOURS[number % len(LINE_COLOURS)], "size": 9}
    return _marks(trials, trials["kept"], str(trials["step"].iloc[0]), marker | {"opacity": 0.8})


def _marks(trials: pd.DataFrame, heights: pd.Series, name: str, marker: dict[str, object]) -> go.Scatter:
    texts = []
    columns = ["step", "what", "learned", "kept", "probability", "undone", "divergence"]
    for step, what, *numbers in trials.reindex(columns=columns).to_numpy().tolist():
        learned, kept, probability, undone, divergence = map(float, numbers)
        measured = "not measured" if math.isnan(kept) else f"{kept:.3f}, mean P(answer) {probability:.3f}"
        apart = "" if math.isnan(divergence) else f", {divergence:.4f} nats from the base"
        texts.append(
            f"<b>{plain(step, 60)}</b><br>{plain(what, 60)}<br>learned tasks {learned:.3f}<br>"
            f"tasks to keep {measured}<br>{undone:.0%} of the change undone{apart}"
        )
    return go.Scatter(
        x=trials["learned"], y=heights, mode="markers", name=name, legendgroup=name, marker=marker, hovertext=texts,
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


@checked
def repair_fractions(repair: Repair, *, title: str | None = None) -> go.Figure:
    """How much of its change each layer's attention and MLP keeps: 0 is the base's weights, 1 the tuned ones.

    Args:
        repair: the record of ``repair``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> figure = iv.views.repair_fractions(repaired)
        >>> figure.data[0].z.shape  # attention and MLP of two layers
        (2, 2)
    """
    values = np.stack([repair.mlp.numpy(), repair.attention.numpy()])
    n_layers = values.shape[1]
    size = Size(max(300, min(WIDEST, 26 * n_layers)), 2 * ROW)
    bar = colour_bar("kept", size.height) | {"tickvals": [0, 0.5, 1], "ticktext": ["0 (base)", "½", "1 (tuned)"]}
    heatmap = go.Heatmap(
        z=values, y=["MLP", "attention"], colorscale=SEQUENTIAL, zmin=0, zmax=1, xgap=1, ygap=2, colorbar=bar,
        hovertemplate="<b>%{y} of layer %{x}</b><br>%{z:.2f} of its change kept<extra></extra>",
    )  # fmt: skip
    heading = "What is kept of the change" if title is None else title
    facts = f"the rest is put back; kept of embeddings and norms: {repair.rest:.2g}"
    axes = {"xaxis": number_axis("layer", n_layers, size.width, 26), "yaxis": {"showgrid": False}}
    return go.Figure(heatmap, layout_around(size, MAP_MARGINS, heading, facts) | axes)


def repair_headline(repair: Repair) -> str:
    """What to do now and what that costs, in plain words, with the accuracies on test prompts."""
    gains = repair.gains().set_index(["role", "model"])
    accuracy = gains["accuracy"].map("{:.2f}".format)
    doubt = ""
    if gains["accuracy"][LEARNED, TUNED] < gains["accuracy"][LEARNED, BASE]:
        doubt = (
            f" The tuned model answers fewer prompts of the learned tasks than the base ({accuracy[LEARNED, TUNED]}, "
            f"the base {accuracy[LEARNED, BASE]}): ask them as they were trained. learned_shots=0, --learned-shots 0, "
            "asks without demonstrations."
        )
    if not repair.found:
        return f"Put nothing back: {repair.outcome}.{doubt}"
    (change,) = _intervals(gains.loc[[(LEARNED, REPAIRED)]], "gain")
    parts = [
        f"{ROLES[role]} from {accuracy[role, TUNED]} to {accuracy[role, REPAIRED]} (the base {accuracy[role, BASE]})"
        for role in (KEEP, OTHER) if role in repair.roles
    ]  # fmt: skip
    kept = gains["accuracy"][KEEP]
    chance = [name for name in kept.index if name not in (BASE, TUNED, REPAIRED) and kept[name] >= kept[REPAIRED]]
    if chance:
        doubt = (
            f" A random control ({chance[0]}) returns as much, {accuracy[KEEP, chance[0]]} on the tasks to keep: that "
            f"these weights were chosen makes no difference here.{doubt}"
        )
    return (
        f"Undo {repair.undone:.0%} of the change ({repair.chosen}). Accuracy on test prompts: "
        f"{'; '.join(parts)}; learned tasks from {accuracy[LEARNED, TUNED]} to {accuracy[LEARNED, REPAIRED]}, "
        f"a change of {change}, 95% interval.{doubt}"
    )


def forgotten_frame(repair: Repair) -> pd.DataFrame:
    """Accuracy of base, tuned and repaired model on each old task, and what was lost and came back."""
    frame = _by_model(repair, (KEEP, OTHER))
    lost = _intervals(_rows(repair, TUNED, (KEEP, OTHER)), "forgetting")
    returned = _intervals(_rows(repair, REPAIRED, (KEEP, OTHER)), "gain")
    return frame.assign(lost=lost, returned=returned)


def cost_frame(repair: Repair) -> pd.DataFrame:
    """Accuracy of the models on each learned task, and how the repair changed the tuned model's."""
    change = _intervals(_rows(repair, REPAIRED, (LEARNED,)), "gain")
    return _by_model(repair, (LEARNED,)).assign(change=change)


def returned_frame(repair: Repair) -> pd.DataFrame:
    """Accuracy of every model by role, with the change against the tuned model: the repair beside its controls."""
    frame = repair.gains()
    columns: dict[str, object] = {"model": repair.models}
    for role in (role for role in ROLES if role in repair.roles):
        own = frame[frame["role"] == role]
        rows = zip(own["model"], own["accuracy"], _intervals(own, "gain"), strict=True)
        columns[ROLES[role]] = [f"{value:.2f}" + ("" if model == TUNED else f", {gain}") for model, value, gain in rows]
    return pd.DataFrame(columns)


def _by_model(repair: Repair, roles: tuple[str, ...]) -> pd.DataFrame:
    """The tasks of these roles with the accuracies of base, tuned and repaired model, and the number of prompts."""
    rows = {model: _rows(repair, model, roles) for model in (BASE, TUNED, REPAIRED)}
    own = rows[TUNED]
    known = {"task": own["task"].tolist(), "role": [ROLES[role] for role in own["role"]], "n": own["n"].tolist()}
    return pd.DataFrame(known | {model: each["accuracy"].tolist() for model, each in rows.items()})


def _rows(repair: Repair, model: str, roles: tuple[str, ...]) -> pd.DataFrame:
    frame = repair.task_gains()
    return frame[(frame["model"] == model) & frame["role"].isin(roles)]


def _intervals(frame: pd.DataFrame, name: str) -> list[str]:
    """A column of differences with their 95% intervals, as texts."""
    ends = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return [_difference(*each) for each in ends]


def _difference(*values: float) -> str:
    """A difference with the ends of its interval, as text, without a negative zero."""
    value, low, high = (f"{round(each, 2) + 0.0:+.2f}" for each in values)
    return f"{value} ({low}\u00a0to\u00a0{high})"


def forgotten_parts(repair: Repair) -> list[Body]:
    """What was forgotten, and what of it comes back."""
    caption = "Accuracy on test prompts: what was lost of the base's, and what the repair returns to the tuned model"
    return [frame_table(forgotten_frame(repair), caption)]


def remedy_parts(repair: Repair) -> list[Body]:
    """What to do now: what is put back, and what was tried."""
    maps = [partial(repair_fractions, repair)] if repair.found else []
    return [*maps, partial(repair_tradeoff, repair)]


def cost_parts(repair: Repair) -> list[Body]:
    """What that returns and costs, beside controls."""
    return [
        frame_table(cost_frame(repair), "Accuracy on test prompts, and the change against the tuned model"),
        frame_table(
            returned_frame(repair), "The same by role, beside controls: accuracy, then its change with a 95% interval"
        ),
        prose(READING),
    ]


def repair_parts(repair: Repair) -> list[Body]:
    """What a report shows of a repair."""
    headline = prose(repair_headline(repair))
    return [headline, *forgotten_parts(repair), *remedy_parts(repair), *cost_parts(repair)]
