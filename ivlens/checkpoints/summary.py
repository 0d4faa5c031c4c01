"""A comparison's record from its measures: every task on every checkpoint, with intervals and verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..heads import head_overlap
from ..models import package_versions
from ..records import CheckpointComparison, ConditionComparison, HeadReading
from ..stats import (
    NOTHING,
    Interval,
    cosine,
    interval_over_tasks,
    jackknife,
    linear_cka,
    paired_drop,
    ratio,
    ratio_over_tasks,
    spearman,
)
from ..vocabulary import Condition, Verdict
from .config import CheckpointConfig
from .evidence import evidence_columns, interval_columns, spectrum_rows
from .measure import CheckpointMeasurements, Measurement
from .shown import prompt_rows, reply_rows
from .verdict import Decision, evidence_of, evidence_rows, judge

NAN = float("nan")
RECOVERY_COLUMNS = {"bare": Condition.BARE, "recovered": Condition.BASE_VECTOR,
                    "recovered_own": Condition.OWN_VECTOR}  # fmt: skip


def summarize(
    measurements: Mapping[str, CheckpointMeasurements],
    config: CheckpointConfig,
    base_facts: Mapping[str, Any],
    failures: Mapping[str, str],
    learned: tuple[str, ...],
) -> CheckpointComparison:
    """The comparison of all measurements, by checkpoint name, the base first."""
    names = tuple(measurements)
    base = measurements[names[0]]
    tasks = tuple(base.tasks)

    def table(value: Callable[[Measurement, Measurement], Tensor]) -> Float[Tensor, "checkpoint task *value"]:
        rows = [[value(each.tasks[task], base.tasks[task]) for task in tasks] for each in measurements.values()]
        return torch.stack([torch.stack(row) for row in rows])

    rows, recovery, evidence, spectrum, replies = [], [], [], [], []
    base_rows: dict[str, Mapping[str, Any]] = {}
    for name, checkpoint in measurements.items():
        shared = [_mean_vector(each) for each in (base, checkpoint)] if len(tasks) > 1 else []
        for task, own in checkpoint.tasks.items():
            labels = {"checkpoint": name, "task": task}
            row = task_row(own, base.tasks[task], shared, config)
            row |= _weight_columns(checkpoint.weight_change, base.tasks[task].heads)
            row |= evidence_columns(own, base.tasks[task], checkpoint)
            before = base_rows.setdefault(task, row)
            rows.append(labels | row | _verdict_columns(row, before, config))
            replies += reply_rows(labels, own)
            if checkpoint is not base:
                evidence += evidence_rows(labels, evidence_of(row, before, config.rule))
            conditions = own.recovery.to_frame().drop(columns="task").to_dict("records")
            recovery += [labels | {str(key): value for key, value in each.items()} for each in conditions]
        spectrum += spectrum_rows(name, checkpoint)
    settings = {"comparison": config.settings(), "steered": base.steered}
    return CheckpointComparison(
        tuple(rows), tuple(recovery),
        aie=table(lambda own, base: own.heads.effects.aie),
        stderr=table(lambda own, base: own.heads.effects.stderr),
        weights=torch.stack([each.weight_change for each in measurements.values()]),
        alignment=table(lambda own, base: alignment(own, base).mean(1)),
        stream_cosine=table(stream_cosine), cka=table(stream_cka),
        head_cosine=table(head_cosine), head_norm=table(head_norm),
        checkpoints=names, tasks=tasks, heads=tuple(each.heads.heads for each in base.tasks.values()),
        metric=config.metric, learned=learned, failures=dict(failures),
        evidence=tuple(evidence), spectrum=tuple(spectrum),
        prompts=tuple(row for each in base.tasks.values() for row in prompt_rows(each.prompts)),
        replies=tuple(replies),
        provenance={"model": dict(base_facts), "settings": settings, "versions": package_versions()},
    )  # fmt: skip


def task_row(own: Measurement, base: Measurement, shared: Sequence[Tensor], config: CheckpointConfig) -> dict[str, Any]:
    """The numbers of one task; ``shared`` are the mean vectors over tasks of the base and of the checkpoint."""
    drop = paired_drop(base.answers.correct, own.answers.correct)
    recovered, knowledge = recovered_fraction(own.recovery, base.recovery), NOTHING
    if own.knowledge is not None and base.knowledge is not None:
        knowledge = ratio_over_tasks([own.knowledge.probabilities], [base.knowledge.probabilities])
    return {
        **_answer_columns(own),
        **interval_columns("forgetting", drop),
        **interval_columns("knowledge_fraction", knowledge),
        **_vector_columns(own.heads, base.heads, shared),
        **_alignment_columns(own, base),
        **_head_columns(own.heads, base.heads, config.k),
        **{name: own.recovery.accuracy(condition) for name, condition in RECOVERY_COLUMNS.items()},
        "recovered_random": _random_accuracy(own.recovery),
        **interval_columns("recovered_fraction", recovered),
        **interval_columns("recovered_fraction_p", recovered_fraction(own.recovery, base.recovery, "probabilities")),
    }


def _verdict_columns(row: Mapping[str, Any], base: Mapping[str, Any], config: CheckpointConfig) -> dict[str, Any]:
    """The verdict on a task, and the numbers behind it; ``base`` is the base's row of the task."""
    if row is base:
        return Decision(Verdict.BASE, f"accuracy {row['accuracy']:.0%} of {row['n']} prompts").columns()
    return judge(row, base, config.rule).columns()


