"""Our weights in Hugging Face's words: the conversions of each family run backwards.

TransformerLens multiplies by [in, out] with heads apart; a linear layer of Hugging Face is [out, in], heads joined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig

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


def from_linear(name: str, matrix: Float[Tensor, "out in"], shape: Sequence[int]) -> Float[Tensor, "..."]:
    """The inverse of ``as_linear`` for a weight of that ``shape``: a view, with the strides of weights once loaded."""
    ours, theirs = LINEAR[_leaf(name)].split(" -> ")
    return rearrange(matrix, f"{theirs} -> {ours}", **({"n": shape[0]} if len(shape) == 3 else {}))


def own_name(cfg: HookedTransformerConfig, name: str) -> str:
    """A parameter's name, which has an underscore where heads share keys and values."""
    path, dot, leaf = name.rpartition(".")
    grouped = cfg.n_key_value_heads is not None and leaf in ("W_K", "W_V", "b_K", "b_V")
    return f"{path}{dot}_{leaf}" if grouped else name


def _leaf(name: str) -> str:
    return name.rpartition(".")[2].removeprefix("_")


def _stacked(parts: Sequence[Tensor], n_heads: int) -> Tensor:
    return torch.cat(list(parts))


def _by_head(parts: Sequence[Tensor], n_heads: int) -> Tensor:
    return rearrange(torch.stack(list(parts)), "qkv (n h) ... -> (n qkv h) ...", n=n_heads)


