"""A vector in the weights: the bias of a layer's last projection takes it up, and plain transformers computes with it.

What a layer's MLP writes is added to the residual stream, so a constant in its output projection's bias is that
constant added to the layer's output, at every position. Where the family has no such bias, some configs have a switch
for it (Llama's ``mlp_bias``), which gives biases to further projections: these are zeros.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from ..errors import UnsupportedError
from .engines import Model
from .export import model_writer, write_export
from .hugging_face_layout import hugging_face_config, weight_layout
from .outside_errors import library_errors
from .part_weights import WeightKind, WeightPart

SWITCHES: Mapping[WeightKind, str] = {"mlp": "mlp_bias", "attention": "attention_bias"}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# of the largest logit; the engines differ by about 1e-6 in float32
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
TOLERANCE_OF_HALF = 3e-2
DO = "export the vector itself, and add it with a hook"


@dataclass(frozen=True)
class OutputBias:
    """The bias that takes a vector up, and biases of zeros (name -> shape) that ``switch`` of the config brings."""

    name: str
    switch: str | None
    zeros: Mapping[str, tuple[int, ...]]


def find_bias(model: Model, layer: int, kind: WeightKind) -> OutputBias:
    """The bias of the last projection of a layer's MLP or attention.

    Args:
        model: a model that ``load_model`` made.
        layer: the layer.
        kind: "mlp" or "attention".

    Raises:
        UnsupportedError: the family has no such bias, nor a switch for it.
    """
    config, layout = hugging_face_config(model), weight_layout(model)
    matrices = [name for name, each in layout.items() if each.part == WeightPart(kind, layer) and each.linear]
    bias = f"{matrices[-1].removesuffix('.weight')}.bias" if matrices else ""
    if bias in layout:
        return OutputBias(bias, None, {})
    switch = SWITCHES[kind]
    if bias and getattr(config, switch, None) is False:
        setattr(config, switch, True)
        with torch.device("meta"):
            switched = AutoModelForCausalLM.from_config(config).state_dict()
        new = {name: tuple(weight.shape) for name, weight in switched.items() if name not in layout}
        new = {name: shape for name, shape in new.items() if name.endswith(".bias")}
        if bias in new:
            return OutputBias(bias, switch, new)
    raise UnsupportedError(
        f"a family with a bias in the output of layer {layer}'s {kind}, or {switch} in its config",
        f"{config.model_type}, which has none", DO,
    )  # fmt: skip


def write_baked(
    model: Model,
    folder: Path,
    bias: OutputBias,
    added: Float[Tensor, " d_model"],
    tokens: Int[Tensor, "batch pos"],
    expected: Float[Tensor, "batch pos vocab"],
    facts: Mapping[str, object],
) -> Path:
    """Write the model as a Hugging Face folder with a vector in a bias, once plain transformers gives the same logits.

    Args:
        model: a model that ``load_model`` made.
        folder: a new or empty folder, or an earlier export, which is replaced as a whole.
        bias: what ``find_bias`` found.
        added: the vector.
        tokens: a short text, to check the folder on.
        expected: its logits with the vector added.
        facts: settings for the provenance.

    Raises:
        UnsupportedError: see ``export_hf``; or the folder gives other logits.
    """
    write_model: Callable[[Path], None] = model_writer(model)
    largest = expected.abs().max().item()
    tolerance = TOLERANCE.get(model.cfg.dtype, TOLERANCE_OF_HALF) * largest

    def write(unfinished: Path) -> None:
        write_model(unfinished)
        _add_to_bias(unfinished, bias, added)
        with library_errors("a folder that plain transformers loads"):
            loaded = AutoModelForCausalLM.from_pretrained(unfinished, dtype=model.cfg.dtype, trust_remote_code=False)
        with torch.no_grad():
            logits = loaded.eval()(input_ids=tokens.cpu(), use_cache=False).logits
        off = (logits.double() - expected.cpu().double()).abs().max().item()
        if not off <= tolerance:
            raise UnsupportedError(
                f"a family in which {bias.name} is added to the residual stream as it is",
                f"logits that differ by {off:.2g} from those with the vector added", DO,
            )  # fmt: skip

    return write_export(model, folder, write, facts)


def _add_to_bias(folder: Path, bias: OutputBias, added: Float[Tensor, " d_model"]) -> None:
    if (folder / INDEX).exists():
        raise UnsupportedError(f"weights in one file, {WEIGHTS}", "several", DO)
    weights = load_file(folder / WEIGHTS)
    like = weights[f"{bias.name.removesuffix('.bias')}.weight"]
    weights |= {name: torch.zeros(shape, dtype=like.dtype) for name, shape in bias.zeros.items()}
    weights[bias.name] = (weights[bias.name].double() + added.double().cpu()).to(weights[bias.name].dtype)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    if bias.switch:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = json.dumps(config | {bias.switch: True}, indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