def recovered_fraction(
    own: ConditionComparison, base: ConditionComparison, of: Literal["correct", "probabilities"] = "correct"
) -> Interval:
    """What the base's vector adds to the accuracy on bare prompts, as a fraction of what it adds on the base.

    Or, instead of accuracy, to the probability of the answer.
    """
    columns = [
        getattr(recovery, of)[recovery.conditions.index(condition)]
        for recovery in (own, base)
        for condition in (Condition.BASE_VECTOR, Condition.BARE)
    ]

    def of_what_it_adds(means: Float[Tensor, "4 *draw"]) -> Float[Tensor, "*draw"]:
        steered, bare, base_steered, base_bare = means
        return ratio(steered - bare, base_steered - base_bare)

    return interval_over_tasks([torch.stack(columns).double()], of_what_it_adds)


def alignment(own: Measurement, base: Measurement) -> Float[Tensor, "layer prompt"]:
    """Cosine of the hidden state entering each layer with the base's vector, for each prompt."""
    vector = base.heads.parts.mean(0).sum(0).double()
    return cosine(own.hidden.residual, vector[None, None]).T


def stream_cosine(own: Measurement, base: Measurement) -> Float[Tensor, " layer"]:
    """Mean over prompts of the cosine between the hidden state and the base's, in each layer."""
    return cosine(own.hidden.residual, base.hidden.residual).mean(0)


def stream_cka(own: Measurement, base: Measurement) -> Float[Tensor, " layer"]:
    """Linear CKA of the hidden states with the base's, in each layer."""
    pairs = zip(own.hidden.residual.unbind(1), base.hidden.residual.unbind(1), strict=True)
    return torch.tensor([linear_cka(one, other) for one, other in pairs], dtype=torch.float64)


def head_cosine(own: Measurement, base: Measurement) -> Float[Tensor, " chosen"]:
    """Cosine of what each of the base's heads writes with what it wrote in the base."""
    return cosine(*_written(own, base))


def head_norm(own: Measurement, base: Measurement) -> Float[Tensor, " chosen"]:
    """Norm of what each of the base's heads writes, relative to what it wrote in the base."""
    now, before = _written(own, base)
    return now.norm(dim=-1) / before.norm(dim=-1)


