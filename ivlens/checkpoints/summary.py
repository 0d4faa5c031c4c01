"""From cells to rows: one checkpoint's task beside the base's, every number with what it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..heads import head_overlap
from ..records import ConditionComparison, Evaluation, HeadReading, HiddenStates, spearman
from .cells import BASE_VECTOR, OWN_VECTOR
from .config import CheckpointConfig
from .statistics import (
    NOTHING,
    cosine,
    jackknife,
    linear_cka,
    paired_drop,
    recovered_fraction,
    remembered_fraction,
)
from .verdict import verdict


@dataclass(frozen=True)
class Measured:
    """All cells of one task on one checkpoint, and where the vectors were added."""

    answers: Evaluation
    knowledge: Evaluation | None
    reading: HeadReading
    hidden: HiddenStates
    recovery: ConditionComparison
    layer: int


def task_row(now: Measured, base: Measured, shared: Sequence[Tensor], config: CheckpointConfig) -> dict[str, Any]:
    """The numbers of one task; ``shared`` are the mean vectors over tasks of the base and of the checkpoint."""
    drop = paired_drop(base.answers.correct, now.answers.correct)
    fraction = _fraction(now, base)
    known = NOTHING
    if now.knowledge is not None and base.knowledge is not None:
        known = remembered_fraction(base.knowledge.probabilities, now.knowledge.probabilities)
    said, because = verdict(base.answers.accuracy, drop, fraction, known, config.rule)
    if now is base:
        said, because = "base", f"accuracy {base.answers.accuracy:.2f}"
    low, high = now.answers.accuracy_interval()
    row = {"n": now.answers.n, "accuracy": now.answers.accuracy, "accuracy_low": low, "accuracy_high": high}
    row |= {"probability": now.answers.probability, "probability_stderr": now.answers.probability_stderr}
    row |= {"token_probability": now.answers.token_probability}
    row |= _known(now) | _interval("forgetting", drop)
    row |= {"knowledge_fraction": known[0]} | _vector(now.reading, base.reading, shared)
    aligned, before = (float(alignment(each, base)[each.layer].mean()) for each in (now, base))
    row |= {"alignment": aligned, "alignment_change": aligned - before}
    row |= _heads(now.reading, base.reading, config.k)
    row |= {name: now.recovery.accuracy(condition) for name, condition in _CONDITIONS.items()}
    row |= {"recovered_random": _random(now.recovery)} | _interval("recovered_fraction", fraction)
    return row | {"verdict": said, "because": because}


_CONDITIONS = {"bare": "bare", "recovered": BASE_VECTOR, "recovered_own": OWN_VECTOR}


def alignment(now: Measured, base: Measured) -> Float[Tensor, "layer prompt"]:
    """Cosine of the hidden state entering each layer with the base's vector, for each prompt."""
    theta = base.reading.parts.mean(0).sum(0).double()
    return cosine(now.hidden.residual, theta[None, None]).T


def stream_cosine(now: Measured, base: Measured) -> Float[Tensor, " layer"]:
    """Mean over prompts of the cosine between the hidden state and the base's, in each layer."""
    return cosine(now.hidden.residual, base.hidden.residual).mean(0)


def stream_cka(now: Measured, base: Measured) -> Float[Tensor, " layer"]:
    """Linear CKA of the hidden states with the base's, in each layer."""
    pairs = zip(now.hidden.residual.unbind(1), base.hidden.residual.unbind(1), strict=True)
    return torch.tensor([linear_cka(one, two) for one, two in pairs], dtype=torch.float64)


def head_change(now: HeadReading, base: HeadReading) -> tuple[Float[Tensor, " chosen"], Float[Tensor, " chosen"]]:
    """Of what the base's heads write: cosine with, and norm relative to, what they wrote in the base."""
    one, two = (each.parts.mean(0).double() for each in (now, base))
    return cosine(one, two), one.norm(dim=-1) / two.norm(dim=-1)


def _vector(now: HeadReading, base: HeadReading, shared: Sequence[Tensor]) -> dict[str, float]:
    """Both readings of the vector: the base's heads kept, and heads chosen anew; and without what all tasks share."""
    kept, before = now.parts.sum(1), base.parts.sum(1)
    row = _interval("cosine", jackknife(before, kept, cosine))
    row |= _interval("reselected_cosine", jackknife(base.reselected, now.reselected, cosine))
    row["norm"] = kept.mean(0).norm().item()
    row["norm_ratio"] = (kept.mean(0).norm() / before.mean(0).norm()).item()
    row["reselected_norm_ratio"] = (now.reselected.mean(0).norm() / base.reselected.mean(0).norm()).item()
    centred = cosine(before.mean(0) - shared[0], kept.mean(0) - shared[1]).item() if shared else float("nan")
    row["centred_cosine"] = centred
    z = [each.z.mean(0).flatten() for each in (base, now)]
    return row | {"z_cosine": cosine(z[0], z[1]).item()}


def _heads(now: HeadReading, base: HeadReading, k: int) -> dict[str, Any]:
    one, two = base.effects.top(k), now.effects.top(k)
    return {
        "aie_correlation": spearman(base.effects.aie, now.effects.aie), "overlap": head_overlap(one, two),
        "heads_gained": [list(head) for head in two if head not in one],
        "heads_lost": [list(head) for head in one if head not in two],
    }  # fmt: skip


def _fraction(now: Measured, base: Measured) -> tuple[float, float, float]:
    correct = [
        each.recovery.correct[each.recovery.conditions.index(condition)]
        for each in (base, now) for condition in ("bare", BASE_VECTOR)
    ]  # fmt: skip
    return recovered_fraction(*correct)


def _known(now: Measured) -> dict[str, float]:
    known = now.knowledge
    nothing = float("nan")
    return {
        "knowledge": nothing if known is None else known.probability,
        "knowledge_stderr": nothing if known is None else known.probability_stderr,
    }


def _random(recovery: ConditionComparison) -> float:
    found = [recovery.accuracy(name) for name in recovery.conditions if name.startswith("random")]
    return sum(found) / len(found)


def _interval(name: str, value: tuple[float, float, float]) -> dict[str, float]:
    return {name: value[0], f"{name}_low": value[1], f"{name}_high": value[2]}


def mean_vector(readings: Sequence[HeadReading]) -> Tensor:
    """The mean over tasks of the vectors of the base's heads."""
    return torch.stack([each.parts.mean(0).sum(0) for each in readings]).mean(0)
