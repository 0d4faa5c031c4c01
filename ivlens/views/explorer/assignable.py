"""What of the explorer's widget can be assigned from Python: heads, layer, scale, and these with task and prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as ipw

from ...checks import Natural, checked
from ...errors import ArgumentError, one_of
from ...records import Head
from ...vocabulary import Metric, check_heads, check_layer
from .callbacks import Callbacks
from .history import Setting
from .html import label
from .vector_panel import VectorPanel

EVERY = "all prompts (mean)"


class Assignable(ipw.VBox):
    """The part of the widget that is read and assigned; what it shows is its subclass's."""

    explorer: Any
    callbacks: Callbacks
    vector_panel: VectorPanel
    to_choose: int
    task: ipw.Dropdown
    metric: ipw.Dropdown
    prompt: ipw.Dropdown

    @property
    def heads(self) -> tuple[Head, ...]:
        """The chosen heads, in the order in which they were chosen."""
        return self.vector_panel.heads

    @heads.setter
    def heads(self, heads: Sequence[tuple[int, int]]) -> None:
        self._set(heads=heads)
        self.to_choose = 0  # also where none are chosen

    @property
    def layer(self) -> int:
        """The layer to whose input the vector is added."""
        return int(self.vector_panel.layer.value)

    @layer.setter
    def layer(self, layer: int) -> None:
        self._set(layer=layer)

    @property
    def scale(self) -> float:
        """The factor of the vector."""
        return float(self.vector_panel.scale.value)

    @scale.setter
    def scale(self, scale: float) -> None:
        self._set(scale=scale)

    @property
    def state(self) -> dict[str, Any]:
        """Task, metric, prompt, heads, layer and scale."""
        heads, layer, scale = self.vector_panel.setting
        prompt = self.prompt.index - 1 if self.prompt.index else None
        return {
            "task": self.task.value, "metric": self.metric.value, "prompt": prompt,
            "heads": [list(head) for head in heads], "layer": layer, "scale": scale,
        }  # fmt: skip

    @state.setter
    @checked
    def state(self, state: Mapping[str, Any]) -> None:
        before = self.state
        if unknown := [name for name in state if name not in before]:
            raise ArgumentError(f"a state of {', '.join(before)}", f"also {', '.join(map(repr, unknown))}")
        to_choose = 0 if "heads" in state else self.to_choose
        self._restore(to_choose, **(before | dict(state)))

    def undo(self) -> None:
        """Go back to the heads, layer and scale before the last change."""
        self.vector_panel.callbacks.run(lambda: self.vector_panel.go_back(-1))

    def redo(self) -> None:
        """Make the change again that was undone last."""
        self.vector_panel.callbacks.run(lambda: self.vector_panel.go_back(1))

    def _show_all(self) -> None:
        raise NotImplementedError

    def _set(self, **changes: Any) -> None:
        """Change heads, layer or scale."""
        self._apply(**(self.vector_panel.setting._asdict() | changes))

    @checked
    def _apply(self, heads: Sequence[tuple[int, int]], layer: int, scale: float) -> None:
        setting = self._checked(heads, layer, scale)
        self.vector_panel.callbacks.run(lambda: setattr(self.vector_panel, "setting", setting))

    @checked
    def _restore(
        self, to_choose: Natural, task: str, metric: Metric, prompt: Natural | None, heads: Sequence[tuple[int, int]],
        layer: int, scale: float,
    ) -> None:  # fmt: skip
        one_of("task", task, tuple(self.explorer.prompts))
        count = len(self.explorer.prompts[task].corrupted)
        if prompt is not None and prompt >= count:
            raise ArgumentError(f"prompt to be below {count}, or None", repr(prompt))
        setting = self._checked(heads, layer, scale)
        with self.callbacks.fill():
            self.task.value, self.metric.value = task, metric
        self._fill_prompts(prompt)
        self.to_choose = to_choose
        self.vector_panel.restore(setting)
        self.callbacks.run(self._show_all)

    def _checked(self, heads: Sequence[tuple[int, int]], layer: int, scale: float) -> Setting:
        if heads:
            check_heads(self.explorer.shape, heads)
        check_layer(self.explorer.shape[0], layer)
        return Setting(tuple(dict.fromkeys(Head(*head) for head in heads)), layer, scale)

    def _fill_prompts(self, prompt: int | None) -> None:
        prompts = self.explorer.prompts[self.task.value].corrupted
        with self.callbacks.fill():
            self.prompt.options = [EVERY, *(f"{number}: {label(each)}" for number, each in enumerate(prompts, 1))]
            self.prompt.index = 0 if prompt is None else prompt + 1
