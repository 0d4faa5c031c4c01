"""A family's parameter names in Hugging Face, and the conversion of weights in both directions.

TransformerLens has weights [in, out] with a head axis; Hugging Face's linear layers are [out, in] with heads joined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from .engines import HookedTransformer, HookedTransformerConfig

LINEAR = {
    "W_Q": "n m h -> (n h) m",
    "W_K": "n m h -> (n h) m",
    "W_V": "n m h -> (n h) m",
    "W_O": "n h m -> m (n h)",
    "W_in": "i o -> o i",
    "W_gate": "i o -> o i",
    "W_out": "i o -> o i",
    "W_U": "i o -> o i",
    "b_Q": "n h -> (n h)",
    "b_K": "n h -> (n h)",
    "b_V": "n h -> (n h)",
}
Fuse = Callable[[Sequence[Tensor], int], Tensor]


def as_linear(name: str, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A weight as Hugging Face's linear layer has it, [out, in]: a view of weights stored transposed."""
    pattern = LINEAR.get(_leaf(name))
    return rearrange(weight, pattern) if pattern else weight


def from_linear(name: str, matrix: Float[Tensor, "..."], heads: int) -> Float[Tensor, "..."]:
    """The inverse of ``as_linear``: a view in the layout of loaded weights; ``heads`` counts those of a head axis."""
    pattern = LINEAR.get(_leaf(name))
    if pattern is None:
        return matrix
    ours, theirs = pattern.split(" -> ")
    return rearrange(matrix, f"{theirs} -> {ours}", **({"n": heads} if "n" in theirs else {}))


def own_name(cfg: HookedTransformerConfig, name: str) -> str:
    """Our name of a parameter, with an underscore where heads share keys and values."""
    path, dot, leaf = name.rpartition(".")
    grouped = cfg.n_key_value_heads is not None and leaf in ("W_K", "W_V", "b_K", "b_V")
    return f"{path}{dot}_{leaf}" if grouped else name


def _leaf(name: str) -> str:
    return name.rpartition(".")[2].removeprefix("_")


def stacked(parts: Sequence[Tensor], n_heads: int) -> Tensor:
    """The rows of one weight after another's."""
    return torch.cat(list(parts))


def by_head(parts: Sequence[Tensor], n_heads: int) -> Tensor:
    """A head's queries, keys and values, then the next head's."""
    return rearrange(torch.stack(list(parts)), "qkv (n h) ... -> (n qkv h) ...", n=n_heads)


