"""One pass over prompts that begin alike: what they share runs once, and the last block for answers alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import accumulate
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from ...vocabulary import Ids, TokenizedPrompt
from ..attached import edits_at_last, has_hooks
from ..engines import HookedTransformer, Model
from ..hooks import edit_at_last
from ..points import resid_post_name, resid_pre_name, z_name
from ..runs import answer_residual, padded
from .attention import tree_attention
from .block import advance, embedded, normed
from .sweep import not_represented
from .tree import Tree

Recorder = Callable[[str, Tensor], object]  # gets the name of a hook point, and [prompt, *activation] at it
Recorded = dict[Ids, dict[str, Tensor]]  # a prompt's activations at its last token, by hook point

_recorded: ContextVar[Recorded | None] = ContextVar("recorded", default=None)


def runs_once(model: Model) -> TypeGuard[HookedTransformer]:
    """Whether ``run_once`` gives what the plain model's forward pass does: represented by streams, no hooks."""
    return _represented(model) and not has_hooks(model)


def runs_edited_once(model: Model) -> TypeGuard[HookedTransformer]:
    """Whether ``run_once`` gives what the model's forward pass does with the hooks that are active on it, if any."""
    return _represented(model) and edits_at_last(model, _edited_points(model))


def _represented(model: Model) -> TypeGuard[HookedTransformer]:
    """Whether streams represent a model that runs without gradients.

    In half precision their rounding would be another one, larger than many effects.
    """
    if torch.is_grad_enabled() or not isinstance(model, HookedTransformer):
        return False
    return model.cfg.dtype.itemsize >= 4 and model.cfg.n_devices == 1 and not not_represented(model.cfg)


def recorded_points(model: HookedTransformer) -> set[str]:
    """The hook points at which ``run_once`` records."""
    return {name(layer) for layer in range(model.cfg.n_layers) for name in (resid_pre_name, z_name)}


def _edited_points(model: HookedTransformer) -> set[str]:
    """The hook points at which ``run_once`` runs edits."""
    return recorded_points(model) | {resid_post_name(layer) for layer in range(model.cfg.n_layers)}


@contextmanager
def recorded_meanwhile() -> Iterator[Recorded]:
    """Within this context ``answer_streams`` also records, where it runs prompts once; elsewhere nothing."""
    recorded: Recorded = {}
    token = _recorded.set(recorded)
    try:
        yield recorded
    finally:
        _recorded.reset(token)


def answer_streams(
    model: Model, pairs: Sequence[TokenizedPrompt], *, once: bool
) -> list[Float[Tensor, "answer d_model"]]:
    """Final residual streams from which the prompts' answer tokens are predicted, by ``run_once`` or a plain pass.

    ``once`` is what ``runs_edited_once`` says of the model, which is asked once for many batches. Infinities and
    not-a-numbers of a prompt reach others that share its beginning: then it is the plain pass.
    """
    if once:
        assert isinstance(model, HookedTransformer)  # runs_edited_once
        recorded = _recorded.get()
        streams = run_once(model, pairs, None if recorded is None else partial(_add, recorded, pairs))
        if all(each.isfinite().all() for each in streams):
            return streams
    return list(answer_residual(model, padded(pairs, model.cfg.device)).split([len(answer) for _, answer in pairs]))


def _add(recorded: Recorded, pairs: Sequence[TokenizedPrompt], point: str, values: Float[Tensor, "prompt ..."]) -> None:
    for (prompt, _), own in zip(pairs, values.cpu(), strict=True):
        recorded.setdefault(prompt, {})[point] = own


@torch.no_grad()
def run_once(
    model: HookedTransformer, pairs: Sequence[TokenizedPrompt], record: Recorder | None = None
) -> list[Float[Tensor, "answer d_model"]]:
    """Final residual streams from which the prompts' answer tokens are predicted, those of each prompt.

    ``record`` gets each layer's incoming residual stream and z, both at the last prompt tokens; there, edits that are
    active run. A prompt without an answer is only recorded.
    """
    ends = [len(prompt) - 1 for prompt, _ in pairs]
    tree = Tree.of([prompt + answer[:-1] for prompt, answer in pairs], model.cfg.device, ends)
    asked = [path[-len(answer) :] if answer else [] for path, (_, answer) in zip(tree.paths, pairs, strict=True)]
    last = torch.tensor([path[end] for path, end in zip(tree.paths, ends, strict=True)])
    rows = torch.tensor([row for of_prompt in asked for row in of_prompt], dtype=torch.long, device=tree.device)
    x = embedded(model, tree.tokens, tree.positions, model.cfg.dtype)
    for layer, block in enumerate(model.blocks):
        edit_at_last(model, resid_pre_name(layer), x, last)
        z, _, _ = tree_attention(block.attn, normed(block, x), tree)
        edit_at_last(model, z_name(layer), z, last)
        if record is not None:
            record(resid_pre_name(layer), x[last])
            record(z_name(layer), z[last])
        if layer == model.cfg.n_layers - 1:
            x, z = x[rows], z[rows]
            starts = accumulate([0, *map(len, asked[:-1])])
            last = torch.tensor([start for start, own in zip(starts, asked, strict=True) if own], dtype=torch.long)
        x = advance(block, x, z)
        edit_at_last(model, resid_post_name(layer), x, last)
    return list(x.split([len(of_prompt) for of_prompt in asked]))
