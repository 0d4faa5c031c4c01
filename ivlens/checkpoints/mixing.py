"""Weights between a base and a tuned model: ``w = w_base + f (w_tuned - w_base)``, with a fraction f for each part.

One model is in memory at a time. The weights that differ lie in two files, which the system maps and frees; the tuned
model's own are overwritten in place, and are what they were when the context ends.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import sqrt
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ArgumentError, MismatchError, UnsupportedError, few
from ..models import (
    Model,
    WeightKind,
    WeightPart,
    computing_config,
    has_lora,
    head_axes,
    tied_embedding,
    weight_names,
    weight_parts,
)
from ..vocabulary import Head
from .sources import CheckpointUnderTest, check_comparable

PROBED = 16  # tokens on which two configs are tried
EMBEDDING, UNEMBEDDING = "embed.W_E", "unembed.W_U"  # which a HookedTransformer has apart, also where they are tied


@dataclass(frozen=True)
class Fractions:
    """How much of the change each part keeps, 0 for the base's weights and 1 for the tuned ones.

    ``attention`` and ``mlp`` have an entry for each layer; ``rest`` is for embeddings, unembedding and norms.
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    rest: float

    @classmethod
    def uniform(cls, n_layers: int, fraction: float) -> "Fractions":
        """The same fraction everywhere."""
        return cls((fraction,) * n_layers, (fraction,) * n_layers, fraction)

    @classmethod
    def by_depth(cls, n_layers: int, first: float, last: float) -> "Fractions":
        """Fractions that go evenly from the first layer's to the last layer's (LiNeS, 2410.17146); rest: their mean."""
        ramp = tuple(torch.linspace(first, last, n_layers, dtype=torch.float64).tolist())
        return cls(ramp, ramp, (first + last) / 2)

    def of(self, part: WeightPart) -> float:
        """The fraction of a part."""
        if part.kind == "rest":
            return self.rest
        assert part.layer is not None
        fraction: float = getattr(self, part.kind)[part.layer]
        return fraction

    def changed(self, fraction: float, layers: Collection[int], kinds: Collection[WeightKind]) -> "Fractions":
        """The same but for the ``kinds`` in these layers; "rest" has no layers."""

        def row(kind: WeightKind, before: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(fraction if kind in kinds and at in layers else old for at, old in enumerate(before))

        rest = fraction if "rest" in kinds else self.rest
        return Fractions(row("attention", self.attention), row("mlp", self.mlp), rest)

    def only(self, parts: Collection[WeightPart]) -> "Fractions":
        """The same for these ``parts``, and 1 for all others: of parts that did not change there is nothing to undo."""

        def row(kind: WeightKind, before: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(old if WeightPart(kind, at) in parts else 1.0 for at, old in enumerate(before))

        rest = self.rest if WeightPart("rest") in parts else 1.0
        return Fractions(row("attention", self.attention), row("mlp", self.mlp), rest)


@dataclass(frozen=True)
class WeightFile:
    """Weights in a file that the system maps, each as it lay in memory, so that saving copied none of them."""

    file: Any
    orders: Mapping[str, list[int]]  # of the axes of each weight in the file

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator["WeightFile"]:
        """Within this context, the file that ``save`` wrote."""
        with safe_open(path, "pt") as file:
            yield cls(file, json.loads(file.metadata()["orders"]))

    @staticmethod
    def save(model: Model, path: Path, names: Sequence[str]) -> None:
        """Write the named weights of a model."""
        weights = {name: attrgetter(name)(model).detach() for name in names}
        orders = {name: sorted(range(each.ndim), key=each.stride, reverse=True) for name, each in weights.items()}
        stored = {name: each.permute(orders[name]).contiguous() for name, each in weights.items()}
        save_file(stored, path, {"orders": json.dumps(orders)})

    def __getitem__(self, name: str) -> Tensor:
        order = self.orders[name]
        weight: Tensor = self.file.get_tensor(name).permute(sorted(range(len(order)), key=order.__getitem__))
        return weight


@dataclass
class MixedWeights:
    """A model whose changed weights, called ``names``, are mixed in place from two files.

    ``tied`` makes the embedding of the unembedding, where both models tie them; else None.
    """

    model: Model
    names: list[str]
    parts: Mapping[str, WeightPart]
    base: WeightFile
    tuned: WeightFile
    tied: Callable[[Tensor], Tensor] | None = None
    now: dict[str, float | None] = field(default_factory=dict)  # the fraction of each weight, None for something else

    def mix(self, fractions: Fractions) -> None:
        """Give every changed weight its part's fraction; 0 and 1 are the two models' own bits."""
        for name in self.names:
            fraction = fractions.of(self.parts[name])
            if self.now.get(name) != fraction:
                self.write(name, self.between(name, fraction))
                self.now[name] = fraction

    def between(self, name: str, fraction: float) -> Tensor:
        """A weight at a fraction of the way."""
        if fraction in (0.0, 1.0):
            return (self.tuned if fraction else self.base)[name]
        before, after = self.pair(name)
        return before + fraction * (after - before)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """A weight of the base and of the tuned model, in float32 or wider."""
        before, after = self.base[name], self.tuned[name]
        wide = torch.promote_types(before.dtype, torch.float32)
        return before.to(wide), after.to(wide)

    @torch.no_grad()
    def write(self, name: str, values: Tensor) -> None:
        """Overwrite a weight."""
        self.now[name] = None  # first, so that an interrupt leaves no wrong fraction
        attrgetter(name)(self.model).copy_(values)

    def put_heads_back(self, heads: Sequence[Head]) -> None:
        """From the tuned weights, give these heads the base's: W_Q, W_O, and the biases of queries.

        W_K and W_V, with their biases, only where all query heads that share them are among ``heads``.
        """
        self.mix(Fractions.uniform(self.model.cfg.n_layers, 1.0))
        for layer in sorted({head.layer for head in heads}):
            chosen = torch.zeros(self.model.cfg.n_heads, dtype=torch.bool)
            chosen[[head.head for head in heads if head.layer == layer]] = True
            for name, (axis, n_heads) in head_axes(self.model, layer).items():
                if name in self.names:
                    before, after = self.base[name].movedim(axis, -1), self.tuned[name].movedim(axis, -1)
                    whole = chosen.unflatten(0, (n_heads, -1)).all(1).repeat_interleave(after.shape[-1] // n_heads)
                    self.write(name, torch.where(whole, before, after).movedim(-1, axis))

    def undo_at_random(self, like: Fractions, seed: int) -> None:
        """From the tuned weights, go as far as ``like`` does in each weight, in a random direction."""
        generator = torch.Generator().manual_seed(seed)
        for name in self.once:
            before, after = self.pair(name)
            distance = (1 - like.of(self.parts[name])) * (after - before).norm()
            noise = torch.randn(after.shape, generator=generator, dtype=after.dtype)
            self.write(name, after + noise * (distance / noise.norm()))
            if name == UNEMBEDDING and self.tied is not None:
                self.write(EMBEDDING, self.tied(attrgetter(UNEMBEDDING)(self.model)))

    @property
    def once(self) -> list[str]:
        """The changed weights, tied ones once."""
        return [name for name in self.names if self.tied is None or name != EMBEDDING]

    def squared_changes(self) -> dict[WeightPart, float]:
        """The squared Frobenius norm of each part's whole change."""
        sums: dict[WeightPart, float] = {}
        for name in self.once:
            before, after = self.pair(name)
            sums[self.parts[name]] = sums.get(self.parts[name], 0.0) + (after - before).double().pow(2).sum().item()
        return sums


@contextmanager
def mixed_weights(
    base: CheckpointUnderTest, tuned: CheckpointUnderTest, scratch: Path, *, restore: bool = True
) -> Iterator[MixedWeights]:
    """The tuned model, to be mixed with the base in place; files of the changed weights lie in ``scratch`` meanwhile.

    With ``restore`` it ends with its own weights again.

    Raises:
        MismatchError: another architecture, or a config that computes otherwise, weights of other names, shapes or
            dtypes than the base's, or its own.
        ArgumentError: LoRA is on one of them.
        UnsupportedError: a changed weight is quantised.
    """
    first = _mixable(base)
    facts = base.facts
    WeightFile.save(first, scratch / "base.safetensors", weight_names(first))
    config, logits, tied = computing_config(first), _probed(first), tied_embedding(first)
    del first
    base.release()
    check_comparable(facts, tuned.facts)
    model = _mixable(tuned)
    with WeightFile.opened(scratch / "base.safetensors") as before:
        names = _changed(model, before)
        WeightFile.save(model, scratch / "tuned.safetensors", names)
        with WeightFile.opened(scratch / "tuned.safetensors") as after:
            tied = tied and tied_embedding(model)
            mixed = MixedWeights(model, names, weight_parts(model), before, after, tied, dict.fromkeys(names, 1.0))
            try:
                if facts["config_sha256"] != tuned.facts["config_sha256"]:
                    _check_computes_alike(mixed, config, logits)
                yield mixed
            finally:
                if restore:
                    mixed.mix(Fractions.uniform(model.cfg.n_layers, 1.0))


def _mixable(checkpoint: CheckpointUnderTest) -> Model:
    model = checkpoint.model()
    if has_lora(model):
        raise ArgumentError(
            "models without LoRA, whose weights can be put back", f"{checkpoint.name} with it",
            "call merge_lora(model) first, or give the adapter's folder",
        )  # fmt: skip
    return model


@torch.no_grad()
def _probed(model: Model) -> Tensor:
    """Logits after a few tokens."""
    tokens = torch.arange(min(PROBED, model.cfg.n_ctx)) % model.cfg.d_vocab
    logits: Tensor = model(tokens[None].to(model.cfg.device))
    return logits.detach().cpu()


def _check_computes_alike(mixed: MixedWeights, config: Mapping[str, Any], logits: Tensor) -> None:
    """Raise MismatchError unless the tuned model with the base's weights is the base, which has another config.

    Settings like the length of the context do no harm; those of rotary positions or of norms do.
    """
    mixed.mix(Fractions.uniform(mixed.model.cfg.n_layers, 0.0))
    distance = (_probed(mixed.model).double() - logits.double()).abs().max()
    mixed.mix(Fractions.uniform(mixed.model.cfg.n_layers, 1.0))
    if not distance <= max(1e-3, 4 * torch.finfo(logits.dtype).eps) * logits.double().abs().max():
        own = computing_config(mixed.model)
        others = sorted(name for name in {*config, *own} if config.get(name) != own.get(name))
        came = f"another in {few(others)}, with which the base's weights give other logits"
        raise MismatchError("a checkpoint of the base's config", came, "such weights cannot be mixed")


def _changed(model: Model, base: WeightFile) -> list[str]:
    """Names of the weights that differ from the base's."""
    theirs, ours = set(base.orders), weight_names(model)
    expected = "a checkpoint with the base's weights, changed"
    if strays := sorted(theirs ^ set(ours)):
        raise MismatchError(expected, f"{strays[0]} and {len(strays) - 1} more that only one of them has", "merge it")
    changed = []
    for name in ours:
        own, before = attrgetter(name)(model).detach().cpu(), base[name]
        if (own.shape, own.dtype) != (before.shape, before.dtype):
            came = f"{name}: {own.dtype} {tuple(own.shape)} against {before.dtype} {tuple(before.shape)}"
            raise MismatchError(expected, came, "load both with one dtype and one vocabulary")
        if not torch.equal(own, before):
            if not own.is_floating_point():
                raise UnsupportedError("weights that can be mixed", f"{name} of {own.dtype}", "dequantise both first")
            changed.append(name)
    if not changed:
        raise MismatchError(expected, "the base's own weights", "give the tuned model")
    return changed


def undone(fractions: Fractions, squared: Mapping[WeightPart, float]) -> float:
    """The norm of the change that fractions undo, relative to the norm of the whole change."""
    part = sum((1 - fractions.of(each)) ** 2 * value for each, value in squared.items())
    return sqrt(part / sum(squared.values()))
