"""LoRA beside the weights, as PEFT computes it: W x + s B A d(x), with a dropout d of an update's inputs.

Elsewhere an update lives in its weight, W + s B A, so that every computation includes it. But a sum of weights knows no
dropout of inputs, and rounded to bfloat16 it loses what is small beside W.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import HookError
from .engines import HookedTransformer
from .lora import LowRank, generator_of, layer_updates, lora_off

ARGUMENTS = {
    "W_Q": "query_input",
    "W_K": "key_input",
    "W_V": "value_input",
}  # of the attention
INSIDE = {"W_O": "hook_z", "W_out": "hook_post"}  # the points of the inputs of weights whose outputs are the module's
OUTPUTS = {"W_Q": "hook_q", "W_K": "hook_k", "W_V": "hook_v", "W_gate": "hook_pre", "W_in": "hook_pre"}
PER_HEAD = ("use_split_qkv_input", "use_attn_in", "ungroup_grouped_query_attention")


class Dropout(NamedTuple):
    """Which share of its inputs each update misses; a seed and a length for each row, so that others do not matter."""

    share: float
    rows: Sequence[tuple[str, int]]


@contextmanager
def lora_beside(model: HookedTransformer, dropout: Dropout) -> Iterator[None]:
    """Within this context updates compute beside their weights.

    The same seeds miss the same inputs, however rows are put together, and where the backward pass computes a block
    again.

    Raises:
        HookError: the model computes the inputs of heads apart.
    """
    if apart := [name for name in PER_HEAD if getattr(model.cfg, name, False)]:
        raise HookError("one input for all heads of a layer", f"model.cfg.{apart[0]}", "set it to False")
    with ExitStack() as stack:
        for layer, home, update in layer_updates(model):
            for handle in _Beside(layer, update, dropout).hooks(home):
                stack.callback(handle.remove)
        stack.enter_context(lora_off(model))
        yield


class _Beside:
    """One update, on the modules that its weight's inputs and outputs pass through."""

    def __init__(self, layer: int, update: LowRank, dropout: Dropout) -> None:
        self.layer, self.update, self.dropout = layer, update, dropout
        self.inputs: Tensor | None = None

    def hooks(self, home: Any) -> Iterator[Any]:
        """Hooks on the weight's module: one keeps the inputs, one adds to the outputs."""
        target = self.update.target
        if target in INSIDE:
            yield getattr(home, INSIDE[target]).register_forward_hook(self._keep_point)
            yield home.register_forward_hook(self._add)
            return
        yield home.register_forward_pre_hook(self._keep_argument, with_kwargs=True)
        gated = target == "W_in" and hasattr(home, "hook_pre_linear")
        yield getattr(home, "hook_pre_linear" if gated else OUTPUTS[target]).register_forward_hook(self._add)

    def _keep_point(self, point: Any, given: tuple[Any, ...], output: Float[Tensor, "..."]) -> None:
        self.inputs = output.flatten(2)  # of all heads

    def _keep_argument(self, home: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        name = ARGUMENTS.get(self.update.target)
        self.inputs = given[0] if name is None else named[name]

    def _add(self, module: Any, given: tuple[Any, ...], output: Float[Tensor, "..."]) -> Tensor:
        seen, self.inputs = self.inputs, None
        assert seen is not None
        if share := self.dropout.share:
            rows = [(f"{seed}/{self.layer}/{self.update.target}", length) for seed, length in self.dropout.rows]
            seen = seen * _kept(seen, share, rows) / (1 - share)
        change = F.linear(F.linear(seen, self.update.A), self.update.B) * self.update.scale
        return output + change.view_as(output)


def _kept(
    inputs: Float[Tensor, "batch pos d"], share: float, rows: Sequence[tuple[str, int]]
) -> Float[Tensor, "batch pos d"]:
    """A 1 where an input is kept, else 0; padding is kept."""
    kept = torch.ones_like(inputs)
    for row, (seed, length) in zip(kept, rows, strict=True):
        row[:length].bernoulli_(1 - share, generator=generator_of(seed, inputs.device))
    return kept
