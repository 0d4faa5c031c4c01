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
from ..text import escaped, one_line
from .style import OKABE_ITO


@dataclass(frozen=True)
class Html:
    """A piece of HTML that a notebook shows, a page holds, and a file keeps; it needs no network.

    Args:
        html: the piece, which is shown as it is: escape what comes from models and tasks.

    Example:
        >>> iv.views.Html("<b>bold</b>").save(tmp_path / "piece.html").name
        'piece.html'
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html

    @checked
    def save(self, path: str | Path) -> Path:
        """Write the piece to a file as a document of its own, atomically.

        Args:
            path: the file to write.

        Returns:
            The path.
        """
        return write_text(path, f'<!doctype html>\n<meta charset="utf-8">\n{self.html}\n')


@checked
def attention_view(tokens: list[str], patterns: Float[Tensor, "head query key"], head_names: list[str]) -> Html:
    """Attention patterns of heads over a prompt's tokens, to hover over.

    With several heads, the viewer chooses one; a single head's pattern stands under its name.

    Args:
        tokens: the texts of the prompt's tokens.
        patterns: weights [head, query, key], probabilities from 0 to 1.
        head_names: a name for each head, such as "3.1".

    Returns:
        A piece of HTML that a notebook shows and a page holds.

    Raises:
        ArgumentError: patterns that are not one square per head over the tokens, or weights that are not finite.

    Example:
        >>> tokens, patterns = iv.attention_patterns(model, prompts[0], [(0, 1)])
        >>> type(iv.views.attention_view(tokens, patterns, ["0.1"])).__name__
        'Html'
    """
    shape = len(head_names), len(tokens), len(tokens)
    if tuple(patterns.shape) != shape or 0 in shape:
        raise ArgumentError(
            "patterns of shape [head, query, key], one per head name, over one token or more",
            f"{list(patterns.shape)} for {len(head_names)} head names and {len(tokens)} tokens",
        )
    texts = [_visible(token) for token in tokens]
    weights = patterns.detach().double().round(decimals=4)
    if not weights.isfinite().all():
        raise ArgumentError("finite attention weights", "infinite ones or not-a-numbers", "compute them in float32")
    look = {"max_value": 1, "min_value": 0, "positive_color": OKABE_ITO[0]}
    # local_src is the one form of a circuitsvis view that needs no network; it leaves its <div> open
    if len(head_names) > 1:
        source = attention_heads(weights.tolist(), texts, head_names, **look).local_src
        heading, sides = "", "0"
    else:
        source = attention_pattern(texts, weights[0].tolist(), show_axis_labels=True, **look).local_src
        heading, sides = f"<div><b>{escaped(head_names[0])}</b></div>", "15px 15px 12px"  # its axes stick out
    for names in (texts, head_names):
        written = json.dumps(names)
        source = source.replace(written, written.replace("<", "\\u003c"))
    return Html(heading + source.replace('15px 0;"/>', f'15px {sides};"></div>', 1))


def _visible(token: str) -> str:
    """The token with visible line breaks, and visible spaces if it consists of nothing else."""
    return one_line((token if token.strip(" ") else token.replace(" ", "␣")).replace("\n", "↵"))
