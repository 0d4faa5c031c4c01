"""Columns of further evidence on what a checkpoint forgot, from the measures of it and of its base."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..records import Evaluation
from ..stats import (
    NOTHING,
    Interval,
    change_over_tasks,
    interval_over_tasks,
    lucky_changes,
    mcnemar,
    paired_drop,
    ratio,
)
from ..vocabulary import Condition
from .measure import AgainstNewTask, CheckpointMeasurements, Measurement
from .replies import spillover

NAN = float("nan")
LEAST_PROBABILITY = 1e-300  # whose logarithm is still finite


def evidence_columns(own: Measurement, base: Measurement, of: CheckpointMeasurements) -> dict[str, Any]:
    """All columns of further evidence on one task; ``of`` are the checkpoint's measures of all tasks."""
    return {
        **count_columns(own.answers, base.answers, own.prompts.options),
        **interval_columns(
            "probability_fall", change_over_tasks([own.answers.probabilities], [base.answers.probabilities])
        ),
        **token_columns(own.answers, base.answers),
        **subtraction_columns(own.against_new, base.answers),
        **spillover_columns(own, base),
        **_output_columns(of),
        "weight_distance": NAN if of.spectrum is None else of.spectrum.distance,
    }


def count_columns(own: Evaluation, base: Evaluation, options: int | None) -> dict[str, float]:
    """Prompts that went from right to wrong and back, and the same without what guessing alone would change."""
    n = base.n
    lost, won = int((base.correct & ~own.correct).sum()), int((own.correct & ~base.correct).sum())
    luck = NAN if options is None else lucky_changes(base.accuracy, own.accuracy, options)
    return {
        "lost": lost, "won": won, "mcnemar": mcnemar(lost, won),
        "lost_adjusted": lost / n - luck, "won_adjusted": won / n - luck,
    }  # fmt: skip


def token_columns(own: Evaluation, base: Evaluation) -> dict[str, float]:
    """Mean change of the log-probability of the answers' first token, and of the others given those before."""
    first, rest = (now - before for now, before in zip(_log_probabilities(own), _log_probabilities(base), strict=True))
    longer = _has_rest(own) | _has_rest(base)
    return {
        "first_token_change": first.mean().item(),
        "rest_change": rest[longer].mean().item() if longer.any() else NAN,
    }


def _log_probabilities(answers: Evaluation) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
    """Of the first token and of the rest of each answer, in nats."""
    whole, first = (
        each.double().clamp_min(LEAST_PROBABILITY).log()
        for each in (answers.probabilities, answers.first_token_probabilities)
    )
    return first, whole - first


def _has_rest(answers: Evaluation) -> Bool[Tensor, " prompt"]:
    """Which answers have tokens after the first; the probability of the others is that of their first."""
    return answers.probabilities != answers.first_token_probabilities


def subtraction_columns(against: AgainstNewTask | None, base: Evaluation) -> dict[str, Any]:
    """What subtracting the new task's vector does to clean prompts of an old task.

    Args:
        against: the measures that need the new task; None where it is unknown.
        base: how the base answers the prompts.
    """
    subtracted = random = layer = scale = NAN
    gain = fraction = in_probability = NOTHING
    if against is not None:
        measured, (layer, scale) = against.subtraction, against.point
        (name,) = Condition.MINUS_VECTOR.among(measured.conditions)
        at = [measured.conditions.index(each) for each in (Condition.CLEAN, name)]
        clean, without = measured.correct[at]
        randoms = [measured.accuracy(each) for each in Condition.MINUS_RANDOM.among(measured.conditions)]
        subtracted, random = without.double().mean().item(), sum(randoms) / len(randoms)
        gain = paired_drop(without, clean)
        fraction, in_probability = (
            interval_over_tasks([torch.stack([*here[at], there]).double()], _gain_of_what_was_lost)
            for here, there in ((measured.correct, base.correct), (measured.probabilities, base.probabilities))
        )
    return {
        "subtracted": subtracted, "subtracted_random": random, "subtracted_layer": float(layer),
        "subtracted_scale": abs(scale), **interval_columns("subtracted_gain", gain),
        **interval_columns("subtracted_fraction", fraction),
        **interval_columns("subtracted_fraction_p", in_probability),
    }  # fmt: skip


def _gain_of_what_was_lost(means: Float[Tensor, "3 *draw"]) -> Float[Tensor, "*draw"]:
    clean, without, base = means
    return ratio(without - clean, base - clean)


def spillover_columns(own: Measurement, base: Measurement) -> dict[str, Any]:
    """Whose answers the wrong ones are; the base's against the same answers of the new task, as a control."""
    inputs = own.prompts.inputs
    new = own.against_new.answers if own.against_new is not None else [()] * len(inputs)
    found, control = (spillover(~each.answers.correct, each.replies.texts, new, inputs) for each in (own, base))
    known = own.against_new is not None
    return {
        **interval_columns("spillover", found.share if known else NOTHING),
        "spillover_base": control.share.value if known else NAN,
        "copied": found.copied, "copied_base": control.copied,
    }  # fmt: skip


def _output_columns(of: CheckpointMeasurements) -> dict[str, float]:
    return {
        "kl_new": NAN if of.new_outputs is None else of.new_outputs.values.mean().item(),
        "kl_text": NAN if of.text_outputs is None else of.text_outputs.values.mean().item(),
    }


def spectrum_rows(name: str, of: CheckpointMeasurements) -> list[dict[str, Any]]:
    """One row per matrix of a checkpoint, as ``CheckpointComparison.spectrum_frame`` has them."""
    if of.spectrum is None:
        return []
    spectrum = of.spectrum
    columns = torch.stack([spectrum.change, spectrum.stable_rank, spectrum.rank90], 1).tolist()
    rows = []
    for matrix, (change, stable_rank, rank90) in zip(spectrum.matrices, columns, strict=True):
        layer, kind = matrix.split(".", 1)
        rows.append({
            "checkpoint": name, "layer": int(layer), "matrix": kind, "change": change, "stable_rank": stable_rank,
            "rank90": int(rank90),
        })  # fmt: skip
    return rows


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """A value and the two ends of its interval."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
