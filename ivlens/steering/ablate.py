"""``with ablate(...)``: heads silenced at the last prompt token, to see what needs them."""

from collections.abc import Iterable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from ..effects.checks import check_means
from ..errors import ArgumentError
from ..models import HookedTransformer, Hooks, last_token, this_pass, z_name
from ..records import Head, HeadMeans


def ablate(model: HookedTransformer, heads: Iterable[Head], means: HeadMeans | None = None) -> Hooks:
    """Within this context, replace the heads' outputs at the last prompt token by zero, or by ``means``.

    Means over prompts from which the task cannot be read off leave what a head writes anyway, and take what it says.
    Rows of a batch, generation, entering again and threads: see ``steer``.

    Raises:
        ArgumentError: no heads, or one that the model does not have.
        MismatchError: the means do not fit the model.
        HookError: see ``steer``.
    """
    cfg = model.cfg
    heads = [(int(layer), int(head)) for layer, head in heads]
    if not heads or any(not (0 <= layer < cfg.n_layers and 0 <= head < cfg.n_heads) for layer, head in heads):
        raise ArgumentError(f"heads (layer, head) below ({cfg.n_layers}, {cfg.n_heads}), one or more", repr(heads)[:80])
    if means is not None:
        check_means(model, means)

    def silence(layer: int, z: Float[Tensor, "batch pos head d_head"]) -> Tensor | None:
        if this_pass(z).continues:
            return None
        rows, at = last_token(z)
        z = z.clone()
        for head in [head for where, head in heads if where == layer]:
            z[rows, at, head] = 0 if means is None else means.values[layer, head].to(z)
        return z

    edits = {z_name(layer): partial(silence, layer) for layer, _ in heads}
    return Hooks(
        model, edits, {"ablate": [list(head) for head in heads], "means": None if means is None else means.task}
    )
