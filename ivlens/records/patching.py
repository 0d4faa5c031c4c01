"""Records of patching between checkpoints: activations that are exchanged, their effects, and what carries a loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import Count, check_finite, checked
from ..stats import Interval, ratio_interval, t_interval
from ..vocabulary import (
    DIRECTIONS,
    PARTS,
    PATCH_ROLES,
    Direction,
    Head,
    ModelPart,
    Part,
    PatchRole,
    all_parts,
    check_count,
)
from .effects import heads_by_effect
from .html import block, note, table, text
from .store import Record

LEAST_GAP = 0.5  # nats of the mean gap below which a share of it means nothing
EVERY, CHOSEN_ON, REPORTED_ON = slice(None), slice(0, None, 2), slice(1, None, 2)  # of the forgotten prompts
OF_HEADS: tuple[Part, ...] = ("head", "z")  # parts of which a layer has several


@dataclass(frozen=True, eq=False)
class PartActivations(Record):
    """The activations of one model's parts at the last token of prompts, as they are put into another model.

    Args:
        z: outputs of the heads before W_O.
        written: the same after the model's own W_O, without bias.
        attention: what each block's attention adds to the residual stream.
        mlp: what its MLP adds.
        residual: the residual stream that enters each block.
    """

    z: Float[Tensor, "prompt layer head d_head"]
    written: Float[Tensor, "prompt layer head d_model"]
    attention: Float[Tensor, "prompt layer d_model"]
    mlp: Float[Tensor, "prompt layer d_model"]
    residual: Float[Tensor, "prompt layer d_model"]


@dataclass(frozen=True, eq=False)
class PatchedParts(Record):
    """What another model's activations do to log P(answer), part by part, in nats.

    Args:
        clean: log P(answer) of each prompt with nothing patched.
        head: change of it with a head's output patched.
        z: with a head's z alone patched.
        attention: with a block's attention output patched.
        mlp: with its MLP's output patched.
        residual: with the stream that enters the block patched.
    """

    clean: Float[Tensor, " prompt"]
    head: Float[Tensor, "prompt layer head"]
    z: Float[Tensor, "prompt layer head"]
    attention: Float[Tensor, "prompt layer"]
    mlp: Float[Tensor, "prompt layer"]
    residual: Float[Tensor, "prompt layer"]


@checked
@dataclass(frozen=True, eq=False)
class CheckpointPatching(Record):
    """Activations of a base and a tuned model exchanged part by part (cross-model patching: arXiv 2402.14811).

    The first index of effects is the direction: "restores" puts the base's activation into the tuned model, "breaks"
    the tuned model's into the base. Effects are changes of log P(answer) in the model that is patched, in nats.

    Args:
        head: [direction, prompt, layer, head], a head's output: everything that changed in the head.
        z: [direction, prompt, layer, head], its z under the W_O of the patched model: what it reads and computes.
        attention: [direction, prompt, layer], what a block's attention adds to the residual stream.
        mlp: [direction, prompt, layer], what its MLP adds.
        residual: [direction, prompt, layer], the residual stream that enters the block.
        base: log P(answer) of the base on each prompt, in nats.
        tuned: that of the tuned model.
        base_correct: whether the base's answer is an accepted one.
        tuned_correct: whether the tuned model's is.
        roles: of each prompt: "forgotten", "kept" (of a task that the tuned model still does), "learned" (of the new
            task), or "other prompt": a forgotten one again, with the activations on another forgotten one.
        prompts: the prompts' texts.
        answers: their first accepted answers.
        counts: of the prompts that were given to look for forgotten ones: how many, how many each model answers, how
            many the base answers and the tuned model does not, and how many were patched.
        task: of the forgotten prompts.

    Example:
        >>> patching.attention.shape  # of iv.patch_checkpoints(model, tuned, prompts): direction prompt layer
        torch.Size([2, 8, 2])
    """

    head: Float[Tensor, "direction prompt layer head"]
    z: Float[Tensor, "direction prompt layer head"]
    attention: Float[Tensor, "direction prompt layer"]
    mlp: Float[Tensor, "direction prompt layer"]
    residual: Float[Tensor, "direction prompt layer"]
    base: Float[Tensor, " prompt"]
    tuned: Float[Tensor, " prompt"]
    base_correct: Bool[Tensor, " prompt"]
    tuned_correct: Bool[Tensor, " prompt"]
    roles: tuple[PatchRole, ...] = field(metadata={"axis": "prompt"})
    prompts: tuple[str, ...] = field(metadata={"axis": "prompt"})
    answers: tuple[str, ...] = field(metadata={"axis": "prompt"})
    counts: Mapping[str, int]
    task: str = ""

    def __post_init__(self) -> None:
        for part in PARTS:
            check_finite(f"effects of {part}", getattr(self, part))

    @property
    def n(self) -> int:
        """Number of forgotten prompts."""
        return self.roles.count("forgotten")

    @property
    def gap(self) -> Interval:
        """Mean over forgotten prompts of log P(answer), the base's minus the tuned model's, in nats, with its interval.

        Returns:
            The mean with its 95% interval (Student's t over prompts).

        Example:
            >>> patching.gap.value  # of a model and itself
            0.0
        """
        return self.gap_of("forgotten")

    @checked
    def gap_of(self, role: PatchRole) -> Interval:
        """The gap on the prompts of a role; not-a-numbers without any.

        Args:
            role: of the prompts.

        Returns:
            The mean in nats with its 95% interval (Student's t over prompts).

        Example:
            >>> patching.gap_of("learned").value
            nan
        """
        gaps = self._gaps(role)
        low, high = t_interval(gaps)
        return Interval(gaps.mean().item(), low.item(), high.item())

    @checked
    def top(self, k: Count, part: Part = "head", direction: Direction = "restores") -> list[Head] | list[int]:
        """The ``k`` heads, or layers, that restore or break most on forgotten prompts, the strongest first.

        Args:
            k: how many.
            part: which activation was exchanged.
            direction: "restores", the base's put into the tuned model, or "breaks", the reverse.

        Returns:
            Heads for "head" and "z", else layers.

        Raises:
            ArgumentError: ``k`` beyond the number of heads or layers.

        Example:
            >>> len(patching.top(3)), len(patching.top(2, "mlp", "breaks"))
            (3, 2)
        """
        return self._strongest(k, part, direction, EVERY)

    def _strongest(self, k: int, part: Part, direction: Direction, prompts: slice) -> list[Head] | list[int]:
        """The strongest on these of the forgotten prompts."""
        effects = self._effects(part, direction, "forgotten")[prompts].mean(0) * _towards_the_other(direction)
        check_count(k, effects.numel(), "heads" if part in OF_HEADS else "layers")
        if part in OF_HEADS:
            return heads_by_effect(effects)[:k]
        return [layer for layer, _ in heads_by_effect(effects[:, None])[:k]]

    def to_frame(self) -> pd.DataFrame:
        """One row per direction, role, and head or layer of each part.

        Returns:
            direction, role, part, layer, head (only of heads), nats with its 95% interval
            (nats_low, nats_high), share of the gap with its interval (share_low, share_high), and n. A share is what is
            restored, or broken, of the mean gap of these prompts; not a number where that is below 0.5 nats.

        Example:
            >>> len(patching.to_frame()) == 2 * 2 * (2 * 8 + 3 * 2)  # directions, roles, heads twice, layers
            True
        """
        return self._frame.copy()

    @checked
    def beside_controls(self, k: Count = 3) -> pd.DataFrame:
        """The ``k`` heads or layers of each part that restore most, beside what else their exchange does.

        They are chosen on every second forgotten prompt, and what they restore and break is reported on the others: the
        largest of many effects is larger than it will be on other prompts. Of a single prompt there are no others.

        Args:
            k: how many of each part.

        Returns:
            part, layer, head (only of heads); restored, the share of the gap that the base's activation restores, with
            its interval (restored_low, restored_high), the same in nats (restored_nats); broken, the share that the
            tuned model's activation breaks in the base; other_prompt, the share that the base's activation on another
            prompt restores; kept_nats and learned_nats, the change of log P(answer) of kept prompts, and of the new
            task's, with the base's activation put in. Not a number where it is unknown, as with a single prompt.

        Example:
            >>> patching.beside_controls(1)["part"].tolist()
            ['head', 'z', 'attention', 'mlp', 'residual']
        """
        units = [
            ModelPart(part, *at) if isinstance(at, Head) else ModelPart(part, at)
            for part in PARTS
            for at in self._strongest(min(k, getattr(self, part)[0, 0].numel()), part, "restores", CHOSEN_ON)
        ]  # fmt: skip

        def columns(direction: Direction, role: PatchRole) -> dict[str, np.ndarray]:
            prompts = REPORTED_ON if role in ("forgotten", "other prompt") else EVERY
            every = [self._effects(unit.part, direction, role)[prompts, unit.layer] for unit in units]
            own = [each if unit.head is None else each[:, unit.head] for each, unit in zip(every, units, strict=True)]
            return _statistics(torch.stack(own, 1), self._gaps(role)[prompts], direction)

        restored, other = columns("restores", "forgotten"), columns("restores", "other prompt")
        return _frame_of_parts(units).assign(
            restored=restored["share"], restored_low=restored["share_low"], restored_high=restored["share_high"],
            restored_nats=restored["nats"], broken=columns("breaks", "forgotten")["share"],
            other_prompt=other["share"], kept_nats=columns("restores", "kept")["nats"],
            learned_nats=columns("restores", "learned")["nats"],
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """What a notebook shows: the gap, and the strongest of each part beside its controls."""
        frame = self.beside_controls(1)
        gap = f"gap {text(self.gap.value)} nats ({text(self.gap.low)} to {text(self.gap.high)})"
        notes = [note("restored, broken, other_prompt: share of the gap")]
        if self.gap.value < LEAST_GAP:
            notes.append(note(f"a gap below {LEAST_GAP} nats has no shares"))
        rows = [*frame.itertuples(index=False, name=None)]
        return block("CheckpointPatching", f"{self._facts()}; {gap}", table([*map(str, frame)], rows), *notes)

    def _effects(self, part: Part, direction: Direction, role: PatchRole) -> Float[Tensor, "chosen layer *head"]:
        """Effects on the prompts of a role, in float64."""
        chosen = torch.tensor([each == role for each in self.roles])
        effects: Tensor = getattr(self, part)[DIRECTIONS.index(direction), chosen]
        return effects.double()

    def _gaps(self, role: PatchRole) -> Float[Tensor, " chosen"]:
        chosen = torch.tensor([each == role for each in self.roles])
        return (self.base - self.tuned)[chosen].double()

    @cached_property
    def _frame(self) -> pd.DataFrame:
        roles = [role for role in PATCH_ROLES if role in self.roles]
        frames = [self._frame_of(direction, role, part) for direction in DIRECTIONS for role in roles for part in PARTS]
        return pd.concat(frames, ignore_index=True)

    def _frame_of(self, direction: Direction, role: PatchRole, part: Part) -> pd.DataFrame:
        """The rows of one part, layer by layer."""
        effects = self._effects(part, direction, role)
        units = _frame_of_parts(all_parts([part], effects.shape[1], effects.shape[-1]))
        columns = _statistics(effects.flatten(1), self._gaps(role), direction)
        facts = {"direction": direction, "role": role, **units, **columns, "n": len(effects)}
        return pd.DataFrame(facts)


def _frame_of_parts(parts: list[ModelPart]) -> pd.DataFrame:
    return pd.DataFrame(parts, columns=["part", "layer", "head"]).astype({"head": "Int64"})


def _statistics(
    effects: Float[Tensor, "chosen unit"], gaps: Float[Tensor, " chosen"], direction: Direction
) -> dict[str, np.ndarray]:
    """Mean effect and share of the gap with their intervals, not a number where they are unknown."""
    unknown = torch.full_like(effects.sum(0), torch.nan)
    nats, share = (effects.mean(0), *t_interval(effects)), (unknown, unknown, unknown)
    if gaps.mean() >= LEAST_GAP:
        towards = effects * _towards_the_other(direction)
        share = towards.mean(0) / gaps.mean(), *ratio_interval(towards, gaps)
    names = [f"{name}{end}" for name in ("nats", "share") for end in ("", "_low", "_high")]
    return {name: each.numpy() for name, each in zip(names, (*nats, *share), strict=True)}


def _towards_the_other(direction: Direction) -> int:
    """The sign of an effect that moves the patched model towards the one whose activations it gets."""
    return 1 if direction == "restores" else -1
