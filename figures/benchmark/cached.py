"""What a good engineer writes in thirty lines on Hugging Face's key-value cache: the prompt's earlier tokens run once.

The patched last tokens then run in one batch: a row for each head from the first layer on, or rows that enter at the
layer of their head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ivlens.vocabulary import Head


@contextmanager
def before(module: Any, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within this context, ``change`` is made to the module's input, or gives another one."""
    hook = module.register_forward_pre_hook(lambda _, inputs: change(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


class RowPerHead:
    """All rows run through all layers, each with its own copy of the prompt's keys and values."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def __call__(self, job: Any, heads: list[Head]) -> Tensor:
        cache = self.model(job.tokens[:, :-1], use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(heads))
        hooks = [
            layer.self_attn.o_proj.register_forward_pre_hook(self._patch(number, heads, job.means.values[number]))
            for number, layer in enumerate(self.model.model.layers)
        ]
        try:
            logits = self.model(job.tokens[:, -1:].expand(len(heads), 1), past_key_values=cache).logits
        finally:
            for hook in hooks:
                hook.remove()
        return logits[:, -1].softmax(-1)[:, job.answer]

    @staticmethod
    def _patch(number: int, heads: list[Head], means: Tensor) -> Callable[[Any, Any], None]:
        rows = [row for row, each in enumerate(heads) if each.layer == number]
        chosen = [heads[row].head for row in rows]

        def patch(module: Any, inputs: tuple[Tensor, ...]) -> None:
            inputs[0].unflatten(-1, means.shape)[rows, -1, chosen] = means[chosen]

        return patch


class RowsFromTheirLayer(RowPerHead):
    """Rows enter at the layer of their head, as copies of the clean one, and share the prompt's keys and values."""

    @torch.inference_mode()
    def __call__(self, job: Any, heads: list[Head]) -> Tensor:
        inner, order = self.model.model, sorted(range(len(heads)), key=heads.__getitem__)
        cache = self.model(job.tokens[:, :-1], use_cache=True).past_key_values
        x = inner.embed_tokens(job.tokens[:, -1:])
        angles = inner.rotary_emb(x, torch.tensor([[job.tokens.shape[1] - 1]]))
        for number, layer in enumerate(inner.layers):
            means = job.means.values[number]
            chosen = [heads[row].head for row in order if heads[row].layer == number]

            def fork(z: Tensor, chosen: list[int] = chosen, means: Tensor = means) -> Tensor:
                forks = z[:1].repeat(len(chosen), 1, 1)
                forks.unflatten(-1, means.shape)[range(len(chosen)), 0, chosen] = means[chosen]
                return torch.cat([z, forks])

            with before(layer.self_attn.o_proj, fork):
                out, _ = layer.self_attn(
                    layer.input_layernorm(x), position_embeddings=angles, attention_mask=None,
                    past_key_values=_Shared(cache.layers[number]),
                )  # fmt: skip
            x = torch.cat([x, x[:1].expand(len(chosen), -1, -1)]) + out
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        found = self.model.lm_head(inner.norm(x[1:, -1])).softmax(-1)[:, job.answer]
        return found[torch.tensor(order).argsort()]


class _Shared:
    """One layer's keys and values of the prompt, for any number of rows."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        """The prompt's and the rows' own."""
        before = (each.expand(len(keys), -1, -1, -1) for each in (self.layer.keys, self.layer.values))
        joined = [torch.cat(pair, -2) for pair in zip(before, (keys, values), strict=True)]
        return joined[0], joined[1]
