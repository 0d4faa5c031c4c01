"""A map as an SVG picture, which a saved notebook shows without a kernel, plotly or scripts."""

import base64
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.colors import hex_to_rgb

from ..markup import render
from ..style import INK, PAPER

LEVELS = 64  # distinct colours of the squares, which make one path each
TOP, BAR_ROOM, RADIUS = 10, 60, 4  # pixels: above the map, right of it for a colour bar, of a circle
Label = tuple[float, float, object, str, int]  # x, y, text, anchor, angle


def map_picture(figure: go.Figure | go.FigureWidget) -> str:
    """The figure's heatmap as an ``<img>``: its squares with texts, outlines, frames, axes and colour bar."""
    svg = _Drawing(figure).svg()
    return f'<img alt="map" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'


class _Drawing:
    """A figure's first heatmap in pixels."""

    def __init__(self, figure: go.Figure | go.FigureWidget) -> None:
        self.figure, self.map = figure, figure.data[0]
        layout = figure.layout
        self.left, self.top = layout.margin.l, TOP
        self.across, self.up = layout.xaxis.range, layout.yaxis.range
        self.right = layout.width - layout.margin.r
        self.bottom = TOP + layout.height - layout.margin.t - layout.margin.b

    def svg(self) -> str:
        """The whole drawing."""
        bar = self.map.showscale is not False
        labels = [*self._axis("xaxis"), *self._axis("yaxis"), *(self._bar_labels() if bar else [])]
        return render(
            "map.svg", width=self.right + (BAR_ROOM if bar else 12), height=self.bottom + self.figure.layout.margin.b,
            ink=INK, paper=PAPER, squares=self._squares(), lines=[*self._lines()], texts=[*self._texts()],
            labels=labels, bar=self._scale() if bar else [], right=self.right, top=self.top, bottom=self.bottom,
        )  # fmt: skip

    def _x(self, x: float) -> float:
        first, last = self.across
        return round(self.left + (x - first) / (last - first) * (self.right - self.left), 1)

    def _y(self, y: float) -> float:
        first, last = self.up
        return round(self.bottom - (y - first) / (last - first) * (self.bottom - self.top), 1)

    def _scale(self) -> list[tuple[float, str]]:
        """The colour scale from the least value to the largest."""
        scale = list(self.map.colorscale)
        return [(1 - at, colour) for at, colour in reversed(scale)] if self.map.reversescale else scale

    def _squares(self) -> list[tuple[str, str]]:
        """The squares, as one path for each colour."""
        values = np.array(self.map.z, float)
        low, high = self.map.zmin, self.map.zmax
        levels = np.clip(np.round((values - low) / (high - low) * LEVELS), 0, LEVELS)
        width, height = abs(self._x(1) - self._x(0)) - 1, abs(self._y(1) - self._y(0)) - 1
        paths = defaultdict[float, list[str]](list)
        for row, column in np.argwhere(np.isfinite(levels)).tolist():
            corner = f"M{self._x(column) - width / 2:.1f} {self._y(row) - height / 2:.1f}"
            paths[levels[row, column]].append(f"{corner}h{width:.1f}v{height:.1f}h-{width:.1f}z")
        return [(self._colour(level / LEVELS), "".join(parts)) for level, parts in paths.items()]

    def _colour(self, at: float) -> str:
        positions, colours = zip(*self._scale(), strict=True)
        channels = zip(*map(hex_to_rgb, colours), strict=True)
        return "#" + "".join(f"{round(np.interp(at, positions, channel)):02x}" for channel in channels)

    def _lines(self) -> Iterator[tuple[str, str]]:
        """The outlines of squares, circles in them, and the frames around chosen ones."""
        for trace in self.figure.data[1:]:
            if trace.mode == "lines" and trace.x is not None:
                yield trace.line.color or INK, self._path(trace.x, trace.y)
            elif trace.mode == "markers":
                yield INK, "".join(self._circle(x, y) for x, y in zip(trace.x, trace.y, strict=True))
        for shape in self.figure.layout.shapes:
            left, right, low, high = shape.x0, shape.x1, shape.y0, shape.y1
            yield shape.line.color, self._path((left, right, right, left, left), (low, low, high, high, low))

    def _path(self, xs: Any, ys: Any) -> str:
        """A line through the points, broken where one is missing."""
        path, pen = "", "M"
        for x, y in zip(xs, ys, strict=True):
            missing = x is None or x != x
            path += "" if missing else f"{pen}{self._x(x)} {self._y(y)}"
            pen = "M" if missing else "L"
        return path

    def _circle(self, x: float, y: float) -> str:
        half = f"a{RADIUS} {RADIUS} 0 1 0"
        return f"M{self._x(x) - RADIUS} {self._y(y)}{half} {2 * RADIUS} 0{half} -{2 * RADIUS} 0"

    def _texts(self) -> Iterator[tuple[float, float, str, str]]:
        """The texts in squares: the heatmap's own, and those of traces of text."""
        if self.map.texttemplate and self.map.text is not None:
            for (row, column), text in np.ndenumerate(np.array(self.map.text, object)):
                value = float(np.array(self.map.z, float)[row, column])
                yield self._x(column), self._y(row), text, self._readable(value)
        for trace in self.figure.data[1:]:
            if trace.mode == "text" and trace.text is not None:
                for x, y, text in zip(trace.x, trace.y, trace.text, strict=True):
                    value = float(np.array(self.map.z, float)[int(y), int(x)])
                    yield self._x(x), self._y(y), text, self._readable(value)

    def _readable(self, value: float) -> str:
        """Ink, or paper on the dark square of this value."""
        if value != value:
            return INK
        red, green, blue = hex_to_rgb(self._colour((value - self.map.zmin) / (self.map.zmax - self.map.zmin)))
        return PAPER if 0.3 * red + 0.59 * green + 0.11 * blue < 110 else INK

    def _axis(self, name: str) -> Iterator[Label]:
        """An axis' ticks and title."""
        axis, across = self.figure.layout[name], name == "xaxis"
        angle = int(axis.tickangle or 0)
        for value, text in _ticks(axis):
            if across:
                yield self._x(value), self.bottom + 10, text, "end" if angle else "middle", angle
            else:
                yield self.left - 6, self._y(value), text, "end", 0
        title = axis.title.text or ""
        middle = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        if across:
            yield middle[0], self.bottom + 32, Markup(title), "middle", 0
        else:
            yield 12, middle[1], Markup(title), "middle", -90

    def _bar_labels(self) -> Iterator[Label]:
        """The least and the largest value, beside the colour bar."""
        for value, y in ((self.map.zmax, self.top + 6), (self.map.zmin, self.bottom - 6)):
            yield self.right + 28, y, f"{value:.2g}", "start", 0


def _ticks(axis: Any) -> list[tuple[float, object]]:
    """An axis' ticks with their labels: texts, which are HTML, or numbers."""
    if axis.tickvals is not None:
        return [(value, Markup(text)) for value, text in zip(axis.tickvals, axis.ticktext, strict=True)]
    last = math.ceil(max(axis.range))
    return [(value, str(value)) for value in range(0, last, int(axis.dtick or 1))]
