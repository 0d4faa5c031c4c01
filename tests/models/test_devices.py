"""Streams on a device that is not the CPU: torch's meta device stands for a GPU, which refuses the CPU's tensors."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ivlens.models.forks import additions, replacements
from ivlens.models.parts import PartValues
from ivlens.models.streams.run import run_together
from ivlens.vocabulary import PARTS, TokenizedPrompt, all_parts

MOVES = ("_to_copy", "copy_", "index", "index_put_")  # may take tensors of two devices, as a GPU's may
PAIRS = [TokenizedPrompt(*ids) for ids in (((5,), (7,)), ((3, 1, 4, 1, 5, 9, 2, 6), (5, 3, 5)), ((2, 7), (1,)))]


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices, but for numbers, as a GPU does and the meta device does not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor) and each.ndim]
        if len({each.device for each in tensors}) > 1 and func.overloadpacket.__name__ not in MOVES:
            raise RuntimeError(f"{func} on several devices")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gpt_neox", "gpt_neo", "gptj", "opt", "bloom", "phi", "gemma2", "gemma3_text", "olmo2"]
)
def test_every_tensor_that_streams_make_is_on_the_models_device(
    tiny_hooked: Any, family: str, dtype: torch.dtype | None
) -> None:
    model = tiny_hooked(family).to("meta", print_details=False)
    cfg = model.cfg
    assert str(cfg.device) == "meta"
    heads, stream = (cfg.n_layers, cfg.n_heads), (len(PAIRS), cfg.n_layers, cfg.d_model)
    values = PartValues(
        torch.zeros(1, *heads, cfg.d_head, device="meta"), torch.zeros(len(PAIRS), *heads, cfg.d_model, device="meta"),
        *(torch.zeros(stream, device="meta") for _ in range(3)),
    )  # fmt: skip
    parts = [each for each in all_parts(PARTS, *heads) if each.layer in (0, cfg.n_layers - 1)]
    forks = replacements(values, parts) | additions({1: torch.zeros(2, cfg.d_model, device="meta")})
    streams = 1 + sum(each.count for each in forks.values())
    with OneDevice():
        found = run_together(model, PAIRS, forks, dtype or model.cfg.dtype)
    assert [tuple(each.shape) for each in found] == [(streams, len(answer), cfg.d_model) for _, answer in PAIRS]
    assert {str(each.device) for each in found} == {"meta"}


def test_tensors_of_two_devices_are_refused() -> None:
    """What the test above rests on."""
    with OneDevice(), pytest.raises(RuntimeError, match="several devices"):
        torch.zeros(2, device="meta") + torch.zeros(2)
