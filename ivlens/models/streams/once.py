"""A plain pass over prompts that begin alike: what they share runs once, and the last block for answers alone."""

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from ...vocabulary import TokenizedPrompt
from ..engines import HookedTransformer, Model
from ..hooks import has_hooks
from ..points import resid_pre_name, z_name
from ..runs import answer_residual, padded
from .attention import tree_attention
from .block import advance, embedded, normed
from .sweep import not_represented
from .tree import Tree

Recorder = Callable[[str, Tensor], object]  # gets the name of a hook point, and [prompt, *activation] at it


def runs_once(model: Model) -> TypeGuard[HookedTransformer]:
    """Whether ``run_once`` gives what the model's forward pass does: represented by streams, no hooks, no gradients.

    In half precision its rounding would be another one, larger than many effects.
    """
    if torch.is_grad_enabled() or not isinstance(model, HookedTransformer):
        return False
    cfg = model.cfg
    return cfg.dtype.itemsize >= 4 and cfg.n_devices == 1 and not not_represented(cfg) and not has_hooks(model)


def recorded_points(model: HookedTransformer) -> set[str]:
    """The hook points at which ``run_once`` records."""
    return {name(layer) for layer in range(model.cfg.n_layers) for name in (resid_pre_name, z_name)}


def answer_streams(
    model: Model, pairs: Sequence[TokenizedPrompt], *, once: bool
) -> list[Float[Tensor, "answer d_model"]]:
    """Final residual streams from which the prompts' answer tokens are predicted, by ``run_once`` or a plain pass.

    ``once`` is what ``runs_once`` says of the model, which is asked once for many batches. Infinities and not-a-numbers
    of a prompt reach others that share its beginning: then it is the plain pass.
    """
    if once:
        assert isinstance(model, HookedTransformer)  # runs_once
        streams = run_once(model, pairs)
        if all(each.isfinite().all() for each in streams):
            return streams
    return list(answer_residual(model, padded(pairs, model.cfg.device)).split([len(answer) for _, answer in pairs]))


@torch.no_grad()
def run_once(
    model: HookedTransformer, pairs: Sequence[TokenizedPrompt], record: Recorder | None = None
) -> list[Float[Tensor, "answer d_model"]]:
    """Final residual streams from which the prompts' answer tokens are predicted, those of each prompt.

    ``record`` gets each layer's incoming residual stream and z, both at the last prompt tokens. A prompt without an
    answer is only recorded.
    """
    tree = Tree.of([prompt + answer[:-1] for prompt, answer in pairs], model.cfg.device)
    asked = [path[-len(answer) :] if answer else [] for path, (_, answer) in zip(tree.paths, pairs, strict=True)]
    last = torch.tensor([path[len(prompt) - 1] for path, (prompt, _) in zip(tree.paths, pairs, strict=True)])
    rows = torch.tensor([row for of_prompt in asked for row in of_prompt], dtype=torch.long, device=tree.device)
    x = embedded(model, tree.tokens, tree.positions, model.cfg.dtype)
    for layer, block in enumerate(model.blocks):
        z, _, _ = tree_attention(block.attn, normed(block, x), tree)
        if record is not None:
            record(resid_pre_name(layer), x[last])
            record(z_name(layer), z[last])
        if layer == model.cfg.n_layers - 1:
            x, z = x[rows], z[rows]
        x = advance(block, x, z)
    return list(x.split([len(of_prompt) for of_prompt in asked]))
