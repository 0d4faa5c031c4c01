"""What the explorer's widget shows: its style, its two figures, its pieces of HTML with all text escaped."""

import asyncio
import html
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ipywidgets as ipw
import pandas as pd
import plotly.graph_objects as go
import torch

from ..errors import IvlensError
from ..records import Head, HeadEffects, heads_by_effect
from ..records.visible import escaped
from .attention import Html
from .heatmap import UNITS, head_heatmap
from .page import POLICY
from .style import FAINT, FONT, INK, OKABE_ITO, PAPER, plain
from .tables import frame_table

LOOKED, CHOSEN, POINT = OKABE_ITO[4], OKABE_ITO[2], OKABE_ITO[0]
OUTLINED = 10  # heads that the map outlines, and names where there is room
PANEL = 540  # pixels: width of what stands beside the map
# a notebook's own colours, so that text follows its theme; figures and attention keep their paper
STYLE = """<style>
.ivlens { color: var(--jp-ui-font-color1, inherit); }
.ivlens .widget-html-content { line-height: 1.4; overflow: visible; color: inherit; }
.ivlens h3 { font-size: 15px; margin: 2px 0; }
.ivlens p { margin: 2px 0; }
.ivlens .faint { color: var(--jp-ui-font-color2, GrayText); font-size: 12px; }
.ivlens .wrong { color: var(--jp-error-color1, #d1242f); white-space: pre-wrap; }
.ivlens table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
.ivlens caption { caption-side: top; text-align: left; padding: 4px 0; color: var(--jp-ui-font-color2, GrayText); }
.ivlens th, .ivlens td { padding: 1px 14px 1px 0; text-align: left; line-height: 1.5; white-space: pre;
  border-bottom: 1px solid var(--jp-border-color2, #d0d7de); }
.ivlens th.number, .ivlens td.number { text-align: right; }
.ivlens iframe { width: 100%; border: 0; border-radius: 4px; background: PAPER; }
</style>""".replace("PAPER", PAPER)


def name_of(head: Head) -> str:
    """A head as "layer.head"."""
    return f"{head[0]}.{head[1]}"


def head_of(name: str) -> Head:
    """The head of a "layer.head"."""
    layer, head = name.split(".")
    return Head(int(layer), int(head))


def note(text: str, kind: str = "faint") -> str:
    """A line of plain text as HTML of a class."""
    return f'<p class="{kind}">{escaped(text)}</p>'


def of_prompt(effects: HeadEffects, at: int | None) -> HeadEffects:
    """The effects on one of their prompts, or as they are."""
    if at is None:
        return effects
    return replace(effects, values=effects.values[at : at + 1], baseline=effects.baseline[at : at + 1])


def empty_map(shape: tuple[int, int], metric: str) -> go.FigureWidget:
    """A head map of ``shape`` (layers, heads) that ``draw_map`` fills."""
    nothing = HeadEffects(torch.zeros(1, *shape), torch.zeros(1), metric, "exact")
    empty = head_heatmap(nothing, top=0)
    more = go.Scatter(name="outlines"), go.Scatter(name="names")
    return go.FigureWidget([*empty.data, *more], empty.layout).update_layout(dragmode=False)


def draw_map(figure: go.FigureWidget, effects: HeadEffects, title: str) -> None:
    """Show effects on the map, in place: a new figure widget would bring the whole of plotly along."""
    fresh = head_heatmap(effects, top=OUTLINED, title=title)
    # by place, not by name: a browser tells the figure names for traces that have none
    traces = [*(trace.to_plotly_json() for trace in fresh.data), {"x": [], "y": [], "text": []}]
    with figure.batch_update():
        for trace, values in zip(figure.data, traces, strict=False):
            trace.update(values)
        figure.update_layout(fresh.layout)
    _keep(figure)


def mark_map(figure: go.FigureWidget, looked: Head | None, chosen: Iterable[Head]) -> None:
    """Frame the chosen heads on the map, and the one that is looked at."""
    frames = [(head, CHOSEN) for head in chosen] + ([] if looked is None else [(looked, LOOKED)])
    figure.layout.shapes = [
        {
            "type": "rect", "x0": head - 0.46, "x1": head + 0.46, "y0": layer - 0.46, "y1": layer + 0.46,
            "line": {"color": colour, "width": 3},
        }
        for (layer, head), colour in frames
    ]  # fmt: skip
    _keep(figure)


def empty_strip() -> go.FigureWidget:
    """One head's effects on the prompts, a point each, that ``draw_strip`` fills."""
    points = go.Box(
        y0=0, orientation="h", boxpoints="all", jitter=0.7, pointpos=0, boxmean=True, hoveron="points",
        fillcolor=PAPER, line={"color": FAINT, "width": 1}, hovertemplate="%{x:.3g}<br>%{text}<extra></extra>",
        marker={"color": POINT, "size": 7, "opacity": 0.75}, selected={"marker": {"color": LOOKED, "size": 12}},
        unselected={"marker": {"opacity": 0.75}},
    )  # fmt: skip
    layout = {
        "template": "ivlens", "width": PANEL, "height": 156, "margin": {"l": 16, "r": 16, "t": 34, "b": 46},
        "title": {"font": {"size": 13}, "pad": {"t": 16}}, "dragmode": False,
        "yaxis": {"visible": False}, "xaxis": {"zeroline": True, "zerolinecolor": INK, "zerolinewidth": 1},
    }  # fmt: skip
    return go.FigureWidget([points], layout)


