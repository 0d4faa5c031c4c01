"""Weights put back: maps of what returns beside what it costs, and the straight way between two models as curves."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ...checks import checked
from ...errors import MismatchError
from ...records import CheckpointPatching, WeightReverts
from ...records.reverting import REVERT_ROLES, RevertRole
from ...text import plural
from ..axes import UNIT_AXIS, value_axis
from ..documents import Body
from ..layout import Margins, Size, legend_around, legend_size, panel_grid
from ..markup import prose
from ..style import LINE_COLOURS, SYMBOLS, plain, translucent
from ..tables import frame_table
from .layers import LayerMap, layer_maps
from .patching import patching_layer_maps
from .words import interval_text

PARTS = {"attention": "attention", "mlp": "MLP", "both": "both"}
DONE: dict[RevertRole, tuple[str, str]] = {"old": ("old tasks", "returned"), "learned": ("learned tasks", "undone")}
TOWARDS = {"old": 1, "learned": -1}  # the sign of a change of log P(answer) that is returned, or undone
PANELS = {"accuracy": "accuracy", "nats": "change of log P(answer), nats"}
PANEL, GAP, LEFT, BOTTOM = Size(330, 250), Size(72, 40), 60, 52
READING = """
Returned is the share of the gap in log P(answer) between the tuned model and the base that comes back on the old tasks
with the base's weights in these layers; undone, the share of what was gained on the learned tasks. Parts act one after
another, so shares do not add up to 1. Whose weights were changed need not be what carries the loss.
"""


@checked
def reverting_maps(reverts: WeightReverts, *, title: str | None = None) -> go.Figure:
    """What each band's attention, MLPs, or both return on old tasks, beside what that costs on learned ones.

    Shares of the gap, red for what moves the answers towards the base's; in nats where a gap is too small for shares.

    Args:
        reverts: the record of ``revert_weights``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> figure = iv.views.reverting_maps(reverts)
        >>> [trace.z.shape for trace in figure.data]  # layers, parts
        [(2, 3), (2, 3)]
    """
    heading = "What the base's weights return" if title is None else title
    facts = f"the base's weights put back, band by band; {_gaps(reverts)}"
    return layer_maps(reverting_layer_maps(reverts), heading, facts)


@checked
def carried_and_made(patching: CheckpointPatching, reverts: WeightReverts, *, title: str | None = None) -> go.Figure:
    """Where a loss is carried, by the base's activations put back, beside where it was made, by the base's weights.

    Args:
        patching: the record of ``patch_checkpoints``.
        reverts: the record of ``revert_weights`` for the same two models.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        MismatchError: models of different depths.

    Example:
        >>> figure = iv.views.carried_and_made(patching, reverts)
        >>> [trace.z.shape[1] for trace in figure.data]  # attention, MLP, and the incoming stream or both
        [3, 3, 3]
    """
    maps = [patching_layer_maps(patching, "restores", k=0)[-1], *reverting_layer_maps(reverts)]
    depths = [len(each.values) for each in maps[:2]]
    if depths[0] != depths[1]:
        came = f"{depths[0]} and {depths[1]} layers"
        raise MismatchError("records of the same two models", came, "measure both on one pair of models")
    limits = {unit: max(each.limit for each in maps if each.unit == unit) for unit in {each.unit for each in maps}}
    named = zip(("carried", "made: returned", "made: undone"), maps, strict=True)
    maps = [each._replace(name=name, limit=limits[each.unit]) for name, each in named]
    heading = "Where the loss is carried, and where it was made" if title is None else title
    n = plural(patching.n, "forgotten prompt")
    facts = f"left: the base's activations at the last prompt token, {n}; then: its weights; {_gaps(reverts)}"
    return layer_maps(maps, heading, facts)


def reverting_layer_maps(reverts: WeightReverts) -> list[LayerMap]:
    """The maps of old and of learned tasks, on one scale where both are shares, to be put beside others."""
    frame = reverts.to_frame()
    frame = frame[frame["what"] == "layers"]
    shares = frame["share"].notna().all()
    values = frame["share"] if shares else frame["nats"] * frame["role"].map(TOWARDS)
    frame, unit = frame.assign(shown=values, text=_hover(frame)), "share of the gap" if shares else "nats"
    limit = float(values.abs().max()) or 1.0
    sizes = [last - first + 1 for first, last in dict.fromkeys(filter(None, reverts.layers))]
    found = []
    for role in REVERT_ROLES:
        columns = [frame[(frame["role"] == role) & (frame["part"] == part)] for part in PARTS]
        shown, hover = (
            np.stack([np.repeat(own[name].to_numpy(), sizes) for own in columns], 1) for name in ("shown", "text")
        )
        found.append(LayerMap(", ".join(DONE[role]), shown, hover, tuple(PARTS.values()), unit, limit))
    return found


@checked
def reverting_curves(reverts: WeightReverts, *, title: str | None = None) -> go.Figure:
    """Accuracy and log P(answer) on old and learned tasks on the straight way from the base to the tuned model.

    Bars are 95% intervals, paired with the tuned model. Open symbols: fractions that grow with depth, at their mean.

    Args:
        reverts: the record of ``revert_weights``.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> iv.views.reverting_curves(reverts).data[0].x.tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    names = [DONE[role][0] for role in REVERT_ROLES]
    margins = Margins(LEFT, legend_size(names).width, BOTTOM)
    heading = "The straight way between the two models" if title is None else title
    facts = f"base + fraction x change of the weights; {_gaps(reverts)}\nopen: a fraction that grows with depth"
    draft, panels = panel_grid([*PANELS.values()], PANEL, len(PANELS), GAP, margins, heading, facts)
    frame = reverts.to_frame().assign(x=lambda rows: (rows["fraction"] + rows["last_fraction"]) / 2)
    for column, panel in zip(PANELS, panels, strict=True):
        traces = [_curve(frame, role, column, what) for role in REVERT_ROLES for what in ("straight", "by depth")]
        draft.add_traces(traces, **panel)
        draft.update_yaxes(UNIT_AXIS if column == "accuracy" else value_axis(traces), **panel)
    fractions = {"range": [-0.04, 1.04], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    draft.update_xaxes({"title": {"text": "fraction of the change"}} | fractions)
    draft.layout |= legend_around(draft.traces, names)
    return draft.figure()


def _curve(frame: pd.DataFrame, role: RevertRole, column: str, what: str) -> go.Scatter:
    """The line of a role on the straight way, or its points by depth."""
    rows = frame[(frame["role"] == role) & (frame["what"] == what)]
    name, number, straight = DONE[role][0], REVERT_ROLES.index(role), what == "straight"
    colour, symbol = LINE_COLOURS[number], SYMBOLS[number]
    change = rows["gain"] if column == "accuracy" else rows["nats"]
    ends = [rows[f"{change.name}_{end}"] for end in ("low", "high")]
    bar = {"thickness": 1.2, "width": 0, "color": translucent(colour, 0.6)}
    return go.Scatter(
        x=rows["x"].to_numpy(), y=rows[column].to_numpy(), name=name, legendgroup=name,
        mode="lines+markers" if straight else "markers", line={"color": colour, "width": 1.8},
        marker={"symbol": symbol if straight else f"{symbol}-open", "size": 7 if straight else 10}, cliponaxis=False,
        error_y=bar | {"array": (ends[1] - change).fillna(0), "arrayminus": (change - ends[0]).fillna(0)},
        hovertext=_hover(rows), hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def reverting_parts(reverts: WeightReverts) -> list[Body]:
    """What a report shows: both maps, the straight way, and each part as a row of a table."""
    frame = reverts.to_frame()
    of_role = {role: frame[frame["role"] == role].reset_index(drop=True) for role in REVERT_ROLES}
    old = of_role["old"]
    table = pd.DataFrame({"put back": [_title(row) for row in old.itertuples()]})
    for role, rows in of_role.items():
        name, done = DONE[role]
        shares = zip(rows["share"], rows["share_low"], rows["share_high"], strict=True)
        nats = zip(rows["nats"], rows["nats_low"], rows["nats_high"], strict=True)
        table[f"{name}: accuracy"] = rows["accuracy"]
        table[f"{name}: nats"] = [interval_text(*each) for each in nats]
        table[f"{name}: {done}"] = [interval_text(*each) for each in shares]
    caption = "Each part put back: accuracy, change of log P(answer) in nats, and share of the gap, with 95% intervals"
    figures = [partial(reverting_maps, reverts), partial(reverting_curves, reverts)]
    return [*figures, frame_table(table, caption), prose(READING)]


def _gaps(reverts: WeightReverts) -> str:
    """The gap of each role, and on how many prompts."""
    lines = [
        f"{DONE[role][0]}, {plural(reverts.roles.count(role), 'prompt')}: {interval_text(*reverts.gap(role))} nats"
        for role in REVERT_ROLES
    ]
    return "\n".join(["gap of log P(answer), base minus tuned:", *lines])


def _title(row: Any) -> str:
    """What a row of the frame puts back, in words."""
    if row.what == "straight":
        ends = {0.0: "everything: the base", 1.0: "nothing: the tuned model"}
        return ends.get(row.fraction, f"all but {row.fraction:g} of the change")
    part = "attention and MLP" if row.part == "both" else PARTS.get(row.part)
    titles = {
        "by depth": f"by depth, all but {row.fraction:g} to {row.last_fraction:g} of the change",
        "layers": f"{part} of layers {row.layers}", "rest": "embeddings and norms", "heads": f"heads: {row.name}",
    }  # fmt: skip
    return titles[row.what]


def _hover(rows: pd.DataFrame) -> list[str]:
    """What is said of each mixture and role."""
    return [_told(row) for row in rows.itertuples()]


def _told(row: Any) -> str:
    name, done = DONE[row.role]
    share, nats = (row.share, row.share_low, row.share_high), (row.nats, row.nats_low, row.nats_high)
    return (
        f"<b>{plain(_title(row), 60)}</b><br>{name}: {done} {interval_text(*share)} of the gap<br>"
        f"{interval_text(*nats)} nats<br>accuracy {row.accuracy:.2f}<br>n = {row.n}"
    )