@dataclass(frozen=True)
class Inverse:
    """What a family's parameters are called in Hugging Face, and how they differ from ours.

    ``outer`` and ``block`` map our names to theirs, those of a block after ``stem`` and its layer; ``fuse`` joins
    queries, keys and values where they share a name, given as rows; ``conv1d``: blocks keep [in, out];
    ``norm_offset``: our norms are this much more; ``scaled_embedding``: ours is sqrt(d_model) times theirs.
    """

    stem: str
    outer: Mapping[str, str]
    block: Mapping[str, str]
    fuse: Fuse = _stacked
    conv1d: bool = False
    norm_offset: float = 0.0
    scaled_embedding: bool = False

    def names(self, cfg: HookedTransformerConfig) -> dict[str, str]:
        """Every parameter that the family has in Hugging Face: our name -> theirs."""
        blocks = {
            own_name(cfg, f"blocks.{layer}.{ours}"): f"{self.stem}{layer}.{theirs}"
            for layer in range(cfg.n_layers)
            for ours, theirs in self.block.items()
        }
        return {**self.outer, **blocks}

    def projections(self) -> dict[str, list[str]]:
        """Linear layers of a block by their names in Hugging Face, each with our weights that it holds."""
        held: dict[str, list[str]] = {}
        for ours, theirs in self.block.items():
            if _leaf(ours).startswith("W"):
                held.setdefault(theirs.removesuffix(".weight"), []).append(_leaf(ours))
        return held

    def joined(
        self, pairs: Sequence[tuple[Tensor, Tensor] | None], cfg: HookedTransformerConfig
    ) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """Factors of the weights that one linear layer holds, some of them without any -> factors of the layer."""
        given = [pair for pair in pairs if pair is not None]
        none = given[0][1].new_zeros(len(given[0][1]), 0)
        blocks = torch.block_diag(*(none if pair is None else pair[1].detach() for pair in pairs))
        outer = self.fuse(blocks.chunk(len(pairs)), cfg.n_heads)
        return torch.cat([inner.detach() for inner, _ in given]), outer.contiguous()

    def ties(self, model: HookedTransformer) -> bool:
        """Whether the model's embedding is still what this family makes of its unembedding."""
        embedding, unembedding = model.embed.W_E, model.unembed.W_U.T
        return torch.equal(embedding, unembedding * _scale(embedding) if self.scaled_embedding else unembedding)

    def undo(self, name: str, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A weight as Hugging Face would have it, before it is turned to a linear layer's."""
        if self.scaled_embedding and name == "embed.W_E":
            return weight / _scale(weight)
        return weight - self.norm_offset if self.norm_offset and name.endswith(".w") else weight


def _scale(embedding: Float[Tensor, "vocab d_model"]) -> Tensor:
    return torch.tensor(embedding.shape[1] ** 0.5, dtype=embedding.dtype)


@torch.no_grad()
def hugging_face_weights(model: HookedTransformer, inverse: Inverse, *, tied: bool) -> dict[str, Tensor]:
    """All weights by their names in Hugging Face, without the unembedding if it is ``tied``; views if they can be."""
    rows: dict[str, list[Tensor]] = {}
    for ours, theirs in inverse.names(model.cfg).items():
        rows.setdefault(theirs, []).append(as_linear(ours, inverse.undo(ours, attrgetter(ours)(model).detach())))
    heads = model.cfg.n_heads
    weights = {name: parts[0] if len(parts) == 1 else inverse.fuse(parts, heads) for name, parts in rows.items()}
    for name, weight in weights.items():
        turned = inverse.conv1d and weight.ndim == 2 and name.startswith(inverse.stem)
        weights[name] = (weight.T if turned else weight).contiguous()
    if tied:  # the unembedding is the embedding that no conversion has rounded
        weights[inverse.outer["embed.W_E"]] = weights.pop(inverse.outer["unembed.W_U"])
    return weights


def rounded_norms(
    model: HookedTransformer, inverse: Inverse, theirs: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Norms that do not come back bit for bit, by their names in Hugging Face: what comes back, and what was there."""
    norms = {ours: name for ours, name in inverse.names(model.cfg).items() if inverse.norm_offset and ours[-2:] == ".w"}
    pairs = {name: (inverse.undo(ours, attrgetter(ours)(model).detach()), theirs[name]) for ours, name in norms.items()}
    return {name: (back, exact) for name, (back, exact) in pairs.items() if not torch.equal(back, exact)}


_MODEL = {"embed.W_E": "model.embed_tokens.weight", "ln_final.w": "model.norm.weight", "unembed.W_U": "lm_head.weight"}
_RMS_GATED = {
    "ln1.w": "input_layernorm.weight",
    "attn.W_Q": "self_attn.q_proj.weight",
    "attn.W_K": "self_attn.k_proj.weight",
    "attn.W_V": "self_attn.v_proj.weight",
    "attn.W_O": "self_attn.o_proj.weight",
    "ln2.w": "post_attention_layernorm.weight",
    "mlp.W_gate": "mlp.gate_proj.weight",
    "mlp.W_in": "mlp.up_proj.weight",
    "mlp.W_out": "mlp.down_proj.weight",
}
_BIASES = {f"attn.b_{part}": f"self_attn.{part.lower()}_proj.bias" for part in "QKV"}
_MORE_NORMS = {
    "attn.q_norm.w": "self_attn.q_norm.weight",
    "attn.k_norm.w": "self_attn.k_norm.weight",
    "ln1_post.w": "post_attention_layernorm.weight",
    "ln2.w": "pre_feedforward_layernorm.weight",
    "ln2_post.w": "post_feedforward_layernorm.weight",
}


def _affine(modules: Mapping[str, str]) -> dict[str, str]:
    """Weight and bias of each module; ours is named for the weight."""
    names: dict[str, str] = {}
    for ours, theirs in modules.items():
        path, dot, leaf = ours.rpartition(".")
        names |= {ours: f"{theirs}.weight", f"{path}{dot}{leaf.replace('W', 'b').replace('w', 'b')}": f"{theirs}.bias"}
    return names


LLAMA = Inverse("model.layers.", _MODEL, _RMS_GATED)
QWEN2 = Inverse("model.layers.", _MODEL, _RMS_GATED | _BIASES)
GEMMA3 = Inverse("model.layers.", _MODEL, _RMS_GATED | _MORE_NORMS, norm_offset=1.0, scaled_embedding=True)
GPT2 = Inverse(
    "transformer.h.",
    {"embed.W_E": "transformer.wte.weight", "pos_embed.W_pos": "transformer.wpe.weight"}
    | _affine({"ln_final.w": "transformer.ln_f"})
    | {"unembed.W_U": "lm_head.weight"},
    _affine({f"attn.W_{part}": "attn.c_attn" for part in "QKV"})
    | _affine({"attn.W_O": "attn.c_proj", "mlp.W_in": "mlp.c_fc", "mlp.W_out": "mlp.c_proj"})
    | _affine({"ln1.w": "ln_1", "ln2.w": "ln_2"}),
    conv1d=True,
)
GPT_NEOX = Inverse(
    "gpt_neox.layers.",
    {"embed.W_E": "gpt_neox.embed_in.weight", "unembed.W_U": "embed_out.weight"}
    | _affine({"ln_final.w": "gpt_neox.final_layer_norm"}),
    _affine({f"attn.W_{part}": "attention.query_key_value" for part in "QKV"})
    | _affine({"attn.W_O": "attention.dense", "mlp.W_in": "mlp.dense_h_to_4h", "mlp.W_out": "mlp.dense_4h_to_h"})
    | _affine({"ln1.w": "input_layernorm", "ln2.w": "post_attention_layernorm"}),
    fuse=_by_head,
)
