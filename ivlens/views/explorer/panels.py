"""The two panels of the explorer's widget: what one head does, and what the chosen heads' vector does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as ipw

from ...records import Head, HeadEffects
from ...vocabulary import all_heads
from ..attention import attention_view
from ..style import head_name
from ..tables import frame_table
from .callbacks import Callbacks, row, stack
from .figures import PANEL, draw_strip, empty_strip, of_prompt
from .html import effect_line, framed, label, note, tokens_table

EDIT = "prompt: edit it, and leave the field to run it"
TAGS = "heads: click them twice on the map, or type 12.3"
ATTENTION = 620  # pixels: height of the attention view
GAP = {"align_items": "flex-start", "grid_gap": "8px 28px"}


class HeadPanel(ipw.VBox):
    """One head: its effect on every prompt, the tokens it points to, its ranks on the tasks, its attention."""

    def __init__(self) -> None:
        self.facts, self.lens, self.ranks = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self.toggle = ipw.Button(description="Add to the set")
        self.strip = empty_strip()
        self.strip_row = row(self.strip)
        self.attention = ipw.HTML(layout={"width": f"{PANEL}px"})
        tables = row(self.lens, self.ranks, **GAP)
        self.rest = stack(self.toggle, self.strip_row, tables, self.attention, display="none")
        super().__init__([self.facts, self.rest], layout={"width": f"{PANEL + 8}px"})

    def show_effects(
        self, explorer: Any, effects: HeadEffects, head: Head, texts: Sequence[str], prompt: int | None
    ) -> None:
        """Show the head's effect on every prompt, labelled by ``texts``, and on the other tasks."""
        self.facts.value = f"<h3>Head {head_name(head)}</h3>{effect_line(of_prompt(effects, prompt), head)}"
        draw_strip(self.strip, effects, head, texts, prompt)
        self.ranks.value = frame_table(explorer.ranks(head, effects.metric), "on the tasks so far")
        self.rest.layout.display = self.strip_row.layout.display = None

    def show_missing(self, head: Head) -> None:
        """Replace the head's effects by a note that there are none so far."""
        self.facts.value = f"<h3>Head {head_name(head)}</h3>{note('no effects to show so far')}"
        self.ranks.value = ""
        self.rest.layout.display, self.strip_row.layout.display = None, "none"

    def show_inside(self, explorer: Any, task: str, head: Head, text: str, prompt: int) -> None:
        """Show the tokens that the head's mean output points to, and its attention on this clean prompt."""
        tokens = explorer.logit_lens(task, head)
        tokens = tokens.assign(token=[repr(token) for token in tokens["token"]])
        self.lens.value = frame_table(tokens, "reads as (logits)")
        tokens, patterns = explorer.attention(task, head, prompt)
        view = attention_view(tokens, patterns, [head_name(head)])
        self.attention.value = note(f"attention on the clean prompt {text}") + framed(view, ATTENTION)


class VectorPanel(ipw.VBox):
    """The chosen heads, and what their vector does to accuracy and to the next token after an editable prompt."""

    def __init__(self, explorer: Any, layer: int, scale: float) -> None:
        self.explorer, self.callbacks, self.task = explorer, Callbacks(), ""
        layers, heads = explorer.shape
        names = [head_name(head) for head in all_heads(layers, heads)]
        when_left = {"continuous_update": False}
        text = when_left | {"rows": 7, "layout": {"width": "300px"}}
        self.chosen = ipw.TagsInput(allowed_tags=names, allow_duplicates=False, placeholder=TAGS)
        self.chosen.layout.width = "400px"
        self.count = ipw.BoundedIntText(10, min=1, max=layers * heads, layout={"width": "64px"})
        self.top, self.none = ipw.Button(description="strongest heads"), ipw.Button(description="none")
        self.layer = ipw.IntSlider(layer, 0, layers - 1, description="Layer", **when_left)
        widest = max(10.0, abs(scale))
        self.scale = ipw.FloatSlider(scale, min=-widest, max=widest, step=0.5, description="Scale", **when_left)
        self.accuracy, self.tokens = ipw.HTML(), ipw.HTML()
        self.example = ipw.Dropdown(description="Example", layout={"width": "400px"})
        self.bare, self.clean = ipw.Textarea(**text), ipw.Textarea(**text)
        super().__init__([row(self._chosen_heads(), self._examples(), **GAP)])
        for control in (self.chosen, self.layer, self.scale):
            self.callbacks.on(control, self.show)
        for control in (self.bare, self.clean):
            self.callbacks.on(control, self.show_tokens)
        self.callbacks.on(self.example, self.show_example)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The chosen heads, in the order in which they were chosen."""
        return tuple(Head(*map(int, name.split("."))) for name in self.chosen.value)

    @heads.setter
    def heads(self, heads: Sequence[Head]) -> None:
        self.chosen.value = [head_name(head) for head in dict.fromkeys(heads)]

    @property
    def vector(self) -> Any:
        """The chosen heads' instruction vector on the task; None without heads."""
        return self.explorer.vector(self.task, self.heads) if self.heads else None

    def show_task(self, task: str) -> None:
        """Show another task: its examples, and the heads' vector on it."""
        self.task = task
        pairs = enumerate(self.explorer.prompts[task].test_bare, 1)
        with self.callbacks.fill():
            self.example.options = [f"{number}: {label(each)} →{each.answers[0]}" for number, each in pairs]
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
            self.accuracy.value = frame_table(accuracy, "answers to the examples, with 95% intervals")
        else:
            self.accuracy.value = note("Choose heads to try their vector.")

    def show_tokens(self) -> None:
        """Show the likeliest next tokens after the prompts in the two fields."""
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
        prompts = self.explorer.prompts[self.task]
        return prompts.test_bare[self.example.index], prompts.test_clean[self.example.index]

    def _chosen_heads(self) -> ipw.Widget:
        title, choose = ipw.HTML("<h3>The set and its vector</h3>"), ipw.HTML("choose the")
        choose = row(choose, self.count, self.top, self.none)
        return stack(title, self.chosen, choose, self.layer, self.scale, self.accuracy)

    def _examples(self) -> ipw.Widget:
        fields = (("bare", self.bare), ("clean", self.clean))
        texts = [stack(ipw.HTML(note(f"{name} {EDIT}")), field) for name, field in fields]
        title, status = ipw.HTML("<h3>Tried on a prompt</h3>"), self.callbacks.status
        return stack(title, self.example, row(*texts, **GAP), status, self.tokens)
