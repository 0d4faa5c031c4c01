"""The widget of ``explore``: a head map to click, what the clicked head does, and the chosen heads' vector at work."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import ipywidgets as ipw

from ...checks import checked
from ...errors import ArgumentError
from ...records import METRICS, Head, HeadEffects
from ...vocabulary import check_heads
from .callbacks import Callbacks, row
from .figures import draw_map, empty_map, mark_map, of_prompt
from .html import label, note, style
from .panels import GAP, HeadPanel, VectorPanel
from .picture import head_picture, watched_by_picture
from .snapshot import Snapshot

EVERY = "all prompts (mean)"
HINT = "Click a head to look at it (orange frame). Click it again to add it to the set (green), or to take it out."
WAITING = "The map comes with the first effects."
PAUSE = 0.02  # seconds between two groups of prompts, in which the kernel handles clicks


class ExplorerWidget(ipw.VBox):
    """Shows what its explorer computes, and has it compute what a click asks for; made by ``explore``.

    ``heads`` are the chosen heads and may be assigned; ``vector`` is their instruction vector on the current task,
    ``effects`` are the effects so far, ``shown_head`` is the head that was clicked last. The controls are ipywidgets:
    ``task``, ``metric``, ``prompt``, and in ``vector_panel`` ``layer``, ``scale``, ``example``, ``bare``, ``clean``.

    Args:
        explorer: computes effects, tokens and accuracies (``ivlens.explorer.Explorer``).
        layer: where the slider of the steered layer begins.
        scale: where the slider of the vector's factor begins.

    Example:
        >>> widget = iv.explore(model, task, n_clean=2, n_test=2)
        >>> widget.heads = [(0, 1)]
        >>> widget.vector.heads
        ((0, 1),)
    """

    def __init__(self, explorer: Any, *, layer: int, scale: float) -> None:
        self.explorer = explorer
        self.shown_head: Head | None = None
        self.job: asyncio.Task[None] | None = None
        self.callbacks = Callbacks()
        self.task = ipw.Dropdown(options=list(explorer.prompts), description="Task")
        known = [metric for _, metric in explorer.effects]
        self.metric = ipw.Dropdown(options=METRICS, value=[*known, METRICS[1]][0], description="Metric")
        self.prompt = ipw.Dropdown(options=[EVERY], description="Prompt")
        self.progress = ipw.IntProgress(layout={"width": "220px"})
        self.button = ipw.Button(layout={"width": "80px"})
        self.working = row(self.progress, self.button, visibility="hidden")
        self.map = empty_map(explorer.shape, self.metric.value)
        self.hint, self.map_box = ipw.HTML(), row(self.map)
        self.head_panel, self.vector_panel = HeadPanel(), VectorPanel(explorer, layer, scale)
        super().__init__([
            ipw.HTML(style()), row(self.task, self.metric, self.prompt, self.working), self.hint,
            self.callbacks.status, row(self.map_box, self.head_panel, **GAP), self.vector_panel,
        ])  # fmt: skip
        self.add_class("ivlens")
        self.snapshot = Snapshot(self, lambda: head_picture(self), watched_by_picture(self))
        self._connect()
        self.callbacks.run(self._show_task)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The chosen heads, in the order in which they were chosen."""
        return self.vector_panel.heads

    @heads.setter
    def heads(self, heads: Sequence[tuple[int, int]]) -> None:
        self.vector_panel.heads = [self._checked(head) for head in heads]

    @property
    def vector(self) -> Any:
        """The chosen heads' instruction vector on the current task; None without heads."""
        return self.vector_panel.vector

    @property
    def effects(self) -> HeadEffects | None:
        """The effects so far on the current task in the current metric."""
        return self.explorer.effects.get((self.task.value, self.metric.value))

    @checked
    def look(self, head: Head) -> None:
        """Show a head, as a click on it does.

        Args:
            head: (layer, head).

        Raises:
            ArgumentError: the model has no such head.
        """
        self.shown_head = self._checked(head)
        self._mark()
        self.callbacks.run(self._show_head)

    def toggle(self) -> None:
        """Add the current head to the chosen ones, or remove it."""
        if self.shown_head is not None:
            others = [head for head in self.heads if head != self.shown_head]
            self.heads = others if self.shown_head in self.heads else [*others, self.shown_head]

    def start(self) -> None:
        """Compute the missing effects: in the background where an event loop runs, otherwise at once."""
        self.stop()
        steps = self.explorer.compute(self.task.value, self.metric.value)
        self._advance(*next(steps))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for step in steps:
                self._advance(*step)
        else:
            self.job = loop.create_task(self._in_background(steps))

    def stop(self) -> None:
        """Stop computing effects; those computed so far stay, and ``start`` continues from them."""
        if self.job is not None:
            self.job.cancel()
        self._halt()

    def close(self) -> None:
        """Stop, and take the widget away."""
        self.stop()
        super().close()

    def _ipython_display_(self) -> None:
        self.snapshot.display()

    async def _in_background(self, steps: Iterator[tuple[int, int]]) -> None:
        try:
            with self.callbacks.errors_shown():
                for step in steps:
                    self._advance(*step)
                    await asyncio.sleep(PAUSE)
        finally:
            if self.job is asyncio.current_task():
                self._halt()

    def _halt(self) -> None:
        self.job, self.button.description = None, "Go on"

    def _advance(self, done: int, of: int) -> None:
        self.progress.max, self.progress.value, self.progress.description = of, done, f"{done}/{of}"
        self.button.description = "Stop"
        self.working.layout.visibility = "visible" if done < of else "hidden"
        self._show_map()

    def _connect(self) -> None:
        on = self.callbacks.on
        on(self.task, self._show_task)
        on(self.metric, self.start)
        on(self.prompt, self._show_prompt)
        on(self.button, lambda: self.start() if self.job is None else self.stop())
        on(self.head_panel.toggle, self.toggle)
        on(self.vector_panel.top, self._choose_top)
        on(self.vector_panel.none, lambda: setattr(self, "heads", ()))
        on(self.vector_panel.chosen, self._mark)
        self.map.data[0].on_click(lambda _, points, __: self.callbacks.run(lambda: self._clicked(points)))

    def _clicked(self, points: Any) -> None:
        head = Head(int(points.ys[0]), int(points.xs[0]))
        if head == self.shown_head:
            self.toggle()
        else:
            self.look(head)

    def _choose_top(self) -> None:
        effects, prompt = self._current()
        if effects is None:
            raise ArgumentError("effects to choose by", "none so far", "wait for the first ones")
        self.heads = of_prompt(effects, prompt).top(self.vector_panel.count.value)

    def _show_task(self) -> None:
        prompts = self.explorer.prompts[self.task.value].corrupted
        with self.callbacks.fill():
            self.prompt.options = [EVERY, *(f"{number}: {label(each)}" for number, each in enumerate(prompts, 1))]
            self.prompt.index = 0
        self.vector_panel.show_task(self.task.value)
        self.start()
        self._show_inside()

    def _show_prompt(self) -> None:
        self._show_map()
        self._show_inside()

    def _show_head(self) -> None:
        self._show_effects()
        self._show_inside()

    def _show_map(self) -> None:
        """Show the effects so far, on the map and for the current head; without any, show no map."""
        effects, prompt = self._current()
        self.hint.value = note(WAITING if effects is None else HINT)
        self.map_box.layout.visibility = "hidden" if effects is None else "visible"
        if effects is not None:
            title = self.task.value if prompt is None else f"{self.task.value}, prompt {self.prompt.value}"
            draw_map(self.map, of_prompt(effects, prompt), title)
        self._show_effects()

    def _show_effects(self) -> None:
        effects, prompt = self._current()
        if self.shown_head is None:
            return
        if effects is None:
            self.head_panel.show_missing(self.shown_head)
        else:
            texts = [label(each) for each in self.explorer.prompts[self.task.value].corrupted]
            self.head_panel.show_effects(self.explorer, effects, self.shown_head, texts, prompt)

    def _show_inside(self) -> None:
        if self.shown_head is not None:
            option = max(1, self.prompt.index)
            text = self.prompt.options[option]
            self.head_panel.show_inside(self.explorer, self.task.value, self.shown_head, text, option - 1)

    def _current(self) -> tuple[HeadEffects | None, int | None]:
        """The effects, if they cover the current prompt, and that prompt's index (None: all prompts)."""
        effects, prompt = self.effects, self.prompt.index - 1 if self.prompt.index else None
        missing = effects is None or (prompt is not None and prompt >= effects.n)
        return None if missing else effects, prompt

    def _mark(self) -> None:
        chosen = self.shown_head in self.heads
        self.head_panel.toggle.description = "Take out of the set" if chosen else "Add to the set"
        mark_map(self.map, self.shown_head, self.heads)

    def _checked(self, head: tuple[int, int]) -> Head:
        chosen = Head(*map(int, head))
        check_heads(self.explorer.shape, [chosen])
        return chosen
