"""The explorer's trial: the likeliest next tokens after an example's bare and clean prompt, which can be edited."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets as ipw

from .callbacks import Callbacks, columns, row, stack
from .html import announcement, label, note, tokens_table
from .paired_edit import same_edit
from .results import Results

EDIT = "prompt: edit it, and leave the field to run it"
WIDE = {"width": "auto"}


class TrialPanel(ipw.VBox):
    """An example's bare and clean prompt in two fields, and the likeliest next tokens after both.

    Where one field is edited, it offers the same edit of the other, so that both ask the same.

    Args:
        explorer: has the prompts and computes the tokens (``ivlens.explorer.Explorer``).
        callbacks: run the fields' actions.
        likeliest: the likeliest next tokens after a bare and a clean prompt, a frame.
    """

    def __init__(self, explorer: Any, callbacks: Callbacks, likeliest: Callable[[Any, Any], Any]) -> None:
        self.explorer, self.callbacks, self.likeliest, self.task = explorer, callbacks, likeliest, ""
        self.example = ipw.Dropdown(description="Example", layout=WIDE)
        when_left = {"continuous_update": False, "rows": 5, "layout": WIDE}
        self.bare, self.clean, self.tokens = ipw.Textarea(**when_left), ipw.Textarea(**when_left), ipw.HTML()
        self.fields = {"bare": self.bare, "clean": self.clean}
        self.paired = self._texts()
        self.proposal: dict[str, str] = {}
        self.question, self.follow = ipw.HTML(), ipw.Button(description="Change it too")
        self.offer = row(self.question, self.follow, display="none")
        self.results = Results(self.tokens)
        fields = [stack(ipw.HTML(note(f"{name} {EDIT}")), field) for name, field in self.fields.items()]
        for each in fields:
            each.add_class("ivlens-field")
        title = row(ipw.HTML("<h3>Tried on a prompt</h3>"), self.results.sign)
        super().__init__([title, self.example, columns(*fields), self.offer, callbacks.status, self.tokens])
        self.add_class("ivlens-trial")
        callbacks.on(self.bare, lambda: self._edited("bare", "clean"))
        callbacks.on(self.clean, lambda: self._edited("clean", "bare"))
        callbacks.on(self.follow, self._change_partner)
        callbacks.on(self.example, self._show_example)

    def show_task(self, task: str) -> None:
        """Show another task's examples, without computing anything."""
        self.task = task
        pairs = enumerate(self.explorer.prompts[task].test_bare, 1)
        with self.callbacks.fill():
            self.example.options = [f"{number}: {label(each)} →{each.answers[0]}" for number, each in pairs]
            self.example.index = 0
        self._fill_example()

    def show_tokens(self) -> None:
        """Show the likeliest next tokens after the prompts in the two fields."""
        with self.results.recomputing():
            pairs = zip(self._example(), (self.bare, self.clean), strict=True)
            self.tokens.value = tokens_table(
                self.likeliest(*(replace(each, text=field.value, parts=()) for each, field in pairs))
            )

    def _show_example(self) -> None:
        self._fill_example()
        self.show_tokens()

    def _fill_example(self) -> None:
        bare, clean = self._example()
        self._fill({"bare": bare.text, "clean": clean.text})

    def _edited(self, name: str, partner: str) -> None:
        """Offer to change the partner of the prompt that was edited, and show the tokens after it."""
        changed = same_edit(self.paired[name], self.fields[name].value, self.fields[partner].value)
        self.proposal = {} if changed is None else {partner: changed}
        if not self.proposal:
            self.paired = self._texts()
        self.question.value = announcement(f"The {partner} prompt still asks what it asked before.")
        self.offer.layout.display = None if self.proposal else "none"
        self.show_tokens()

    def _change_partner(self) -> None:
        self._fill(self._texts() | self.proposal)
        self.show_tokens()

    def _fill(self, texts: dict[str, str]) -> None:
        """Fill the fields with texts that belong together."""
        self.paired, self.proposal, self.offer.layout.display = texts, {}, "none"
        with self.callbacks.fill():
            for name, text in texts.items():
                self.fields[name].value = text

    def _texts(self) -> dict[str, str]:
        return {name: field.value for name, field in self.fields.items()}

    def _example(self) -> tuple[Any, Any]:
        prompts = self.explorer.prompts[self.task]
        return prompts.test_bare[self.example.index], prompts.test_clean[self.example.index]