def _written(own: Measurement, base: Measurement) -> tuple[Tensor, Tensor]:
    now, before = (each.heads.parts.mean(0).double() for each in (own, base))
    return now, before


def _mean_vector(checkpoint: CheckpointMeasurements) -> Float[Tensor, " d_model"]:
    """The mean over tasks of the vectors of the base's heads."""
    return torch.stack([each.heads.parts.mean(0).sum(0) for each in checkpoint.tasks.values()]).mean(0)


def _answer_columns(own: Measurement) -> dict[str, Any]:
    """Columns on answers to the clean prompts and the cloze texts."""
    answers, knowledge = own.answers, own.knowledge
    low, high = answers.accuracy_interval()
    return {
        "n": answers.n, "n_available": own.prompts.n_available,
        "accuracy": answers.accuracy, "accuracy_low": low, "accuracy_high": high,
        "chance": answers.mean_chance or 1 / (own.prompts.options or math.inf),
        "probability": answers.probability, "probability_stderr": answers.probability_stderr,
        "token_probability": answers.token_probability,
        "knowledge": NAN if knowledge is None else knowledge.probability,
        "knowledge_stderr": NAN if knowledge is None else knowledge.probability_stderr,
    }  # fmt: skip


def _vector_columns(own: HeadReading, base: HeadReading, shared: Sequence[Tensor]) -> dict[str, float]:
    """Columns on the vectors of the base's heads, with and without the mean over tasks, and of heads chosen anew."""
    now, before = own.parts.sum(1), base.parts.sum(1)
    norm, base_norm = now.mean(0).norm(), before.mean(0).norm()
    reselected_ratio = own.reselected.mean(0).norm() / base.reselected.mean(0).norm()
    centred = NAN
    if shared:
        centred = cosine(before.mean(0) - shared[0], now.mean(0) - shared[1]).item()
    z, base_z = own.z.mean(0).flatten(), base.z.mean(0).flatten()
    return {
        **interval_columns("cosine", jackknife(before, now, cosine)),
        **interval_columns("reselected_cosine", jackknife(base.reselected, own.reselected, cosine)),
        "norm": norm.item(),
        "norm_ratio": (norm / base_norm).item(),
        "reselected_norm_ratio": reselected_ratio.item(),
        "centred_cosine": centred,
        "z_cosine": cosine(base_z, z).item(),
    }


def _alignment_columns(own: Measurement, base: Measurement) -> dict[str, float]:
    """Columns on the cosine of the hidden state with the base's vector, at the layer where the vector is added."""
    now, before = (float(alignment(each, base)[each.steered.layer].mean()) for each in (own, base))
    return {"alignment": now, "alignment_change": now - before}


def _head_columns(own: HeadReading, base: HeadReading, k: int) -> dict[str, Any]:
    """Columns on the effects of all heads, and on the ``k`` strongest, compared with the base's."""
    before, now = base.effects.top(k), own.effects.top(k)
    return {
        "aie_correlation": spearman(base.effects.aie, own.effects.aie),
        "overlap": head_overlap(before, now),
        "heads_gained": [list(head) for head in now if head not in before],
        "heads_lost": [list(head) for head in before if head not in now],
    }


def _weight_columns(weight_change: Float[Tensor, "matrix layer head"], base: HeadReading) -> dict[str, float]:
    """Columns on the mean relative change of the matrices: of the base's heads of a task, and of all others."""
    known = ~weight_change.isnan().all(-1).all(-1)
    mean = weight_change[known].double().mean(0)
    chosen = torch.zeros_like(mean, dtype=torch.bool)
    for layer, head in base.heads:
        chosen[layer, head] = True
    return {"weight_change_top": mean[chosen].mean().item(), "weight_change_rest": mean[~chosen].mean().item()}


def _random_accuracy(recovery: ConditionComparison) -> float:
    accuracies = [recovery.accuracy(name) for name in Condition.RANDOM_VECTOR.among(recovery.conditions)]
    return sum(accuracies) / len(accuracies)
