"""``with ablate(...)``: heads replaced at the last prompt token, to see what depends on them."""

from collections.abc import Iterable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from ..activations import check_means
from ..checks import checked
from ..models import Hooks, Model, last_token, this_pass, z_name
from ..records import Head, HeadMeans
from ..vocabulary import check_heads


@checked
def ablate(model: Model, heads: Iterable[Head], means: HeadMeans | None = None) -> Hooks:
    """Within this context, replace the heads' outputs at the last prompt token by zero, or by ``means``.

    Rows of a batch, generation, entering again and threads: see ``steer``.

    Args:
        model: the model whose heads are ablated.
        heads: heads as (layer, head).
        means: outputs to replace theirs with, [layer, head, d_head]; None for zeros. Means over bare prompts keep a
            head's task-independent output and remove the rest.

    Returns:
        A context; the hooks are removed on leaving, whatever happens.

    Raises:
        ArgumentError: no heads, or one that the model does not have.
        MismatchError: the means do not fit the model.
        HookError: see ``steer``.

    Example:
        >>> with iv.ablate(model, effects.top(2)):
        ...     ablated = iv.evaluate(model, prompts)
        >>> ablated.n
        4
    """
    heads, cfg = list(dict.fromkeys(heads)), model.cfg
    check_heads((cfg.n_layers, cfg.n_heads), heads)
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
    facts = {"ablate": [list(head) for head in heads], "means": None if means is None else means.task}
    return Hooks(model, edits, facts, at_last=True)
