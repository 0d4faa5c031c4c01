"""The explorer's panel of the chosen heads: what their vector does to accuracy and to the next token."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw

from ...records import Head
from ...vocabulary import all_heads
from ..style import head_name
from ..tables import frame_table
from .callbacks import Callbacks, columns, row, stack
from .history import History, Setting
from .html import announcement, note
from .results import Results
from .trial import TrialPanel

TAGS = "click heads twice on the map, or type 12.3"
SCALES = 10.0  # the scale's slider reaches so far from zero, or further where a larger scale is set

SWAPPED = "The vector is another one: the same heads, now with their mean outputs on {task} instead of {before}."


class VectorPanel(ipw.VBox):
    """The chosen heads, and the accuracy under their vector; its ``trial`` has the next token after a prompt.

    Heads, layer and scale are a ``setting``, whose changes can be undone.
    """

    def __init__(self, explorer: Any, layer: int, scale: float, k: int) -> None:
        self.explorer, self.callbacks, self.task = explorer, Callbacks(), ""
        layers, heads = explorer.shape
        names = [head_name(head) for head in all_heads(layers, heads)]
        when_left = {"continuous_update": False, "style": {"description_width": "42px"}}
        self.chosen = ipw.TagsInput(allowed_tags=names, allow_duplicates=False, placeholder=TAGS)
        self.count = ipw.BoundedIntText(k, min=1, max=layers * heads, layout={"width": "48px"})
        self.top, self.none = ipw.Button(description="strongest"), ipw.Button(description="none")
        self.layer = ipw.IntSlider(layer, 0, layers - 1, description="Layer", **when_left)
        reach = max(SCALES, abs(scale))
        self.scale = ipw.FloatSlider(scale, min=-reach, max=reach, step=0.5, description="Scale", **when_left)
        self.undo, self.redo = (ipw.Button(description=name, disabled=True) for name in ("Undo", "Redo"))
        self.export = ipw.Button(description="Export", tooltip="Save vector, heads, layer, scale and map in a folder")
        self.accuracy, self.news = ipw.HTML(), ipw.HTML()
        self.results = Results(self.accuracy)
        self.trial = TrialPanel(explorer, self.callbacks, self._likeliest)
        self.example, self.bare, self.clean = self.trial.example, self.trial.bare, self.trial.clean
        self.tokens = self.trial.tokens
        self.history = History(self.setting)
        super().__init__(self._parts())
        for control in (self.chosen, self.layer, self.scale):
            self.callbacks.on(control, self._changed)
        self.callbacks.on(self.undo, lambda: self.go_back(-1))
        self.callbacks.on(self.redo, lambda: self.go_back(1))

    @property
    def heads(self) -> tuple[Head, ...]:
        """The chosen heads, in the order in which they were chosen."""
        return tuple(Head(*map(int, name.split("."))) for name in self.chosen.value)

    @heads.setter
    def heads(self, heads: Sequence[Head]) -> None:
        self.setting = self.setting._replace(heads=tuple(heads))

    @property
    def setting(self) -> Setting:
        """The chosen heads, the layer and the scale."""
        return Setting(self.heads, self.layer.value, self.scale.value)

    @setting.setter
    def setting(self, setting: Setting) -> None:
        if setting != self.setting:
            self._fill(setting)
            self._changed()

    @property
    def vector(self) -> Any:
        """The chosen heads' instruction vector on the task; None without heads."""
        return self.explorer.vector(self.task, self.heads) if self.heads else None

    def go_back(self, steps: int) -> None:
        """Try an earlier (-1) or later (1) setting again."""
        self._fill(self.history.move(steps))
        self._after_change()
        self.show()

    def restore(self, setting: Setting) -> None:
        """Make a setting the current one, without showing what it does."""
        self._fill(setting)
        self._record()

    def show_task(self, task: str) -> None:
        """Show another task: its examples, and the heads' vector on it."""
        before, self.task = self.task, task
        swapped = self.heads and before not in ("", task)
        self.news.value = announcement(SWAPPED.format(task=task, before=before)) if swapped else ""
        self.trial.show_task(task)
        self.show()

    def show(self) -> None:
        """Show what the chosen heads' vector does at the layer and the scale."""
        self.results.mark()
        try:
            self.trial.show_tokens()
        finally:
            with self.results.recomputing():
                self.accuracy.value = self._accuracy()

    def _accuracy(self) -> str:
        if not self.heads:
            return note("Choose heads to try their vector.")
        layer, scale = self.layer.value, self.scale.value
        accuracy = self.explorer.accuracy(self.task, self.vector, layer, scale)
        tried = f"{accuracy['n'].iloc[0]} examples, 95% intervals; layer {layer}, scale {scale:g}"
        return frame_table(accuracy.drop(columns="n"), tried)

    def _likeliest(self, bare: Any, clean: Any) -> Any:
        return self.explorer.tokens(bare, clean, self.vector, self.layer.value, self.scale.value)

    def _changed(self) -> None:
        self._record()
        self.show()

    def _record(self) -> None:
        self.history.record(self.setting)
        self._after_change()

    def _after_change(self) -> None:
        self.news.value = ""
        self.undo.disabled, self.redo.disabled = not self.history.can_undo, not self.history.can_redo

    def _fill(self, setting: Setting) -> None:
        with self.callbacks.fill():
            reach = max(self.scale.max, abs(setting.scale))
            self.scale.min, self.scale.max = -reach, reach
            self.chosen.value = [head_name(head) for head in setting.heads]
            self.layer.value, self.scale.value = setting.layer, setting.scale

    def _parts(self) -> list[ipw.Widget]:
        choose = row(self.count, self.top, self.none)
        controls = stack(self.chosen, choose, self.layer, self.scale)
        controls.add_class("ivlens-chosen")
        answers = stack(self.results.sign, self.accuracy)
        both = columns(controls, answers)
        both.add_class("ivlens-set")
        return [row(ipw.HTML("<h3>The set and its vector</h3>"), self.undo, self.redo, self.export), self.news, both]
