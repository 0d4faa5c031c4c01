"""The two panels of the explorer's widget: what one head does, and what the chosen heads' vector does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as ipw

from ..records import Head, HeadEffects
from ..records.visible import one_line
from ..vocabulary import all_heads
from .attention import attention_view
from .explorer_parts import (
    PANEL,
    Callbacks,
    draw_strip,
    empty_strip,
    facts_of,
    framed,
    head_of,
    name_of,
    note,
    of_prompt,
    row,
    stack,
    tokens_table,
)
from .tables import frame_table

EDIT = "prompt: edit it, and leave the field to run it"
TAGS = "heads: click them twice on the map, or type 12.3"
ATTENTION = 620  # pixels: height of the attention view
GAP = {"align_items": "flex-start", "grid_gap": "8px 28px"}


class HeadPanel(ipw.VBox):
    """One head: its effect on every prompt, its read-out in the vocabulary, its ranks on the tasks, its attention."""

    def __init__(self) -> None:
        self.facts, self.reading, self.ranks = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self.toggle = ipw.Button(description="Add to the set")
        self.strip = empty_strip()
        self.spread = row(self.strip)
        self.attention = ipw.HTML(layout={"width": f"{PANEL}px"})
        tables = row(self.reading, self.ranks, **GAP)
        self.rest = stack(self.toggle, self.spread, tables, self.attention, display="none")
        super().__init__([self.facts, self.rest], layout={"width": f"{PANEL + 8}px"})

    def show_effects(
        self, explorer: Any, effects: HeadEffects, head: Head, texts: Sequence[str], at: int | None
    ) -> None:
        """Show the head's effects on the prompts, which ``texts`` name, and on the other tasks."""
        self.facts.value = f"<h3>Head {name_of(head)}</h3>{facts_of(of_prompt(effects, at), head)}"
        draw_strip(self.strip, effects, head, texts, at)
        self.ranks.value = frame_table(explorer.ranks(head, effects.metric), "on the tasks so far")
        self.rest.layout.display = self.spread.layout.display = None

    def show_missing(self, head: Head) -> None:
        """Show that there are no effects of the head so far, instead of those that were shown before."""
        self.facts.value = f"<h3>Head {name_of(head)}</h3>{note('no effects to show so far')}"
        self.ranks.value = ""
        self.rest.layout.display, self.spread.layout.display = None, "none"

    def show_inside(self, explorer: Any, task: str, head: Head, text: str, at: int) -> None:
        """Show what the head's mean output reads as, and its attention on the clean prompt ``at``."""
        reading = explorer.read(task, head)
        reading = reading.assign(token=[repr(token) for token in reading["token"]])
        self.reading.value = frame_table(reading, "reads as (logits)")
        tokens, patterns = explorer.attention(task, head, at)
        view = attention_view(tokens, patterns, [name_of(head)])
        self.attention.value = note(f"attention on the clean prompt {text}") + framed(view, ATTENTION)


