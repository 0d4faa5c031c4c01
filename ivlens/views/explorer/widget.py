"""The widget of ``explore``: a head map to click, what the clicked head does, and the chosen heads' vector at work."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from ...checks import checked
from ...errors import ArgumentError
from ...records import METRICS, Head, HeadEffects
from ...vocabulary import all_heads, check_heads
from ..layout import Size
from .assignable import EVERY, Assignable
from .callbacks import Callbacks, columns, row, stack
from .exporting import new_folder, save_findings
from .figures import draw_map, empty_map, mark_map, of_prompt
from .head_panel import HeadPanel
from .html import announcement, label, note, size_class, style
from .picture import head_picture, watched_by_picture
from .snapshot import Snapshot
from .vector_panel import VectorPanel

HINT = (
    "1. Click a head to look at it (orange). 2. Click it again to put it into the set or take it out (green). "
    "3. Try its vector: move layer and scale, edit the prompts."
)
WAITING = "The map comes with the first effects."
TO_CHOOSE = " The strongest heads are chosen as a set to begin with when all effects are computed."
PAUSE = 0.02  # seconds between two groups of prompts, in which the kernel handles clicks
NAMES = {"description_width": "initial"}


class ExplorerWidget(Assignable):
    """Shows what its explorer computes, and has it compute what a click asks for; made by ``explore``.

    ``heads`` are the chosen heads; ``layer`` and ``scale`` say where and how strongly their vector is added; all three
    may be assigned. ``state`` is a dict of these with ``task``, ``metric`` and ``prompt`` (its index; None: all),
    which JSON can hold and which may be assigned, whole or in part. ``vector`` is the instruction vector of the heads
    on the current task, ``effects`` are the effects so far, ``shown_head`` is the head that was clicked last. The
    controls are ipywidgets: ``task``, ``metric``, ``prompt``, and in ``vector_panel`` ``layer``, ``scale``,
    ``example``, ``bare``, ``clean``.

    Args:
        explorer: computes effects, tokens and accuracies (``ivlens.explorer.Explorer``).
        layer: where the slider of the steered layer begins.
        scale: where the slider of the vector's factor begins.
        k: how many of the strongest heads are chosen as soon as all effects are computed; 0: none.

    Example:
        >>> widget = iv.explore(model, task, n_clean=2, n_test=2)
        >>> widget.heads = [(0, 1)]
        >>> widget.vector.heads
        ((0, 1),)
    """

    def __init__(self, explorer: Any, *, layer: int, scale: float, k: int = 20) -> None:
        self.explorer = explorer
        self.shown_head: Head | None = None
        self.job: asyncio.Task[None] | None = None
        self.to_choose = min(k, len(all_heads(*explorer.shape)))
        self.callbacks = Callbacks()
        self.task = ipw.Dropdown(options=list(explorer.prompts), description="Task", style=NAMES)
        known = [metric for _, metric in explorer.effects]
        self.metric = ipw.Dropdown(options=METRICS, value=[*known, METRICS[1]][0], description="Metric", style=NAMES)
        self.prompt = ipw.Dropdown(options=[EVERY], description="Prompt", style=NAMES)
        self.progress = ipw.IntProgress(layout={"width": "160px"})
        self.button = ipw.Button()
        self.working = row(self.progress, self.button, visibility="hidden", display="none")
        self.map = empty_map(explorer.shape, self.metric.value)
        self.hint, self.map_box = ipw.HTML(), row(self.map)
        self.head_panel, self.vector_panel = HeadPanel(), VectorPanel(explorer, layer, scale, k or 20)
        super().__init__(self._parts())
        self.add_class("ivlens")
        self.snapshot = Snapshot(self, lambda: head_picture(self), watched_by_picture(self))
        self._connect()
        self.callbacks.run(self._show_task)

    def _parts(self) -> list[ipw.Widget]:
        """The controls over the map with the two panels beside it; the trial and the head's attention under these."""
        controls = row(self.task, self.metric, self.prompt, self.working)
        panels = stack(self.head_panel, self.vector_panel)
        first = columns(self.map_box, panels)
        further = columns(self.vector_panel.trial, self.head_panel.attention)
        boxes = {
            "asked": controls, "columns": first, "map": self.map_box, "panels": panels,
            "head": self.head_panel, "vector": self.vector_panel, "further": further,
        }  # fmt: skip
        for name, box in boxes.items():
            box.add_class(f"ivlens-{name}")
        size = Size(self.map.layout.width, self.map.layout.height)
        self.map_box.add_class(size_class(size))
        return [ipw.HTML(style(size)), self.hint, controls, self.callbacks.status, first, further]

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
        check_heads(self.explorer.shape, [head])
        self.shown_head = head
        self._mark()
        self.callbacks.run(self._show_head)

    @checked
    def export(self, folder: str | Path | None = None) -> Path:
        """Save what was found: ``vector.safetensors``, ``state.json``, and the map as .png, or .html without a browser.

        Args:
            folder: where to write; None: a new folder in the current one.

        Returns:
            The folder.

        Raises:
            RecordError: a file cannot be written, or vector.safetensors is another model's, or stays from heads that
                are chosen no longer; then nothing is written.

        Example:
            >>> widget = iv.explore(model, task, n_clean=2, n_test=2)
            >>> folder = widget.export(tmp_path / "found")
            >>> iv.InstructionVector.load(folder / "vector.safetensors").heads == widget.heads
            True
        """
        target = new_folder(self.task.value) if folder is None else Path(folder)
        figure = self.map if self._current()[0] is not None else None
        files = save_findings(target, self.state, self.vector, figure)
        names = ", ".join(path.name for path in files)
        self.vector_panel.news.value = announcement(f"Saved in {target}: {names}.")
        return target

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
        visible = done < of
        self.working.layout.visibility = "visible" if visible else "hidden"
        self.working.layout.display = None if visible else "none"
        self._show_map()
        if done == of and self.to_choose:
            self.heads = self.explorer.effects[self.task.value, self.metric.value].top(self.to_choose)

    def _connect(self) -> None:
        on = self.callbacks.on
        on(self.task, self._show_task)
        on(self.metric, self.start)
        on(self.prompt, self._show_prompt)
        on(self.button, lambda: self.start() if self.job is None else self.stop())
        on(self.head_panel.toggle, self.toggle)
        on(self.vector_panel.top, lambda: self._choose_top(self.vector_panel.count.value))
        on(self.vector_panel.export, self._export)
        on(self.vector_panel.none, lambda: setattr(self, "heads", ()))
        on(self.vector_panel.chosen, self._heads_changed)
        self.map.data[0].on_click(lambda _, points, __: self.callbacks.run(lambda: self._clicked(points)))

    def _clicked(self, points: Any) -> None:
        head = Head(int(points.ys[0]), int(points.xs[0]))
        if head == self.shown_head:
            self.toggle()
        else:
            self.look(head)

    def _choose_top(self, k: int) -> None:
        effects, prompt = self._current()
        if effects is None:
            raise ArgumentError("effects to choose by", "none so far", "wait for the first ones")
        self.heads = of_prompt(effects, prompt).top(k)

    def _export(self) -> None:
        self.export()

    def _heads_changed(self) -> None:
        self.to_choose = 0
        self._mark()

    def _show_task(self) -> None:
        self._fill_prompts(None)
        self._show_all()

    def _show_all(self) -> None:
        self._show_map()
        self.head_panel.results.mark()
        with ExitStack() as further:  # also where the vector cannot be shown
            further.callback(self._show_inside)
            further.callback(self.start)
            self.vector_panel.show_task(self.task.value)

    def _show_prompt(self) -> None:
        self._show_map()
        self._show_inside()

    def _show_head(self) -> None:
        self._show_effects()
        self._show_inside()

    def _show_map(self) -> None:
        """Show the effects so far, on the map and for the current head; without any, show no map."""
        effects, prompt = self._current()
        waiting = WAITING + (TO_CHOOSE if self.to_choose else "")
        self.hint.value = note(waiting if effects is None else HINT)
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
