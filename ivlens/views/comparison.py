"""Conditions compared as bars: a row a condition, a panel a task."""

from collections.abc import Sequence

import plotly.graph_objects as go

from ..checks import checked
from ..errors import ArgumentError
from ..records import ConditionComparison
from .panels import LETTER, WIDEST, Edges, Size, columns_for, labels, panels
from .style import INK, OKABE_ITO, plain

HOVER = (
    "<b>%{customdata[0]}</b><br>accuracy %{x:.2f} (95% interval %{customdata[1]:.2f} to %{customdata[2]:.2f})<br>"
    "P(answer) %{customdata[3]:.3f}<br>n = %{customdata[4]}<extra></extra>"
)
FACTS = ["condition", "low", "high", "probability", "n"]
COLOURS = (*OKABE_ITO[:-1], "#882255", "#999933", "#332288")  # without black, which would hide the intervals
GREY = "#afb8c1"
NAME_WIDTH = 34
ROOM = 40  # pixels for the values, right of 1
GAPS: Size = (22, 48)


@checked
def comparison_bars(comparisons: Sequence[ConditionComparison], *, title: str | None = None) -> go.Figure:
    """Accuracy under each condition, 0 to 1, with its 95% Wilson interval over prompts; one panel for each task.

    A condition has the same row and colour in every panel; those whose names start with "random" are grey.

    Raises: ArgumentError where there is no comparison.
    """
    if not comparisons:
        raise ArgumentError("one comparison or more", "none")
    conditions = list(dict.fromkeys(name for each in comparisons for name in each.conditions))
    texts = [plain(name, NAME_WIDTH) for name in conditions]
    lines = [text.split("<br>") for text in texts]
    longest, tallest = max(len(line) for each in lines for line in each), max(map(len, lines))
    edges: Edges = (int(LETTER * longest) + 28, 16, 48)
    columns = columns_for(len(comparisons), 150, GAPS[0], edges)
    room = (WIDEST - edges[0] - edges[1] - GAPS[0] * (columns - 1)) // columns
    size = min(room, 420), max(24, 14 * tallest + 6) * len(texts) + 8
    heading = "Accuracy by condition" if title is None else title
    names = [each.task or "all prompts" for each in comparisons]
    figure, places = panels(names, size, columns, GAPS, edges, heading, _facts(comparisons))
    colours = _colours(conditions)
    for each, place in zip(comparisons, places, strict=True):
        figure.add_traces(_bars(each, conditions, colours), rows=place["row"], cols=place["col"])
        end = 1 / (1 - ROOM / size[0])
        figure.update_xaxes(title_text="accuracy", range=[0, end], tickvals=[0, 0.5, 1], **place)
        rows = labels(texts if place["col"] == 1 else [])
        down = {"range": [len(texts) - 0.5, -0.5], "ticks": "", "ticklabelstandoff": 6}
        figure.update_yaxes(rows | down, **place)
    return figure


def _bars(comparison: ConditionComparison, conditions: list[str], colours: dict[str, str]) -> list[go.Bar | go.Scatter]:
    """The bars of one panel, each with its interval, and their values at the panel's right edge."""
    frame = comparison.to_frame()
    rows = [conditions.index(name) for name in frame["condition"]]
    bars = go.Bar(
        x=frame["accuracy"],
        y=rows,
        orientation="h",
        width=0.66,
        marker={"color": [colours[name] for name in frame["condition"]]},
        error_x={
            "array": frame["high"] - frame["accuracy"], "arrayminus": frame["accuracy"] - frame["low"],
            "color": INK, "thickness": 1.2, "width": 3,
        },
        customdata=frame.assign(condition=[plain(name, 60) for name in frame["condition"]])[FACTS].to_numpy(),
        hovertemplate=HOVER,
    )  # fmt: skip
    values = go.Scatter(
        x=[1.02] * len(rows),
        y=rows,
        text=[f"{accuracy:.2f}" for accuracy in frame["accuracy"]],
        mode="text",
        textposition="middle right",
        textfont={"size": 11},
        hoverinfo="skip",
        name="values",
    )
    return [bars, values]


def _colours(conditions: Sequence[str]) -> dict[str, str]:
    """A colour for each condition: grey for the random ones, the palette in turn for the others."""
    others = [name for name in conditions if not name.startswith("random")]
    own = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(others)}
    return {name: own.get(name, GREY) for name in conditions}


def _facts(comparisons: Sequence[ConditionComparison]) -> str:
    least, most = (choose(each.n for each in comparisons) for choose in (min, max))
    count = f"n = {most}" if least == most else f"n = {least} to {most}"
    grey = any(name.startswith("random") for each in comparisons for name in each.conditions)
    return (
        f"accuracy and its 95% interval (Wilson), {count} prompt{'s' * (most != 1)}"
        f"{' for each task' if len(comparisons) > 1 else ''}{', grey: random controls' if grey else ''}"
    )
