"""The widget of ``explore`` on a comparison: a map of tasks by checkpoints to click, and what is known of a pair."""

from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go

from ...checks import checked
from ...errors import few, one_of
from ...records import MATRICES, CheckpointComparison
from ...records.tables import is_measured, pair_of
from ..checkpoints.answer import FALLEN
from ..checkpoints.maps import checkpoint_heatmap, head_change_maps
from ..checkpoints.summary import verdict_map
from ..checkpoints.words import verdict_of
from .callbacks import Callbacks, row, stack
from .figures import SHOWN
from .html import note, style
from .pair import answers_html, pair_html
from .picture import pair_picture
from .snapshot import Snapshot

MEASURES = {
    "verdict": "verdict", "accuracy": "accuracy", "drop in accuracy": "forgetting", "recovery": "recovered_fraction",
    "cosine of vectors": "cosine", "norm of vectors": "norm_ratio",
}  # fmt: skip
HINT = "Click a square: what became of that task at that checkpoint stands beside the map or under it."
GAP = {"align_items": "flex-start", "grid_gap": "8px 28px"}


class CheckpointExplorer(ipw.VBox):
    """Shows a comparison as a map of tasks by checkpoints, and what it holds of a clicked pair; made by ``explore``.

    ``shown`` is the pair (task, checkpoint) that was clicked last. The controls are ipywidgets: ``measure``, what the
    map shows, and ``what``, what the map of heads shows.

    Args:
        comparison: the record of ``compare_checkpoints``; no model is needed.

    Example:
        >>> widget = iv.explore(comparison)
        >>> widget.look(comparison.tasks[0], comparison.checkpoints[-1])
        >>> widget.shown == (comparison.tasks[0], comparison.checkpoints[-1])
        True
    """

    def __init__(self, comparison: CheckpointComparison) -> None:
        self.comparison, self.callbacks = comparison, Callbacks()
        self.shown = _first_pair(comparison)
        known = {name: column for name, column in MEASURES.items()
                 if column == "verdict" or is_measured(comparison, column)}  # fmt: skip
        self.measure = ipw.Dropdown(options=known, description="Map")
        matrices = [each for each in MATRICES if each not in comparison.joint_matrices]
        kinds = {"change of effect": "aie-change", **{f"change of {each}": each for each in matrices}}
        self.what = ipw.Dropdown(options=kinds, description="Heads")
        self.map = go.FigureWidget(self._map()).update_layout(dragmode=False)
        self.head_map = go.FigureWidget(self._head_map())
        failed = f" Not measured: {few(comparison.failures)}." if comparison.failures else ""
        self.head_map.add_traces([go.Scatter(name="gained")] * (3 - len(self.head_map.data)))
        self.facts, self.answers = ipw.HTML(), ipw.HTML()
        self.facts.add_class("ivlens-pair")
        super().__init__([
            ipw.HTML(style()), row(self.measure), ipw.HTML(note(HINT + failed)), self.callbacks.status,
            row(row(self.map), self.facts, **GAP), row(stack(self.what, self.head_map), self.answers, **GAP),
        ])  # fmt: skip
        self.add_class("ivlens")
        self.snapshot = Snapshot(self, lambda: pair_picture(self), [self.measure, self.what, self.facts])
        self.callbacks.on(self.measure, self._show_map)
        self.callbacks.on(self.what, self._show_heads)
        self.map.data[0].on_click(lambda _, points, __: self.callbacks.run(lambda: self._clicked(points)))
        self.callbacks.run(self._show_pair)

    @checked
    def look(self, task: str, checkpoint: str) -> None:
        """Show a pair, as a click on its square does.

        Args:
            task: one of the comparison's.
            checkpoint: one of the comparison's.

        Raises:
            ArgumentError: another task or checkpoint.
        """
        one_of("task", task, self.comparison.tasks)
        one_of("checkpoint", checkpoint, self.comparison.checkpoints)
        self.shown = task, checkpoint
        self.callbacks.run(self._show_pair)

    def _ipython_display_(self) -> None:
        self.snapshot.display()

    def _clicked(self, points: Any) -> None:
        self.look(self.comparison.tasks[int(points.ys[0])], self.comparison.checkpoints[int(points.xs[0])])

    def _map(self) -> go.Figure:
        """The map of the measure, with the square of the current pair framed."""
        measure = self.measure.value
        figure = checkpoint_heatmap(self.comparison, measure="accuracy" if measure == "verdict" else measure)
        if measure == "verdict":
            verdicts, _ = verdict_map(self.comparison, with_base=True)
            figure.data[0].update(verdicts.to_plotly_json() | {"texttemplate": "%{text}", "textfont": {"size": 9}})
            figure.update_layout(title_text="Verdicts: what became of each task")
        task, checkpoint = self.shown
        y, x = self.comparison.tasks.index(task), self.comparison.checkpoints.index(checkpoint)
        corners = {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.48, "y1": y + 0.48}
        return figure.update_layout(shapes=[{"type": "rect", **corners, "line": {"color": SHOWN, "width": 3}}])

    def _head_map(self) -> go.Figure:
        """The map of heads of the current pair: changes, or the effects in the base."""
        task, checkpoint = self.shown
        what = "aie" if checkpoint == self.comparison.checkpoints[0] else self.what.value
        return head_change_maps(pair_of(self.comparison, task, checkpoint), task, what=what)

    def _show_map(self) -> None:
        _redraw(self.map, self._map())

    def _show_heads(self) -> None:
        _redraw(self.head_map, self._head_map())

    def _show_pair(self) -> None:
        self._show_map()
        self._show_heads()
        pair = pair_of(self.comparison, *self.shown)
        self.answers.value = answers_html(pair)
        self.facts.value = pair_html(pair)


def _first_pair(comparison: CheckpointComparison) -> tuple[str, str]:
    """The last pair that fell; without one, the first task at the last checkpoint."""
    fallen = [(row["task"], row["checkpoint"]) for row in comparison.rows if verdict_of(row["verdict"]) in FALLEN]
    return fallen[-1] if fallen else (comparison.tasks[0], comparison.checkpoints[-1])


def _redraw(figure: go.FigureWidget, fresh: go.Figure) -> None:
    """Show ``fresh`` in the figure widget, in place: a new one would bring the whole of plotly along."""
    traces = [trace.to_plotly_json() for trace in fresh.data]
    with figure.batch_update():
        for number, trace in enumerate(figure.data):
            usual = {"reversescale": False, "showscale": True} if trace.type == "heatmap" else {}
            trace.update(usual | (traces[number] if number < len(traces) else {"x": [], "y": []}))
        figure.update_layout(fresh.layout)
    figure._repr_mimebundle_()  # keeps the figure's state for a page that is opened later
