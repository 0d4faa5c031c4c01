"""The explorer's panel of one head: its effect on every prompt, what it points to, its ranks, its attention."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw

from ...records import Head, HeadEffects
from ..attention import attention_view
from ..style import head_name
from ..tables import frame_table
from .callbacks import columns, row
from .figures import draw_strip, empty_strip, of_prompt
from .html import effect_line, framed, note
from .results import Results

ATTENTION = 620  # pixels: height of the attention view
NO_HEAD = "No head is looked at: click one on the map."


class HeadPanel(ipw.VBox):
    """One head: its effect on every prompt, the tokens it points to, its ranks on the tasks.

    Its ``attention`` is a widget of its own, which the explorer shows further down.
    """

    def __init__(self) -> None:
        self.facts, self.lens, self.ranks, self.attention = ipw.HTML(note(NO_HEAD)), ipw.HTML(), ipw.HTML(), ipw.HTML()
        self.results = Results(self.lens, self.attention)
        self.toggle = ipw.Button(description="Add to the set")
        self.toggle.layout.display = "none"
        self.strip = empty_strip()
        self.strip_row = row(self.strip)
        self.rest = columns(self.strip_row, self.lens, self.ranks, display="none")
        self.rest.add_class("ivlens-facts")
        self.attention.add_class("ivlens-attention")
        super().__init__([row(self.facts, self.toggle, self.results.sign), self.rest])

    def show_effects(
        self, explorer: Any, effects: HeadEffects, head: Head, texts: Sequence[str], prompt: int | None
    ) -> None:
        """Show the head's effect on every prompt, labelled by ``texts``, and on the other tasks."""
        self.facts.value = f"<h3>Head {head_name(head)}</h3>{effect_line(of_prompt(effects, prompt), head)}"
        draw_strip(self.strip, effects, head, texts, prompt)
        self.ranks.value = frame_table(explorer.ranks(head, effects.metric), "on the tasks so far")
        self._open(with_effects=True)

    def show_missing(self, head: Head) -> None:
        """Replace the head's effects by a note that there are none so far."""
        self.facts.value = f"<h3>Head {head_name(head)}</h3>{note('no effects to show so far')}"
        self.ranks.value = ""
        self._open(with_effects=False)

    def show_inside(self, explorer: Any, task: str, head: Head, text: str, prompt: int) -> None:
        """Show the tokens that the head's mean output points to, and its attention on this clean prompt."""
        with self.results.recomputing():
            tokens = explorer.logit_lens(task, head)
            tokens = tokens.assign(token=[repr(token) for token in tokens["token"]])
            self.lens.value = frame_table(tokens, "reads as (logits)")
            tokens, patterns = explorer.attention(task, head, prompt)
            view = attention_view(tokens, patterns, [head_name(head)])
            heading = f"<h3>Where head {head_name(head)} looks</h3>{note(f'attention on the clean prompt {text}')}"
            self.attention.value = heading + framed(view, ATTENTION)

    def _open(self, *, with_effects: bool) -> None:
        self.rest.layout.display = self.toggle.layout.display = None
        self.strip_row.layout.display = None if with_effects else "none"