def draw_strip(figure: go.FigureWidget, effects: HeadEffects, head: Head, texts: Sequence[str], at: int | None) -> None:
    """Show the head's effect on every prompt, in place, the prompt ``at`` singled out."""
    values = effects.values[:, head[0], head[1]].double().numpy()
    low, high = min(0.0, values.min()), max(0.0, values.max())
    pad = 0.04 * (high - low) or 1.0
    with figure.batch_update():
        figure.data[0].update(
            x=values,
            text=[plain(text, 60) for text in texts[: effects.n]],
            selectedpoints=None if at is None else [at],
        )
        figure.layout.xaxis.range = [low - pad, high + pad]
        figure.layout.title.text = f"effect of {name_of(head)} on each prompt"
        # the probability is its own unit
        figure.layout.xaxis.title.text = ", ".join(dict.fromkeys((effects.metric, UNITS[effects.metric])))
    _keep(figure)


def _keep(figure: go.FigureWidget) -> None:
    """Have a page that is opened later show the figure as it is; plotly sees to that only where it displays it."""
    figure._repr_mimebundle_()


def facts_of(effects: HeadEffects, head: Head) -> str:
    """The head's mean effect with its standard error, and its rank, as a line of HTML."""
    mean, error = effects.aie[head].item(), effects.stderr[head].item()
    rank, count = heads_by_effect(effects.aie).index(head) + 1, effects.aie.numel()
    spread = f" ± {error:.2g}" if effects.n > 1 else ""
    unit = UNITS[effects.metric]
    return note(f"mean effect {mean:.3g}{spread} {unit}, rank {rank} of {count}, n = {effects.n}")


def framed(view: Html, height: int) -> str:
    """A view in a frame of its own, where its scripts run and reach nothing else."""
    document = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<style>body {{ margin: 8px; background: {PAPER}; color: {INK}; font: 13px {FONT}; }}</style>{view.html}"
    )
    source = html.escape(document)
    return f'<iframe sandbox="allow-scripts" style="height: {height}px" title="attention" srcdoc="{source}"></iframe>'


def tokens_table(tokens: pd.DataFrame) -> str:
    """The likeliest next tokens side by side, a pair of columns a condition; spaces and line breaks are seen."""
    columns: dict[str, Any] = {}
    for condition, rows in tokens.groupby("condition", sort=False):
        columns[str(condition)] = [repr(token) for token in rows["token"]]
        columns[f"P({condition})"] = rows["probability"].to_numpy()
    return frame_table(pd.DataFrame(columns), "likeliest next tokens")


class Callbacks:
    """Runs what clicks and changes ask for, but not what the widget itself fills in; errors go to the status line.

    A kernel may hear of clicks in threads of their own, beside a running cell. The model's hooks and the effects bear
    one thread only: all is run in the one that made this, by its event loop where a click comes from another.
    """

    def __init__(self) -> None:
        self.status = ipw.HTML()
        self.filling = False
        self.thread = threading.get_ident()
        try:
            self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self.loop = None

    def on(self, control: ipw.Widget, action: Callable[[], None]) -> None:
        """Run ``action`` when the button is clicked, or the control's value changes."""
        if isinstance(control, ipw.Button):
            control.on_click(lambda _: self.run(action))
        else:
            control.observe(lambda _: self.run(action), "value")

    def run(self, action: Callable[[], None]) -> None:
        """Run ``action``, the status line cleared: now, or as soon as the thread that made this is free."""
        if self.loop is not None and threading.get_ident() != self.thread:
            self.loop.call_soon_threadsafe(self.run, action)
        elif not self.filling:
            self.status.value = ""
            with self.told():
                action()

    @contextmanager
    def fill(self) -> Iterator[None]:
        """Within this context, changes of controls run nothing."""
        before, self.filling = self.filling, True
        try:
            yield
        finally:
            self.filling = before

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within this context, an error of ivlens ends in the status line; any other one is told there and raised."""
        try:
            yield
        except IvlensError as error:
            self.status.value = note(str(error), "wrong")
        except Exception as error:
            self.status.value = note(f"{type(error).__name__}: {error}", "wrong")
            raise


def stack(*children: ipw.Widget, **layout: str) -> ipw.VBox:
    """Widgets one under another."""
    return ipw.VBox(children, layout=layout)


def row(*children: ipw.Widget, **layout: str) -> ipw.HBox:
    """Widgets side by side, in further rows where they do not fit."""
    return ipw.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"} | layout)
