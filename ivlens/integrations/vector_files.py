"""What all formats of vector files have in common: a vector as it is steered with, and a direction found in a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import RecordError, UnsupportedError, brief, reason
from ..models import Model
from ..steering import Tokens
from ..vectors import InstructionVector
from ..vocabulary import Site


@dataclass(frozen=True)
class Steered:
    """A vector as ``steer`` adds it, to be written; ``measured``: what it does on validation prompts, for the file."""

    model: Model
    vector: InstructionVector
    layer: int
    scale: float
    position: Tokens
    site: Site
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def added(self) -> Float[Tensor, " d_model"]:
        """What is added to the stream: the vector times its scale."""
        return (self.scale * self.vector.values).detach().cpu()

    @property
    def output_of(self) -> int:
        """The layer to whose output it is added: -1 where that is the input of layer 0.

        Raises:
            UnsupportedError: it is added to what attention writes.
        """
        if self.site == "attn_out":
            raise UnsupportedError(
                "a vector that is added to the residual stream, which is all that this format can say",
                "site='attn_out'", "steer at site='resid_pre' or 'resid_post' instead; format='hf' can hold it",
            )  # fmt: skip
        return self.layer if self.site == "resid_post" else self.layer - 1

    def facts(self) -> dict[str, Any]:
        """The facts beside the values, for formats with room for them."""
        position = self.position if isinstance(self.position, (str, int)) else list(self.position)
        return {
            "task": self.vector.task, "layer": self.layer, "scale": self.scale, "position": position, "site": self.site,
            "measured": dict(self.measured), "provenance": dict(self.vector.provenance),
        }  # fmt: skip


@dataclass(frozen=True)
class Direction:
    """One vector in a file; None for what the file does not say.

    ``layer`` counts from 0; ``facts`` are those that ivlens wrote into the file.
    """

    values: Float[Tensor, " d_model"]
    layer: int | None = None
    site: Site = "resid_post"
    scale: float | None = None
    position: Tokens | None = None
    task: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def first_layer(steered: Steered, least: int, tool: str) -> int:
    """The layer to whose output a vector is added, for a format that begins at layer ``least``.

    Raises:
        UnsupportedError: it is added before that.
    """
    if steered.output_of < least:
        raise UnsupportedError(
            f"a vector that is added to the output of layer {least} or later, where {tool} begins",
            f"layer={steered.layer}, site={steered.site!r}",
            f"steer at layer={least + 1} or later" if steered.site == "resid_pre" else f"steer at layer={least}",
        )
    return steered.output_of


def as_values(name: str, numbers: Any) -> Float[Tensor, " d_model"]:
    """Numbers of a file as a vector; those of a list in float32 where that holds them exactly.

    Raises:
        RecordError: they are not a list of finite numbers.
    """
    try:
        values = numbers.detach() if isinstance(numbers, Tensor) else torch.tensor(numbers, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise RecordError(f"a list of numbers as the vector in {name}", str(error)[:200]) from error
    if values.ndim == 0 or values.numel() != values.shape[-1] or not values.numel():
        raise RecordError(f"a vector [d_model] in {name}", f"a tensor of shape {tuple(values.shape)}")
    if not values.is_floating_point() or not values.isfinite().all():
        raise RecordError(f"finite numbers as the vector in {name}", "infinite ones or not-a-numbers, or integers")
    values = values.flatten()
    short = values.float()
    return short if not isinstance(numbers, Tensor) and short.double().equal(values) else values


def as_scale(name: str, number: Any) -> float:
    """A number of a file by which it multiplies the vector.

    Raises:
        RecordError: it is no finite number.
    """
    try:
        if isinstance(number, (int, float)) and not isinstance(number, bool) and isfinite(scale := float(number)):
            return scale
    except OverflowError:  # a whole number that no float holds
        pass
    raise RecordError(f"a finite number as {name}", brief(number))


def json_facts(name: str, text: Any) -> dict[str, Any]:
    """The facts in a JSON text of a file; none for None, where it has no such text.

    Raises:
        RecordError: it is no JSON object.
    """
    if text is None:
        return {}
    try:
        facts = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"JSON in {name}", reason(error)) from error
    if not isinstance(facts, dict):
        raise RecordError(f"a JSON object in {name}", brief(facts))
    return facts