@dataclass(frozen=True)
class Naming:
    """A family's parameter names in Hugging Face, and how the parameters differ from ours.

    ``outer`` and ``block`` map our names to theirs, those of a block prefixed by ``stem`` and its layer; ``fuse`` joins
    weights (as rows) that share a name; ``conv1d``: blocks keep [in, out]; ``norm_offset``: added to their norms to
    give ours; ``scaled_embedding``: ours is sqrt(d_model) times theirs; ``skipped_positions``: leading rows of theirs
    that no token uses; ``shared``: parameters that our block has twice, second name -> first name.
    """

    stem: str
    outer: Mapping[str, str]
    block: Mapping[str, str]
    fuse: Fuse = stacked
    conv1d: bool = False
    norm_offset: float = 0.0
    scaled_embedding: bool = False
    skipped_positions: int = 0
    shared: Mapping[str, str] = field(default_factory=dict)

    def names(self, cfg: HookedTransformerConfig) -> dict[str, str]:
        """Every parameter that the family has in Hugging Face: our name -> theirs."""
        blocks = {
            own_name(cfg, f"blocks.{layer}.{ours}"): f"{self.stem}{layer}.{theirs}"
            for layer in range(cfg.n_layers)
            for ours, theirs in self.block.items()
        }
        return {**self.outer, **blocks}

    def projections(self) -> dict[str, list[str]]:
        """Linear layers of a block by their names in Hugging Face, each with the weights of ours that it holds."""
        matrices = {ours: theirs for ours, theirs in self.block.items() if _leaf(ours).startswith("W")}
        held = _by_value(matrices)
        return {theirs.removesuffix(".weight"): [_leaf(name) for name in ours] for theirs, ours in held.items()}

    def joined(
        self, held: Sequence[str], pairs: Sequence[tuple[Tensor, Tensor] | None], cfg: HookedTransformerConfig
    ) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """Factors of the layer, from those of the weights ``held`` in it, of which some may have none."""
        rows = [_rows(cfg, name) for name in held]
        inners = [pair[0].detach() for pair in pairs if pair is not None]
        none = inners[0].new_zeros
        outers = [none(n, 0) if pair is None else pair[1].detach() for n, pair in zip(rows, pairs, strict=True)]
        outer = self.fuse(torch.block_diag(*outers).split(rows), cfg.n_heads)
        return torch.cat(inners), outer.contiguous()

    def ties(self, model: HookedTransformer) -> bool:
        """Whether the model's embedding is still what this family makes of its unembedding."""
        return torch.equal(model.embed.W_E, self.tied_to(model.unembed.W_U))

    def tied_to(self, unembedding: Float[Tensor, "d_model vocab"]) -> Float[Tensor, "vocab d_model"]:
        """The embedding that this family makes of an unembedding."""
        embedding = unembedding.T
        return embedding * _scale(embedding) if self.scaled_embedding else embedding

    def undo(self, name: str, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A weight with Hugging Face's values, before its layout is converted."""
        if self.scaled_embedding and name == "embed.W_E":
            return weight / _scale(weight)
        return weight - self.norm_offset if self.norm_offset and name.endswith(".w") else weight


def _by_value(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Their name -> our names of the weights that it holds."""
    held: dict[str, list[str]] = {}
    for ours, theirs in names.items():
        held.setdefault(theirs, []).append(ours)
    return held


def _scale(embedding: Float[Tensor, "vocab d_model"]) -> Tensor:
    return torch.tensor(embedding.shape[1] ** 0.5, dtype=embedding.dtype)


def affine(modules: Mapping[str, str]) -> dict[str, str]:
    """Names of weight and bias of modules: our name of the weight -> their module."""
    names: dict[str, str] = {}
    for ours, theirs in modules.items():
        path, dot, leaf = ours.rpartition(".")
        names |= {ours: f"{theirs}.weight", f"{path}{dot}{leaf.replace('W', 'b').replace('w', 'b')}": f"{theirs}.bias"}
    return names


def own_weights(naming: Naming, hugging_face: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    """All weights of a Hugging Face model by our names: views of linear layers, split where they share one."""
    theirs = hugging_face.state_dict()
    weights: dict[str, Tensor] = {}
    for name, ours in _by_value(naming.names(cfg)).items():
        parts = theirs[name].split([_rows(cfg, each) for each in ours]) if len(ours) > 1 else [theirs[name]]
        weights |= {each: from_linear(each, part, _heads(cfg, each)) for each, part in zip(ours, parts, strict=True)}
    return weights


def _heads(cfg: HookedTransformerConfig, name: str) -> int:
    return (cfg.n_key_value_heads if name[-1] in "KV" else None) or cfg.n_heads


def _rows(cfg: HookedTransformerConfig, name: str) -> int:
    """Number of outputs of a linear layer that held only this weight."""
    outputs = {"W_O": cfg.d_model, "W_out": cfg.d_model, "W_in": cfg.d_mlp, "W_gate": cfg.d_mlp}
    return outputs.get(_leaf(name)) or _heads(cfg, name) * cfg.d_head


@torch.no_grad()
def hugging_face_weights(model: HookedTransformer, naming: Naming, *, tied: bool) -> dict[str, Tensor]:
    """All weights by their names in Hugging Face, without the unembedding if it is ``tied``; views where possible."""
    weights: dict[str, Tensor] = {}
    for name, ours in _by_value(naming.names(model.cfg)).items():
        parts = [as_linear(each, naming.undo(each, attrgetter(each)(model).detach())) for each in ours]
        weight = parts[0] if len(parts) == 1 else naming.fuse(parts, model.cfg.n_heads)
        turned = naming.conv1d and weight.ndim == 2 and name.startswith(naming.stem)
        weights[name] = (weight.T if turned else weight).contiguous()
    if tied:  # the unembedding is the embedding without rounding by a conversion
        weights[naming.outer["embed.W_E"]] = weights.pop(naming.outer["unembed.W_U"])
    return weights


def rounded_norms(
    model: HookedTransformer, naming: Naming, theirs: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Norms that do not convert back bit for bit, by their names in Hugging Face: converted back, and original."""
    norms = {ours: name for ours, name in naming.names(model.cfg).items() if naming.norm_offset and ours[-2:] == ".w"}
    pairs = {
        name: (naming.undo(ours, attrgetter(ours)(model).detach()), theirs[name].clone())
        for ours, name in norms.items()
    }
    return {name: (back, exact) for name, (back, exact) in pairs.items() if not torch.equal(back, exact)}


def skipped_positions(naming: Naming, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Position rows that no token uses, by their name in Hugging Face."""
    if not naming.skipped_positions:
        return {}
    name = naming.outer["pos_embed.W_pos"]
    return {name: theirs[name][: naming.skipped_positions].clone()}


def share(model: HookedTransformer, naming: Naming) -> None:
    """Share the parameters that the family has once in a block but TransformerLens twice, so that both learn as one."""
    for block in model.blocks:
        for name, source in naming.shared.items():
            home, _, leaf = name.rpartition(".")
            setattr(block.get_submodule(home), leaf, block.get_parameter(source))
