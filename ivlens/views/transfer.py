"""What tasks share as three matrices: their heads, their vectors, and what one's vector does to another's prompts."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..checks import checked
from ..records import TransferMatrix
from ..records.visible import one_line
from .panels import LETTER, SEQUENTIAL, WIDEST, Edges, labels, panels
from .style import DIVERGING, plain

NAMES = {
    "overlap": "overlap of the heads",
    "cosine": "cosine of the vectors",
    "accuracy": "steered accuracy",
}
HOVER = "source %{customdata[0]}<br>target %{customdata[1]}<br>"
INTERVAL = " (95% interval %{customdata[2]:.2f} to %{customdata[3]:.2f})<br>n = %{customdata[4]}"
BARE = "target %{customdata}<br><b>accuracy without a vector %{z:.2f}</b><extra></extra>"
GAP, NAME_WIDTH = 62, 26
ROW, SPACE = 30, 9  # pixels: greatest height of the row without a vector, and the space over it


@checked
def transfer_heatmaps(matrix: TransferMatrix, *, title: str | None = None) -> go.Figure:
    """Heads' overlap (0 to 1), vectors' cosine (-1 to 1) and steered accuracy (0 to 1), for each pair of tasks.

    Source tasks are rows and target tasks columns, the first at the top left; the row under the accuracies is the
    targets' accuracy without a vector. ``title`` is plain text.
    """
    tasks, count = [plain(_short(task), 99) for task in matrix.tasks], len(matrix.tasks)
    longest = int(LETTER * max(len(_short(task)) for task in matrix.tasks))
    edges: Edges = (longest + 44, 62, int(0.72 * longest) + 50)
    side = max(200, min(66 * count, (WIDEST - edges[0] - edges[1] - 2 * GAP) // 3))
    cell = side / count
    size = side, round(side + SPACE + min(ROW, cell))
    heading = "Transfer between tasks" if title is None else title
    figure, places = panels(list(NAMES.values()), size, 3, (GAP, 0), edges, heading, _facts(matrix))
    square, last = side / size[1], count - 0.5
    for value, place in zip(NAMES, places, strict=True):
        bar = {"x": figure.get_subplot(**place).xaxis.domain[1], "y": 1 - square / 2, "len": square}
        figure.add_trace(_matrix(matrix, value, cell, bar), **place)
        figure.update_xaxes(labels(tasks) | {"tickangle": -45, "title": {"text": "target task"}}, **place)
        down = {"range": [last, -0.5], "domain": [1 - square, 1]}
        figure.update_yaxes(labels(tasks if value == "overlap" else []) | down, **place)
    figure.update_yaxes(title_text="source task", col=1)
    bottom = last + (size[1] - side) / cell
    figure.update_yaxes(range=[bottom, -0.5], domain=[0, 1], col=3)
    figure.add_trace(_bare(matrix, cell, (last + SPACE / cell, bottom)), **places[2])
    middle = (last + SPACE / cell + bottom) / 2
    return figure.add_annotation(
        text="no vector", x=0, xref="x3 domain", xanchor="right", y=middle, yref="y3", showarrow=False, font_size=11
    )


def _matrix(matrix: TransferMatrix, value: str, cell: float, bar: dict[str, Any]) -> go.Heatmap:
    """The matrix of one column of the record's frame, its cells ``cell`` pixels wide, with its colour bar."""
    frame = matrix.to_frame()
    shape = len(matrix.tasks), len(matrix.tasks)
    pairs = [[plain(name, 60) for name in frame[side]] for side in ("source", "target")]
    facts = np.array([*pairs, frame["low"], frame["high"], frame["n"]], dtype=object).T
    least = -1 if value == "cosine" else 0
    return go.Heatmap(
        _cells(frame[value].to_numpy().reshape(shape), cell),
        customdata=facts.reshape(*shape, -1),
        hovertemplate=f"{HOVER}<b>{value} %{{z:.2f}}</b>{INTERVAL if value == 'accuracy' else ''}<extra></extra>",
        colorscale=DIVERGING if value == "cosine" else SEQUENTIAL,
        zmin=least,
        zmax=1,
        colorbar={"thickness": 8, "xpad": 5, "ypad": 0, "outlinewidth": 0, "tickvals": [least, (least + 1) / 2, 1]}
        | bar,
    )


def _bare(matrix: TransferMatrix, cell: float, edges: tuple[float, float]) -> go.Heatmap:
    """The row under the accuracies, between its two ``edges``: each target's accuracy without a vector."""
    accuracy = matrix.bare.double().mean(-1).numpy()[None]
    return go.Heatmap(
        _cells(accuracy, cell),
        y=edges,
        customdata=[[plain(task, 60) for task in matrix.tasks]],
        hovertemplate=BARE,
        colorscale=SEQUENTIAL,
        zmin=0,
        zmax=1,
        showscale=False,
        name="bare",
    )


def _cells(values: np.ndarray, cell: float) -> dict[str, Any]:
    """Cells with their values written in them, without the leading zero where ``cell`` pixels are too few for it."""
    texts = [[f"{value:z.2f}" for value in row] for row in values]
    if cell < 34:
        texts = [[text.replace("0.", ".") for text in row] for row in texts]
    font = {"size": 9 if cell < 34 else 11}
    return {"z": values, "text": texts, "texttemplate": "%{text}", "textfont": font, "xgap": 1, "ygap": 1}


def _short(task: str) -> str:
    return one_line(task, NAME_WIDTH)


def _facts(matrix: TransferMatrix) -> str:
    return (
        "rows: source task, columns: target task\nsteered accuracy: greedy answers to the target's bare prompts, the "
        f"source's vector added, n = {matrix.n} prompt{'s' * (matrix.n != 1)} for each target"
    )
