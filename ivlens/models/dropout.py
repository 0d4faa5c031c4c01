"""Dropout of LoRA as PEFT has it: an update sees a part of its inputs, and the weight itself all of them.

Here an update lives in its weight, which computes W x + s B A x. Its outputs are corrected by s B A (d(x) - x), where d
leaves out a part of the inputs x and scales up the rest.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .engines import HookedTransformer
from .lora import LowRank, layer_updates

ARGUMENTS = {
    "W_Q": "query_input",
    "W_K": "key_input",
    "W_V": "value_input",
}  # of the attention, by the weight that takes them
INSIDE = {"W_O": "hook_z", "W_out": "hook_post"}  # the points of the inputs of weights whose outputs are the module's
OUTPUTS = {"W_Q": "hook_q", "W_K": "hook_k", "W_V": "hook_v", "W_gate": "hook_pre", "W_in": "hook_pre"}


@contextmanager
def lora_dropout(model: HookedTransformer, share: float, seed: str) -> Iterator[None]:
    """Within this context every update misses this share of its inputs.

    The same seed leaves out the same inputs, also where the backward pass computes a block again.
    """
    with ExitStack() as stack:
        for layer, home, update in layer_updates(model) if share else ():
            dropout = _Dropout(update, share, f"{seed}/{layer}/{update.target}")
            for handle in dropout.hooks(home):
                stack.callback(handle.remove)
        yield


class _Dropout:
    """The dropout of one update, on the modules that its weight's inputs and outputs pass through."""

    def __init__(self, update: LowRank, share: float, seed: str) -> None:
        self.update, self.share = update, share
        self.seed = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big", signed=True)
        self.inputs: Tensor | None = None

    def hooks(self, home: Any) -> Iterator[Any]:
        """Hooks on the weight's module: one keeps the inputs, one corrects the outputs."""
        target = self.update.target
        if target in INSIDE:
            yield getattr(home, INSIDE[target]).register_forward_hook(self._keep_point)
            yield home.register_forward_hook(self._correct)
            return
        yield home.register_forward_pre_hook(self._keep_argument, with_kwargs=True)
        gated = target == "W_in" and hasattr(home, "hook_pre_linear")
        yield getattr(home, "hook_pre_linear" if gated else OUTPUTS[target]).register_forward_hook(self._correct)

    def _keep_point(self, point: Any, given: tuple[Any, ...], output: Float[Tensor, "..."]) -> None:
        self.inputs = output.flatten(2)  # of all heads

    def _keep_argument(self, home: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        name = ARGUMENTS.get(self.update.target)
        self.inputs = given[0] if name is None else named[name]

    def _correct(self, module: Any, given: tuple[Any, ...], output: Float[Tensor, "..."]) -> Tensor:
        inputs, self.inputs = self.inputs, None
        assert inputs is not None
        missed = inputs * (_kept(inputs, self.share, self.seed) / (1 - self.share) - 1)
        change = F.linear(F.linear(missed, self.update.A), self.update.B) * self.update.scale
        return output + change.view_as(output)


def _kept(inputs: Float[Tensor, "..."], share: float, seed: int) -> Float[Tensor, "..."]:
    """A 1 where an input is kept, else 0."""
    generator = torch.Generator(inputs.device).manual_seed(seed)
    return torch.empty_like(inputs).bernoulli_(1 - share, generator=generator)
