"""Mean output of every head at the last token of clean prompts, and heads' attention on one prompt."""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from .checks import Count, checked
from .errors import one_of, refuse_odd
from .models import (
    HookedTransformer,
    batches,
    final_residual,
    hooked,
    last_token,
    map_batches,
    padded,
    pattern_name,
    provenance,
    z_name,
)
from .records import Head, HeadMeans, PositionMeans
from .scoring import Ids, listed, prompt_ids
from .tasks import Prompt, positions_by_place, token_text
from .vocabulary import check_heads


@checked
@torch.no_grad()
def mean_head_activations(
    model: HookedTransformer, prompts: Iterable[Prompt] | Prompt, *, batch_size: Count = 32, n_jobs: Count | None = 1
) -> HeadMeans:
    """Mean over clean prompts of each head's output before W_O at the last token (2310.15213, eq. 3).

    ``.values`` is [layer, head, d_head], in float32 or wider. Batches stream through: of each, only ``hook_z`` at the
    last token is kept, summed in float64. ``n_jobs`` workers share the batches (``indirect_effects``).

    Raises:
        PromptError: no prompts, one that cannot be tokenised or is longer than the model's context, or one on which
            activations are not finite.
        HookError, WorkerError: hooks are active that workers would not run; a worker died.
    """
    prompts = listed(prompts)
    pairs = [(ids, ()) for ids in prompt_ids(model, prompts)]
    found = map_batches(model, _summed, pairs, batch_size, n_jobs, kind="clean", doing="mean activations")
    dtype = torch.float64 if model.cfg.dtype == torch.float64 else torch.float32
    tasks = sorted({prompt.task for prompt in prompts})
    refuse_odd("activations", [prompt.text for prompt in prompts], (each for _, (_, odd) in found for each in odd))
    return HeadMeans(
        (sum(sums for _, (sums, _) in found) / len(pairs)).to(dtype),
        len(pairs),
        task=", ".join(tasks),
        provenance=provenance(model, prompts=len(pairs)),
    )


@checked
@torch.no_grad()
def mean_position_activations(
    model: HookedTransformer, prompts: Iterable[Prompt] | Prompt, *, by: str = "role", batch_size: Count = 32
) -> PositionMeans:
    """Mean over clean prompts of each head's output before W_O at each place: the means for ``position_effects``.

    ``.values`` is [place, layer, head, d_head], in float32 or wider; a place of several tokens counts by their mean.
    ``by="role"``: the parts that all prompts are composed of (instruction, query input ...) and "last", whatever their
    lengths. ``by="position"``: every position, counted from the end, of prompts of one length.

    Raises:
        ArgumentError: another ``by``.
        PromptError: no prompts, one that cannot be tokenised or does not know its parts, or on which activations are
            not finite, or prompts of several lengths.
    """
    one_of("by", by, ("role", "position"))
    prompts = listed(prompts)
    pairs = [(ids, ()) for ids in prompt_ids(model, prompts)]
    found = positions_by_place(model.tokenizer, prompts, by)
    places = [name for name in found[0] if all(name in each for each in found)]
    cfg = model.cfg
    sums = torch.zeros(len(places), cfg.n_layers, cfg.n_heads, cfg.d_head, dtype=torch.float64)
    odd: list[int] = []

    def add(
        layer: int, numbers: list[int], shares: Float[Tensor, "batch pos place"],
        z: Float[Tensor, "batch pos head d_head"],
    ) -> None:  # fmt: skip
        odd.extend(numbers[row] for row in _odd_rows(z))
        sums[:, layer] += torch.einsum("bpl,bphd->lhd", shares, z.double()).cpu()

    with tqdm(total=len(pairs), desc="mean activations", unit="prompt", leave=False, disable=None) as bar:
        for numbers, batch in batches(pairs, batch_size):
            rows = padded(batch, cfg.device)
            shares = torch.zeros(*rows.tokens.shape, len(places), dtype=torch.float64)
            for row, number in enumerate(numbers):
                for place, name in enumerate(places):
                    at = found[number][name]
                    shares[row, list(at), place] = 1 / len(at)
            shares = shares.to(rows.tokens.device)
            with hooked(model, {z_name(layer): partial(add, layer, numbers, shares) for layer in range(cfg.n_layers)}):
                final_residual(model, rows)
            bar.update(len(batch))
    refuse_odd("activations", [prompt.text for prompt in prompts], odd)
    return PositionMeans(
        (sums / len(pairs)).to(torch.float64 if cfg.dtype == torch.float64 else torch.float32),
        len(pairs),
        tuple(places),
        by,
        task=", ".join(sorted({prompt.task for prompt in prompts})),
        provenance=provenance(model, prompts=len(pairs), by=by),
    )


def _summed(
    model: HookedTransformer, numbered: tuple[list[int], Sequence[tuple[Ids, Ids]]]
) -> tuple[Float[Tensor, "layer head d_head"], set[int]]:
    """Sum over a batch of each head's output at the last token; the numbers of prompts where one is not finite."""
    cfg, (numbers, batch) = model.cfg, numbered
    sums = torch.zeros(cfg.n_layers, cfg.n_heads, cfg.d_head, dtype=torch.float64)
    odd: set[int] = set()

    def keep(layer: int, z: Float[Tensor, "batch pos head d_head"]) -> None:
        outputs = z[last_token(z)].double().cpu()
        odd.update(numbers[row] for row in _odd_rows(outputs))
        sums[layer] = outputs.sum(0)

    with hooked(model, {z_name(layer): partial(keep, layer) for layer in range(cfg.n_layers)}):
        final_residual(model, padded(batch, cfg.device))
    return sums, odd


def _odd_rows(values: Float[Tensor, "batch *rest"]) -> list[int]:
    """Rows with a value that is infinite or not a number."""
    return (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()


@checked
@torch.no_grad()
def attention_patterns(
    model: HookedTransformer, prompt: Prompt, heads: Sequence[Head]
) -> tuple[list[str], Float[Tensor, "chosen query key"]]:
    """The prompt's tokens as text, and the attention pattern of each of ``heads`` on it.

    Raises:
        ArgumentError: no heads, or one that the model does not have.
        PromptError: the prompt cannot be tokenised, or its patterns are not finite.
    """
    check_heads((model.cfg.n_layers, model.cfg.n_heads), heads)
    (tokens,) = prompt_ids(model, [prompt])
    patterns: dict[int, Tensor] = {}

    def keep(layer: int, pattern: Float[Tensor, "batch head query key"]) -> None:
        patterns[layer] = pattern[0]

    edits = {pattern_name(layer): partial(keep, layer) for layer, _ in heads}
    with hooked(model, edits):
        final_residual(model, padded([(tokens, ())], model.cfg.device))
    chosen = torch.stack([patterns[layer][head] for layer, head in heads]).cpu()
    if not (chosen.sum(-1) > 0).all():  # TransformerLens turns not-a-numbers of a query into zeros; NaN > 0 is false
        refuse_odd("attention patterns", [prompt.text], [0])
    return [token_text(model.tokenizer, token) for token in tokens], chosen
