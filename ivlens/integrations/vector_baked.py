"""A steered model as a Hugging Face folder: the vector is in a bias, so no tool has to know that it is steered."""

from pathlib import Path

import torch

from ..errors import UnsupportedError
from ..models import OutputBias, find_bias, write_baked
from ..steering import steer
from .vector_files import Steered

TEXT = "The quick brown fox jumps over the lazy dog. 1 + 2 = 3"


def check_baked(steered: Steered) -> None:
    """Raise UnsupportedError unless the family has a bias that can take the vector up."""
    _bias(steered)


def _bias(steered: Steered) -> OutputBias:
    if steered.site == "attn_out":
        return find_bias(steered.model, steered.layer, "attention")
    if steered.output_of < 0:
        raise UnsupportedError(
            "a vector that is added to a layer's output", "the input of layer 0", "steer at layer=1 or later"
        )
    return find_bias(steered.model, steered.output_of, "mlp")


@torch.no_grad()
def write_folder(steered: Steered, path: Path) -> None:
    """Write the folder, checked in plain transformers against ``steer`` with ``position="all"``."""
    model = steered.model
    tokens = torch.tensor([model.tokenizer(TEXT)["input_ids"]], device=model.cfg.device)  # type: ignore[misc]
    with steer(model, steered.vector, steered.layer, steered.scale, "all", steered.site):
        expected = model(tokens)
    facts = {name: value for name, value in steered.facts().items() if name != "provenance"}
    write_baked(model, path, _bias(steered), steered.added, tokens, expected, {"steered": facts})
