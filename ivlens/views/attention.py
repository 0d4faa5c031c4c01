"""Attention patterns as HTML that needs no network."""

import json
from dataclasses import dataclass
from pathlib import Path

from circuitsvis.attention import attention_heads, attention_pattern
from jaxtyping import Float
from torch import Tensor

from ..checks import checked
from ..errors import ArgumentError
from ..records import write_text
from ..records.visible import escaped, one_line
from .style import OKABE_ITO


@dataclass(frozen=True)
class Html:
    """A piece of HTML that a notebook shows, a page holds, and a file keeps; it needs no network."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    @checked
    def save(self, path: str | Path) -> Path:
        """Write the piece to ``path`` as a document of its own, atomically, and return the path."""
        return write_text(path, f'<!doctype html>\n<meta charset="utf-8">\n{self.html}\n')


@checked
def attention_view(tokens: list[str], patterns: Float[Tensor, "head query key"], head_names: list[str]) -> Html:
    """Attention patterns of heads over a prompt's tokens, to hover over: each weight a probability in [0, 1].

    Of several heads there is one to choose, of one its pattern under its name.

    Raises: ArgumentError where the patterns are not one square a head over the tokens.
    """
    shape = len(head_names), len(tokens), len(tokens)
    if tuple(patterns.shape) != shape or 0 in shape:
        raise ArgumentError(
            "patterns of shape [head, query, key], one a head name, over one token or more",
            f"{list(patterns.shape)} for {len(head_names)} head names and {len(tokens)} tokens",
        )
    shown = [_visible(token) for token in tokens]
    weights = patterns.detach().double().round(decimals=4)
    if not weights.isfinite().all():
        raise ArgumentError("finite attention weights", "infinite ones or not-a-numbers", "compute them in float32")
    look = {"max_value": 1, "min_value": 0, "positive_color": OKABE_ITO[0]}
    # local_src is the one form of a circuitsvis view that needs no network; it leaves its <div> open
    if len(head_names) > 1:
        source = attention_heads(weights.tolist(), shown, head_names, **look).local_src
        heading, sides = "", "0"
    else:
        source = attention_pattern(shown, weights[0].tolist(), show_axis_labels=True, **look).local_src
        heading, sides = f"<div><b>{escaped(head_names[0])}</b></div>", "15px 15px 12px"  # its axes stick out
    for texts in (shown, head_names):
        written = json.dumps(texts)
        source = source.replace(written, written.replace("<", "\\u003c"))
    return Html(heading + source.replace('15px 0;"/>', f'15px {sides};"></div>', 1))


def _visible(token: str) -> str:
    """The token with its line breaks, and its spaces if it is nothing else, as characters that can be seen."""
    return one_line((token if token.strip(" ") else token.replace(" ", "␣")).replace("\n", "↵"))
