"""``rejudge``: the verdict's rule applied again to a comparison, with another rule or with further evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from ..checks import checked
from ..errors import one_of
from ..records import CheckpointComparison, Relearning
from ..records.tables import interval_in
from ..stats import Interval, difference, quotient
from .evidence import interval_columns
from .verdict import VerdictRule, evidence_of, evidence_rows, judge


@checked
def rejudge(
    comparison: CheckpointComparison,
    rule: VerdictRule | None = None,
    *,
    relearned: Mapping[str, Sequence[Relearning]] | None = None,
) -> CheckpointComparison:
    """Apply the verdict's rule again to a comparison's numbers; nothing is measured.

    Args:
        comparison: a record of ``compare_checkpoints``, of this or an earlier version.
        rule: the thresholds (None: those of the comparison).
        relearned: relearning probes of its checkpoints, by the checkpoints' names; a probe is evidence on its task.

    Returns:
        The comparison with the verdicts, the evidence and the columns on relearning.

    Raises:
        ArgumentError: a checkpoint or task that is not the comparison's.

    Example:
        >>> from ivlens.checkpoints import VerdictRule, rejudge
        >>> rejudge(comparison, VerdictRule(tolerated=1.0)).to_frame()["verdict"].tolist()
        ['base', 'not an ability of the base']
    """
    base, *others = comparison.checkpoints
    probes: dict[tuple[str, str], Relearning] = {}
    for name, found in (relearned or {}).items():
        one_of("checkpoint", name, tuple(others))
        for probe in found:
            one_of("task", probe.task, comparison.tasks)
            probes[name, probe.task] = probe
    rule = rule or rule_of(comparison)
    before = {row["task"]: row for row in comparison.rows if row["checkpoint"] == base}
    rows, evidence = [], []
    for row in comparison.rows:
        labels = {"checkpoint": row["checkpoint"], "task": row["task"]}
        if row["checkpoint"] != base:
            if (row["checkpoint"], row["task"]) in probes:
                probe = probes[row["checkpoint"], row["task"]]
                row = row | _relearning_columns(probe, interval_in(row, "forgetting"))
            row = row | judge(row, before[row["task"]], rule).columns()
            evidence += evidence_rows(labels, evidence_of(row, before[row["task"]], rule))
        rows.append(row)
    provenance = _with_rule(comparison.provenance, rule)
    return replace(comparison, rows=tuple(rows), evidence=tuple(evidence), provenance=provenance)


def _with_rule(provenance: Mapping[str, Any], rule: VerdictRule) -> dict[str, Any]:
    """The provenance of a comparison, whose settings name the rule of its verdicts."""
    settings = dict(provenance.get("settings") or {})
    settings["comparison"] = {**(settings.get("comparison") or settings), "rule": asdict(rule)}
    return {**provenance, "settings": settings}


def _relearning_columns(probe: Relearning, forgetting: Interval) -> dict[str, float]:
    """What the examples gain; and beyond the control's gain, as a fraction of what was lost, if anything surely was."""
    gain = probe.gain
    fraction = quotient(difference(gain, probe.anew_gain), forgetting)
    return {
        "relearned": probe.after.double().mean().item(), **interval_columns("relearned_gain", gain),
        **interval_columns("relearned_fraction", fraction), "relearned_n": float(len(probe.after)),
        "anew_gain": probe.anew_gain.value,
    }  # fmt: skip


def rule_of(comparison: CheckpointComparison) -> VerdictRule:
    """The rule that a comparison was made with; thresholds that were added since have their defaults."""
    settings: Any = comparison.provenance.get("settings") or {}
    saved = (settings.get("comparison") or settings).get("rule") or {}
    return VerdictRule(**{each.name: saved[each.name] for each in fields(VerdictRule) if each.name in saved})