class VectorPanel(ipw.VBox):
    """The chosen heads, and what their vector does to accuracy and to the next token after a prompt that is edited."""

    def __init__(self, explorer: Any, layer: int, scale: float) -> None:
        self.explorer, self.callbacks, self.task = explorer, Callbacks(), ""
        layers, heads = explorer.shape
        names = [name_of(head) for head in all_heads(layers, heads)]
        late = {"continuous_update": False}
        text = late | {"rows": 7, "layout": {"width": "300px"}}
        self.chosen = ipw.TagsInput(allowed_tags=names, allow_duplicates=False, placeholder=TAGS)
        self.chosen.layout.width = "400px"
        self.count = ipw.BoundedIntText(10, min=1, max=layers * heads, layout={"width": "64px"})
        self.top, self.none = ipw.Button(description="strongest heads"), ipw.Button(description="none")
        self.layer = ipw.IntSlider(layer, 0, layers - 1, description="Layer", **late)
        reach = max(10.0, abs(scale))
        self.scale = ipw.FloatSlider(scale, min=-reach, max=reach, step=0.5, description="Scale", **late)
        self.accuracy, self.tokens = ipw.HTML(), ipw.HTML()
        self.example = ipw.Dropdown(description="Example", layout={"width": "400px"})
        self.bare, self.clean = ipw.Textarea(**text), ipw.Textarea(**text)
        super().__init__([row(self._set(), self._trial(), **GAP)])
        for control in (self.chosen, self.layer, self.scale):
            self.callbacks.on(control, self.show)
        for control in (self.bare, self.clean):
            self.callbacks.on(control, self.show_tokens)
        self.callbacks.on(self.example, self.show_example)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The chosen heads, in the order in which they were chosen."""
        return tuple(map(head_of, self.chosen.value))

    @heads.setter
    def heads(self, heads: Sequence[Head]) -> None:
        self.chosen.value = [name_of(head) for head in dict.fromkeys(heads)]

    @property
    def vector(self) -> Any:
        """The chosen heads' instruction vector on the task; None without heads."""
        return self.explorer.vector(self.task, self.heads) if self.heads else None

    def show_task(self, task: str) -> None:
        """Show another task: its examples, and the heads' vector on it."""
        self.task = task
        pairs = enumerate(self.explorer.subjects[task].bare, 1)
        with self.callbacks.fill():
            self.example.options = [f"{at}: {label(each)} →{each.answers[0]}" for at, each in pairs]
            self.example.index = 0
        self._fill()
        self.show()

    def show_example(self) -> None:
        """Show another example: its bare and its clean prompt."""
        self._fill()
        self.show_tokens()

    def show(self) -> None:
        """Show what the chosen heads' vector does at the layer and the scale."""
        self.show_tokens()
        if self.heads:
            accuracy = self.explorer.accuracy(self.task, self.vector, self.layer.value, self.scale.value)
            self.accuracy.value = frame_table(accuracy, "greedy answers to the examples, with 95% intervals")
        else:
            self.accuracy.value = note("Choose heads to try their vector.")

    def show_tokens(self) -> None:
        """Show the likeliest tokens after the prompts as they are written."""
        try:
            self.tokens.value = tokens_table(self._likeliest())
        except Exception:
            self.tokens.value = ""  # not what followed upon another prompt
            raise

    def _likeliest(self) -> Any:
        bare, clean = self._example()
        pairs = ((bare, self.bare), (clean, self.clean))
        bare, clean = (replace(each, text=field.value, parts=()) for each, field in pairs)
        return self.explorer.tokens(bare, clean, self.vector, self.layer.value, self.scale.value)

    def _fill(self) -> None:
        bare, clean = self._example()
        with self.callbacks.fill():
            self.bare.value, self.clean.value = bare.text, clean.text

    def _example(self) -> tuple[Any, Any]:
        subject = self.explorer.subjects[self.task]
        return subject.bare[self.example.index], subject.asked[self.example.index]

    def _set(self) -> ipw.Widget:
        title, choose = ipw.HTML("<h3>The set and its vector</h3>"), ipw.HTML("choose the")
        choose = row(choose, self.count, self.top, self.none)
        return stack(title, self.chosen, choose, self.layer, self.scale, self.accuracy)

    def _trial(self) -> ipw.Widget:
        fields = (("bare", self.bare), ("clean", self.clean))
        texts = [stack(ipw.HTML(note(f"{name} {EDIT}")), field) for name, field in fields]
        title, status = ipw.HTML("<h3>Tried on a prompt</h3>"), self.callbacks.status
        return stack(title, self.example, row(*texts, **GAP), status, self.tokens)


def label(prompt: Any) -> str:
    """A prompt in few letters: its input, or how its text ends."""
    text = one_line(" ".join((prompt.input or prompt.text).split()))
    return text if len(text) <= 40 else f"…{text[-39:]}"
