"""What tasks share, as three matrices: heads, vectors, and one task's vector on another task's prompts."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import checked
from ..records import TransferMatrix
from ..text import one_line, plural
from .axes import LETTER, SLANT, text_axis
from .draft import Draft
from .layout import WIDEST, Margins, Size, panel_grid
from .settings import steering_facts
from .style import DIVERGING, SEQUENTIAL, plain

TITLES = {
    "overlap": "overlap of the heads",
    "cosine": "cosine of the vectors",
    "accuracy": "steered accuracy",
}
HOVER = "source %{customdata[0]}<br>target %{customdata[1]}<br>"
INTERVAL = " (95% interval %{customdata[2]:.2f} to %{customdata[3]:.2f})<br>n = %{customdata[4]}"
BARE_HOVER = "target %{customdata}<br><b>accuracy without a vector %{z:.2f}</b><extra></extra>"
GAP, LABEL_WIDTH = 62, 26
BARE_ROW, BARE_SPACE = 30, 9  # pixels: greatest height of the row without a vector, and the space over it


@checked
def transfer_heatmaps(matrix: TransferMatrix, *, title: str | None = None) -> go.Figure:
    """Heads' overlap (0 to 1), vectors' cosine (-1 to 1) and steered accuracy (0 to 1), for each pair of tasks.

    Source tasks are rows and target tasks columns, the first at the top left; the row under the accuracies is the
    targets' accuracy without a vector.

    Args:
        matrix: the transfer between tasks.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Example:
        >>> import torch
        >>> steered, bare = torch.ones(2, 2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
        >>> matrix = iv.TransferMatrix(torch.eye(2), torch.eye(2), steered, bare, ("antonym", "synonym"))
        >>> len(iv.views.transfer_heatmaps(matrix).data)
        4
    """
    labels, count = [plain(_label(task), 99) for task in matrix.tasks], len(matrix.tasks)
    longest = int(LETTER * max(len(_label(task)) for task in matrix.tasks))
    margins = Margins(left=longest + 44, right=62, bottom=int(SLANT * longest) + 50)
    side = max(200, min(66 * count, (WIDEST - margins.left - margins.right - 2 * GAP) // 3))
    entry = side / count
    size = Size(side, round(side + BARE_SPACE + min(BARE_ROW, entry)))
    heading = "Transfer between tasks" if title is None else title
    draft, panels = panel_grid(list(TITLES.values()), size, 3, Size(GAP, 0), margins, heading, _facts(matrix))
    square, end = side / size.height, count - 0.5
    for value, panel in zip(TITLES, panels, strict=True):
        bar = {"x": draft.domain(**panel).x[1], "y": 1 - square / 2, "len": square}
        draft.add_traces([_matrix(matrix, value, entry, bar)], **panel)
        draft.update_xaxes(text_axis(labels) | {"tickangle": -45, "title": {"text": "target task"}}, **panel)
        down = {"range": [end, -0.5], "domain": [1 - square, 1]}
        draft.update_yaxes(text_axis(labels if value == "overlap" else []) | down, **panel)
    draft.update_yaxes({"title": {"text": "source task"}}, col=1)
    _add_bare(draft, matrix, entry, panels[2], end, end + (size.height - side) / entry)
    return draft.figure()


def _add_bare(
    draft: Draft, matrix: TransferMatrix, entry: float, panel: dict[str, int], end: float, bottom: float
) -> None:
    """Add the targets' accuracy without a vector as a row, from under the matrix' ``end`` to the panel's ``bottom``."""
    top = end + BARE_SPACE / entry
    draft.update_yaxes({"range": [bottom, -0.5], "domain": [0, 1]}, **panel)
    row = go.Heatmap(
        _values(matrix.bare.double().mean(-1).numpy()[None], entry),
        y=(top, bottom),
        customdata=[[plain(task, 60) for task in matrix.tasks]],
        hovertemplate=BARE_HOVER,
        colorscale=SEQUENTIAL,
        zmin=0,
        zmax=1,
        showscale=False,
        name="bare",
    )
    draft.add_traces([row], **panel)
    draft.annotations.append({
        "text": "no vector", "x": 0, "xref": "x3 domain", "xanchor": "right", "y": (top + bottom) / 2, "yref": "y3",
        "showarrow": False, "font": {"size": 11},
    })  # fmt: skip


def _matrix(matrix: TransferMatrix, value: str, entry: float, bar: dict[str, Any]) -> go.Heatmap:
    """The matrix of one column of the record's frame, its entries ``entry`` pixels wide, with its colour bar."""
    frame = matrix.to_frame()
    shape = len(matrix.tasks), len(matrix.tasks)
    pairs = [[plain(name, 60) for name in frame[side]] for side in ("source", "target")]
    facts = np.array([*pairs, frame["low"], frame["high"], frame["n"]], dtype=object).T
    least = -1 if value == "cosine" else 0
    return go.Heatmap(
        _values(frame[value].to_numpy().reshape(shape), entry),
        customdata=facts.reshape(*shape, -1),
        hovertemplate=f"{HOVER}<b>{value} %{{z:.2f}}</b>{INTERVAL if value == 'accuracy' else ''}<extra></extra>",
        colorscale=DIVERGING if value == "cosine" else SEQUENTIAL,
        zmin=least,
        zmax=1,
        colorbar={"thickness": 8, "xpad": 5, "ypad": 0, "outlinewidth": 0, "tickvals": [least, (least + 1) / 2, 1]}
        | bar,
    )


def _values(values: np.ndarray, entry: float) -> dict[str, Any]:
    """Values with their texts, without the leading zero where ``entry`` pixels are too narrow for it."""
    texts = [[f"{value:z.2f}" for value in row] for row in values]
    if entry < 34:
        texts = [[text.replace("0.", ".") for text in row] for row in texts]
    font = {"size": 9 if entry < 34 else 11}
    return {"z": values, "text": texts, "texttemplate": "%{text}", "textfont": font, "xgap": 1, "ygap": 1}


def _label(task: str) -> str:
    return one_line(task, LABEL_WIDTH)


def _facts(matrix: TransferMatrix) -> str:
    steering = steering_facts(matrix)
    return (
        "rows: source task, columns: target task\nsteered accuracy: answers to the target's bare prompts, the "
        f"source's vector added, n = {plural(matrix.n, 'prompt')} for each target\n"
        f"all vectors are added at one shared layer and scale{steering and f': {steering}'}, not at each task's best"
    )
