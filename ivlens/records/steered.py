"""Records of answers without and with a vector, side by side."""

from dataclasses import dataclass, field

import pandas as pd

from ..text import one_line
from ..vocabulary import Site, at_layer
from .html import block, table
from .store import Record

PROMPT_LETTERS, ANSWER_LETTERS = 40, 30  # characters of a text in print, at most


@dataclass(frozen=True, eq=False)
class SteeredAnswers(Record):
    """What a model generates after each prompt without a vector and with it, at one layer and one scale or several.

    ``without`` has an answer per prompt, ``steered`` one per scale and prompt; ``task`` is the vector's, ``site`` where
    in the layer it is added (see ``steer``).

    Example:
        >>> answers = iv.generate(model, prompts, vector=vector, layer=1, scale=4, max_tokens=3)
        >>> len(answers.without), [len(each) for each in answers.steered]
        (4, [4])
    """

    prompts: tuple[str, ...]
    without: tuple[str, ...]
    steered: tuple[tuple[str, ...], ...]
    layer: int
    scales: tuple[float, ...]
    task: str = field(default="")
    site: Site = field(default="resid_pre", metadata={"added": True})

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt and scale: prompt, scale, the answer without the vector and with it."""
        return pd.DataFrame(
            [
                (prompt, scale, without, answers[number])
                for number, (prompt, without) in enumerate(zip(self.prompts, self.without, strict=True))
                for scale, answers in zip(self.scales, self.steered, strict=True)
            ],
            columns=["prompt", "scale", "without", "with"],
        )

    def _heading(self) -> str:
        return f"vector{f' of {self.task}' if self.task else ''} at {at_layer(self.layer, self.site)}"

    def _columns(self) -> list[str]:
        return ["prompt", "without vector", *(f"scale {scale:g}" for scale in self.scales)]

    def _rows(self) -> list[tuple[str, ...]]:
        """A row per prompt: its end, the answer without the vector, and that of each scale."""
        answers = [[one_line(text, ANSWER_LETTERS) for text in each] for each in (self.without, *self.steered)]
        ends = [one_line(prompt[-PROMPT_LETTERS:]) for prompt in self.prompts]
        return list(zip(ends, *answers, strict=True))

    def _repr_html_(self) -> str:
        """What a notebook shows: a row per prompt, the answers beside each other."""
        return block("SteeredAnswers", self._heading(), table(self._columns(), self._rows()))

    def __str__(self) -> str:
        rows = [self._columns(), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._heading(), *lines])
