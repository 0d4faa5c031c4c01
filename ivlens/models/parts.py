"""Parts of a model at the last prompt token: where they are hooked, and the values that replace them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, MismatchError
from ..vocabulary import PARTS, ModelPart, Part, check_different_parts
from .head_weights import check_heads_alike
from .points import attn_out_name, check_present, mlp_out_name, resid_pre_name, z_name

POINTS = {
    "head": z_name, "z": z_name, "attention": attn_out_name, "mlp": mlp_out_name, "residual": resid_pre_name,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PartValues:
    """What replaces parts of a model at the last prompt token; the first axis is the prompt, or 1 for all the same.

    ``z`` are heads' outputs before W_O; ``written`` what heads write, z under the W_O that belongs to it; ``attention``
    and ``mlp`` what these add to the stream; ``residual`` the streams that enter the blocks. None: not replaced.
    """

    z: Float[Tensor, "_ layer head d_head"] | None = None
    written: Float[Tensor, "_ layer head d_model"] | None = None
    attention: Float[Tensor, "_ layer d_model"] | None = None
    mlp: Float[Tensor, "_ layer d_model"] | None = None
    residual: Float[Tensor, "_ layer d_model"] | None = None

    def of(self, part: Part) -> Float[Tensor, "prompt layer ..."] | None:
        """The values of a part of every layer."""
        values: Tensor | None = getattr(self, "written" if part == "head" else part)
        return values

    def value(self, number: int, part: ModelPart) -> Float[Tensor, " d"]:
        """What replaces a part on prompt ``number``."""
        kind, layer, head = part
        values = self.of(kind)
        assert values is not None
        of_layer = values[number if len(values) > 1 else 0, layer]
        return of_layer if head is None else of_layer[head]

    def only(self, prompts: Sequence[int]) -> "PartValues":
        """The values for some of the prompts."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return PartValues(**{
            name: values if values is None or len(values) == 1 else values[list(prompts)]
            for name, values in named.items()
        })  # fmt: skip


def part_points(model: Any, parts: Iterable[Part]) -> dict[Part, list[str]]:
    """The hook points of different parts of every layer, by part.

    Raises:
        ArgumentError: no parts, or one twice.
        UnsupportedError: a layer has no such part, or heads of another width.
    """
    parts = list(parts)
    check_different_parts(parts)
    if {"head", "z"} & {*parts}:
        check_heads_alike(model)
    points = {part: [POINTS[part](layer) for layer in range(model.cfg.n_layers)] for part in parts}
    check_present([name for each in points.values() for name in each if name not in model.hook_dict], model)
    return points


def check_parts(model: Any, parts: Iterable[ModelPart]) -> None:
    """Raise UnsupportedError, naming part and layer, where a layer of the model has no such part."""
    points = dict.fromkeys(POINTS[part](layer) for part, layer, _ in parts)
    check_present([point for point in points if point not in model.hook_dict], model)


def check_values(model: Any, values: PartValues, parts: Iterable[ModelPart], prompts: int) -> None:
    """Raise unless there are values of these parts that fit the model and the number of prompts.

    Raises:
        ArgumentError: no values of a part.
        MismatchError: values of another shape.
    """
    cfg = model.cfg
    widths = {"z": (cfg.n_heads, cfg.d_head), "head": (cfg.n_heads, cfg.d_model)}
    for part in dict.fromkeys(each.part for each in parts):
        found, shape = values.of(part), (cfg.n_layers, *widths.get(part, (cfg.d_model,)))
        if found is None:
            have = ", ".join(each for each in PARTS if values.of(each) is not None)
            raise ArgumentError(f"values of part {part!r}", f"those of {have or 'no part'}")
        if tuple(found.shape[1:]) != shape or len(found) not in (1, prompts):
            raise MismatchError(
                f"values of part {part!r} of shape {(prompts, *shape)}, or 1 for all prompts", f"{tuple(found.shape)}"
            )
